import type { ApiGenericResource, ApiMount, ApiPort } from "./api-types.ts";
import { parseBytes, parseCount, parsePair } from "./units.ts";

/** "8080:80/udp", or "mode=host,published=8080,target=80,protocol=udp"; ranges give several. */
export function parsePorts(text: string): ApiPort[] {
  return text.includes("=") ? [parseLongPort(text)] : parseShortPort(text);
}

export function parseMount(text: string): ApiMount {
  const mount: ApiMount = { Type: "volume", Target: "" };
  for (const [key, value] of pairs(text)) {
    switch (key) {
      case "type":
        mount.Type = value;
        break;
      case "source":
      case "src":
        mount.Source = value;
        break;
      case "target":
      case "destination":
      case "dst":
        mount.Target = value;
        break;
      case "readonly":
      case "ro":
        mount.ReadOnly = truth(key, value);
        break;
      case "consistency":
        mount.Consistency = value;
        break;
      case "bind-propagation":
        mount.BindOptions = { ...mount.BindOptions, Propagation: value };
        break;
      case "bind-create-src":
        mount.BindOptions = { ...mount.BindOptions, CreateMountpoint: truth(key, value) };
        break;
      case "volume-nocopy":
        mount.VolumeOptions = { ...mount.VolumeOptions, NoCopy: truth(key, value) };
        break;
      case "volume-label": {
        const [name, content] = parsePair(value);
        mount.VolumeOptions = {
          ...mount.VolumeOptions,
          Labels: { ...(mount.VolumeOptions?.["Labels"] as object), [name]: content },
        };
        break;
      }
      case "tmpfs-size":
        mount.TmpfsOptions = { ...mount.TmpfsOptions, SizeBytes: parseBytes(value) };
        break;
      case "tmpfs-mode":
        mount.TmpfsOptions = { ...mount.TmpfsOptions, Mode: Number.parseInt(value, 8) };
        break;
      default:
        throw new Error(`unexpected key '${key}' in '${text}'`);
    }
  }
  if (mount.Target === "") throw new Error(`invalid mount '${text}': target is required`);
  return mount;
}

/** "net", or "name=net,alias=web". */
export function parseNetwork(text: string): { Target: string; Aliases?: string[] } {
  if (!text.includes("=")) return { Target: text };
  const parts = pairs(text);
  const target = parts.find(([key]) => key === "name")?.[1];
  if (target === undefined) throw new Error(`invalid network '${text}': name is required`);
  const aliases = parts.filter(([key]) => key === "alias").map(([, value]) => value);
  return aliases.length > 0 ? { Target: target, Aliases: aliases } : { Target: target };
}

export function parseUlimit(text: string): { Name: string; Soft: number; Hard: number } {
  const match = /^(\w+)=(-?\d+)(?::(-?\d+))?$/.exec(text);
  if (match === null) throw new Error(`invalid ulimit '${text}': expected such as nofile=1024:2048`);
  const soft = Number(match[2]);
  return { Name: match[1] ?? "", Soft: soft, Hard: match[3] === undefined ? soft : Number(match[3]) };
}

/** "spread=node.labels.zone". */
export function parsePreference(text: string): { Spread: { SpreadDescriptor: string } } {
  const [strategy, descriptor] = parsePair(text);
  if (strategy !== "spread" || descriptor === "") {
    throw new Error(`invalid placement preference '${text}': expected such as spread=node.labels.zone`);
  }
  return { Spread: { SpreadDescriptor: descriptor } };
}

/** "gpu=2": a service asks for a count, also of what nodes offer by name. */
export function parseGenericResource(text: string): ApiGenericResource {
  const [kind, value] = parsePair(text);
  if (kind === "" || !/^\d+$/.test(value)) {
    throw new Error(`invalid generic-resource request '${text}': expected a kind and a count such as gpu=2`);
  }
  return { DiscreteResourceSpec: { Kind: kind, Value: Number(value) } };
}

function parseLongPort(text: string): ApiPort {
  const port: ApiPort = { Protocol: "tcp", TargetPort: 0, PublishMode: "ingress" };
  for (const [key, value] of pairs(text)) {
    switch (key) {
      case "mode":
        port.PublishMode = value;
        break;
      case "published":
        port.PublishedPort = parseCount(value);
        break;
      case "target":
        port.TargetPort = parseCount(value);
        break;
      case "protocol":
        port.Protocol = value;
        break;
      default:
        throw new Error(`unexpected key '${key}' in '${text}'`);
    }
  }
  if (port.TargetPort === 0) throw new Error(`invalid port '${text}': target is required`);
  return port;
}

function parseShortPort(text: string): ApiPort[] {
  const match =
    /^(?:(?:\d+\.\d+\.\d+\.\d+|\[[^\]]*\]):)?(?:(\d+)(?:-(\d+))?:)?(\d+)(?:-(\d+))?(?:\/(tcp|udp|sctp))?$/.exec(
      text,
    );
  if (match === null) throw new Error(`invalid port '${text}': expected such as 8080:80 or 8080:80/udp`);
  const [, published, publishedEnd, target = "", targetEnd, protocol = "tcp"] = match;
  const count = Number(targetEnd ?? target) - Number(target) + 1;
  const publishedCount =
    published === undefined ? count : Number(publishedEnd ?? published) - Number(published) + 1;
  if (count < 1 || count !== publishedCount)
    throw new Error(`invalid port '${text}': the ranges differ in length`);
  return Array.from({ length: count }, (_, index) => ({
    Protocol: protocol,
    TargetPort: Number(target) + index,
    ...(published !== undefined && { PublishedPort: Number(published) + index }),
    PublishMode: "ingress",
  }));
}

function pairs(text: string): [string, string][] {
  return text.split(",").map((part) => {
    const [key, value] = parsePair(part);
    return [key.trim().toLowerCase(), value];
  });
}

function truth(key: string, value: string): boolean {
  if (value === "" || value === "true" || value === "1") return true;
  if (value === "false" || value === "0") return false;
  throw new Error(`invalid value for ${key}: '${value}'`);
}
