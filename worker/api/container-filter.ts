/** Filters of the list of containers: parsed once, with Docker's refusals. Pure. */
import { hasLabel } from "../../model/meta.ts";
import { ClusterError } from "../../model/errors.ts";
import { parseFilters } from "../../runtime/http.ts";
import { findRecord } from "../containers/identity.ts";
import type { ContainerRecord } from "../engine/engine.ts";
import { taskLabel } from "../task/request.ts";
import { type ContainerView, outcomeIn, stateWord } from "./container-print.ts";
import { printPortList } from "./endpoint-print.ts";
import { nameMatches } from "./name-filter.ts";

const keys = [
  "ancestor",
  "before",
  "exited",
  "expose",
  "health",
  "id",
  "is-task",
  "isolation",
  "label",
  "name",
  "network",
  "publish",
  "since",
  "status",
  "volume",
] as const;
type Key = (typeof keys)[number];

const states = ["paused", "restarting", "removing", "running", "dead", "created", "exited"];
const healths = ["starting", "healthy", "unhealthy", "none"];
const portMost = 65_535;

export interface ContainerFilter {
  /** Somebody who asks for a state wants to see containers that do not run as well. */
  readonly wantsStopped: boolean;
  readonly matches: (view: ContainerView) => boolean;
}

type Test = (view: ContainerView) => boolean;

/**
 * @param records - All containers of the host, for `before` and `since`.
 * @throws {ClusterError} `invalid-argument`; `not-found` for a container that others are to be older or newer than.
 */
export function parseContainerFilter(
  text: string | null,
  records: readonly ContainerRecord[],
): ContainerFilter {
  const filters = parseFilters(text, keys);
  const tests = [...filters].map(([key, values]): Test => {
    const each = values.map((value) => testOf(key as Key, value, records));
    // Labels must all be there; of everything else one is enough.
    return key === "label"
      ? (view) => each.every((test) => test(view))
      : (view) => each.some((test) => test(view));
  });
  return {
    wantsStopped: filters.has("status"),
    matches: (view) => tests.every((test) => test(view)),
  };
}

function testOf(key: Key, value: string, records: readonly ContainerRecord[]): Test {
  switch (key) {
    case "id":
      return ({ record }) => nameMatches(record.id, value);
    case "name":
      return ({ record }) => nameMatches(record.name, value) || nameMatches(`/${record.name}`, value);
    case "label":
      return ({ record }) => hasLabel(record.labels, value);
    case "status":
      if (!states.includes(value)) throw invalid(key, value);
      return (view) => stateWord(view) === value;
    case "health":
      if (!healths.includes(value))
        throw new ClusterError("invalid-argument", `Unrecognised filter value for health: ${value}`);
      return ({ health }) => (health?.status ?? "none") === value;
    case "is-task": {
      const wanted = parseBoolean(key, value);
      return ({ record }) => (record.labels[taskLabel] !== undefined) === wanted;
    }
    case "exited": {
      if (!/^[+-]?\d+$/.test(value)) {
        throw new ClusterError(
          "invalid-argument",
          `strconv.Atoi: parsing ${JSON.stringify(value)}: invalid syntax`,
        );
      }
      const code = Number(value);
      return (view) => view.record.status.state === "stopped" && outcomeIn(view).exitCode === code;
    }
    case "isolation":
      return () => value === "" || value === "default"; // As all containers of Linux.
    case "ancestor":
      return ({ record }) => isMadeOf(record, value);
    case "volume":
      return ({ record }) => record.mounts.some(({ name, target }) => name === value || target === value);
    case "network":
      return ({ endpoints }) =>
        endpoints.some(({ name, networkId }) => name === value || networkId === value);
    case "publish":
    case "expose": {
      const wanted = parsePorts(value);
      const field = key === "publish" ? "PublicPort" : "PrivatePort";
      return ({ ports, exposed }) =>
        printPortList(ports, exposed).some(
          (port) => port.Type === wanted.protocol && isWithin(port[field], wanted),
        );
    }
    case "before":
    case "since": {
      const other = findRecord(records, value);
      if (other === undefined) throw new ClusterError("not-found", `No such container: ${value}`);
      const { createdAtMs } = other;
      return key === "before"
        ? ({ record }) => record.createdAtMs < createdAtMs
        : ({ record }) => record.createdAtMs > createdAtMs;
    }
  }
}

function isMadeOf({ image, imageId }: ContainerRecord, ancestor: string): boolean {
  return (
    image === ancestor ||
    imageId.startsWith(ancestor) ||
    imageId.startsWith(`sha256:${ancestor}`) ||
    image.startsWith(`${ancestor}@`) ||
    image === `${ancestor}:latest` ||
    `${image}:latest` === ancestor
  );
}

function isWithin(port: number | undefined, { first, last }: { first: number; last: number }): boolean {
  return port !== undefined && port >= first && port <= last;
}

/** "80", "80/udp" or "80-90/tcp". */
function parsePorts(text: string): { first: number; last: number; protocol: string } {
  const [, from = "", to = from, protocol = "tcp"] =
    /^(\d+)(?:-(\d+))?(?:\/(tcp|udp|sctp))?$/.exec(text) ?? [];
  const [first, last] = [Number(from), Number(to)];
  if (from === "" || first > last || last > portMost)
    throw new ClusterError(
      "invalid-argument",
      `invalid filter: ${JSON.stringify(text)} is no port or range of ports`,
    );
  return { first, last, protocol };
}

function parseBoolean(key: Key, value: string): boolean {
  if (["1", "true"].includes(value)) return true;
  if (["0", "false"].includes(value)) return false;
  throw new ClusterError("invalid-argument", `invalid filter '${key}=[${value}]'`);
}

function invalid(key: Key, value: string): ClusterError {
  return new ClusterError("invalid-argument", `invalid filter '${key}=${value}'`);
}
