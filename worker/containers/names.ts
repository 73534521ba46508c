/** Names of containers: those that are given, and new ones for containers that nobody named. */
import { ClusterError } from "../../model/errors.ts";
import type { Random } from "../../runtime/random.ts";
import type { Engine } from "../engine/engine.ts";

const nameForm = /^[a-zA-Z0-9][a-zA-Z0-9_.-]+$/;
const nameAttempts = 6;

const qualities = (
  "agile amber bold brave breezy bright calm clear clever cosy crisp daring deft eager easy fair fleet fond free fresh " +
  "gentle glad golden grand happy hardy honest humble jolly keen kind lively loyal lucid merry mild neat nimble noble " +
  "patient placid plain proud quick quiet rapid ready rosy sharp shiny silent smooth snug solid steady still stout sunny " +
  "swift tidy tranquil trusty vivid warm wise witty young zesty"
).split(" ");
const people = (
  "abel bell bohr bose boyle brahe cantor carson cauchy codd cori cray curie darwin dijkstra dirac euclid euler fermat " +
  "fermi fourier galois gauss germain godel goodall hamilton hertz hilbert hodgkin hopper huygens hypatia jacobi joule " +
  "kepler knuth kovalevskaya lagrange lamarr lamport laplace leibniz lovelace maxwell mccarthy meitner mendel mirzakhani " +
  "newton noether ohm pascal pasteur pauling perlman planck poincare ptolemy ramanujan riemann ritchie shannon sinclair " +
  "tesla thompson torvalds turing volta wiles wilson wing yalow"
).split(" ");

/** @param attempt - From the second attempt on a number makes it longer. */
function randomName(random: Random, attempt: number): string {
  const name = `${pick(random, qualities)}_${pick(random, people)}`;
  return attempt === 0 ? name : `${name}${random.integer(10 ** attempt)}`;
}

function pick(random: Random, words: readonly string[]): string {
  return words[random.integer(words.length)] ?? "";
}

/** Holds a name between its choice and the record that has it. */
export class Names {
  readonly #deps: { readonly engine: Engine; readonly random: Random };
  readonly #taken = new Set<string>();

  constructor(deps: { readonly engine: Engine; readonly random: Random }) {
    this.#deps = deps;
  }

  /** @throws {ClusterError} `invalid-argument` or `name-conflict` with Docker's texts. */
  async take(name: string | undefined): Promise<string> {
    const { engine, random } = this.#deps;
    const records = await engine.list();
    const holderOf = (wanted: string): string | undefined =>
      records.find((record) => record.name === wanted)?.id ?? (this.#taken.has(wanted) ? "" : undefined);
    if (name === undefined || name === "") {
      for (let attempt = 0; attempt < nameAttempts; attempt++) {
        const chosen = randomName(random, attempt);
        if (holderOf(chosen) !== undefined) continue;
        this.#taken.add(chosen);
        return chosen;
      }
      throw new ClusterError("internal", "cannot find a free name for the container: name it yourself");
    }
    const plain = name.startsWith("/") ? name.slice(1) : name;
    if (!nameForm.test(plain)) {
      throw new ClusterError(
        "invalid-argument",
        `Invalid container name (${plain}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed`,
      );
    }
    const holder = holderOf(plain);
    if (holder !== undefined) {
      throw new ClusterError(
        "name-conflict",
        `Conflict. The container name "/${plain}" is already in use by container "${holder}". You have to remove (or rename) that container to be able to reuse that name.`,
      );
    }
    this.#taken.add(plain);
    return plain;
  }

  release(name: string): void {
    this.#taken.delete(name);
  }
}
