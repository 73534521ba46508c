/** `--change` of `docker import`: instructions of a Dockerfile that alter an image's configuration. Pure. */
import { ClusterError } from "../../model/errors.ts";

type Config = Readonly<Record<string, unknown>>;

/** @throws {ClusterError} `invalid-argument` for what is no such instruction. */
export function applyChanges(config: Config, changes: readonly string[]): Config {
  return changes.flatMap((text) => text.split("\n")).reduce(applyChange, config);
}

function applyChange(config: Config, line: string): Config {
  const [, word = "", rest = ""] = /^\s*(\S+)\s*(.*?)\s*$/.exec(line) ?? [];
  const instruction = word.toUpperCase();
  if (instruction === "") return config;
  if (rest === "")
    throw new ClusterError("invalid-argument", `${instruction} requires at least one argument`);
  switch (instruction) {
    case "CMD":
      return { ...config, Cmd: commandOf(rest) };
    case "ENTRYPOINT":
      return { ...config, Entrypoint: commandOf(rest) };
    case "ENV": {
      const added = pairsOf(rest, instruction);
      const names = added.map(([name]) => `${name}=`);
      const before = textsOf(config["Env"]).filter((text) => !names.some((name) => text.startsWith(name)));
      return { ...config, Env: [...before, ...added.map(([name, value]) => `${name}=${value}`)] };
    }
    case "LABEL":
      return {
        ...config,
        Labels: { ...objectOf(config["Labels"]), ...Object.fromEntries(pairsOf(rest, instruction)) },
      };
    case "EXPOSE": {
      const ports = rest.split(/\s+/).map((port) => (port.includes("/") ? port : `${port}/tcp`));
      const wrong = ports.find((port) => !/^\d+(-\d+)?\/(tcp|udp|sctp)$/.test(port));
      if (wrong !== undefined) throw new ClusterError("invalid-argument", `invalid containerPort: ${wrong}`);
      return { ...config, ExposedPorts: { ...objectOf(config["ExposedPorts"]), ...keysOf(ports) } };
    }
    case "VOLUME":
      return {
        ...config,
        Volumes: { ...objectOf(config["Volumes"]), ...keysOf(listOf(rest) ?? rest.split(/\s+/)) },
      };
    case "USER":
      return { ...config, User: rest };
    case "WORKDIR":
      return { ...config, WorkingDir: rest.startsWith("/") ? rest : `/${rest}` };
    case "STOPSIGNAL":
      return { ...config, StopSignal: rest };
    case "ONBUILD":
      return { ...config, OnBuild: [...textsOf(config["OnBuild"]), rest] };
    default:
      throw new ClusterError("invalid-argument", `${word} is not a valid change command`);
  }
}

/** The JSON form as it is, anything else for a shell. */
function commandOf(text: string): string[] {
  return listOf(text) ?? ["/bin/sh", "-c", text];
}

function listOf(text: string): string[] | undefined {
  if (!text.startsWith("[")) return undefined;
  try {
    const list = JSON.parse(text) as unknown;
    return Array.isArray(list) && list.every((item) => typeof item === "string") ? list : undefined;
  } catch {
    return undefined; // A shell command may begin with a bracket.
  }
}

/** "a=b c='d e'", or the old form "a b". */
function pairsOf(text: string, instruction: string): [string, string][] {
  const words = text.match(/(?:[^\s"'\\]|\\.|"(?:[^"\\]|\\.)*"|'[^']*')+/g) ?? [];
  if (!(words[0] ?? "").includes("=")) {
    const [, name = "", value = ""] = /^(\S+)\s+(.*)$/.exec(text) ?? [];
    if (name === "") throw new ClusterError("invalid-argument", `${instruction} must have two arguments`);
    return [[name, value]];
  }
  return words.map((word) => {
    const split = word.indexOf("=");
    if (split <= 0) {
      throw new ClusterError(
        "invalid-argument",
        `Syntax error - can't find = in ${JSON.stringify(word)}. Must be of the form: name=value`,
      );
    }
    return [unquoted(word.slice(0, split)), unquoted(word.slice(split + 1))];
  });
}

function unquoted(text: string): string {
  return text.replaceAll(
    /"((?:[^"\\]|\\.)*)"|'([^']*)'|\\(.)/g,
    (_whole, double?: string, single?: string, one?: string) =>
      double === undefined ? (single ?? one ?? "") : double.replaceAll(/\\(["\\$])/g, "$1"),
  );
}

function keysOf(keys: readonly string[]): Record<string, object> {
  return Object.fromEntries(keys.map((key) => [key, {}]));
}

function textsOf(value: unknown): string[] {
  return Array.isArray(value) ? value.filter((item) => typeof item === "string") : [];
}

function objectOf(value: unknown): Record<string, unknown> {
  return typeof value === "object" && value !== null ? (value as Record<string, unknown>) : {};
}
