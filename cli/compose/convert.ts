import { convertService } from "./convert-service.ts";
import { namespaceLabel, networkKeys, scopedName, toRecord } from "./names.ts";
import type { ComposeFile, ComposeNetwork, ComposePayload, StackService } from "./types.ts";

/** A network of the stack, or one that must be there already. */
export interface StackNetwork {
  readonly name: string;
  readonly external: boolean;
  /** Body of POST /networks/create; absent for external networks. */
  readonly body?: Readonly<Record<string, unknown>>;
}

export interface StackPayload {
  readonly name: string;
  readonly external: boolean;
  /** Path as written in the file; absent for external ones. */
  readonly file?: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly templateDriver?: string;
}

export interface Stack {
  readonly networks: readonly StackNetwork[];
  readonly secrets: readonly StackPayload[];
  readonly configs: readonly StackPayload[];
  readonly services: readonly StackService[];
}

/** The objects that make up a stack. Pure; files and the environment were read before. */
export function convertStack(stack: string, compose: ComposeFile): Stack {
  const services = Object.entries(compose.services ?? {});
  const used = new Set(services.flatMap(([, service]) => networkKeys(service.networks)));
  const networks = [...used].map((key) =>
    convertNetwork(stack, key, compose.networks?.[key], compose.networks),
  );
  return {
    networks,
    secrets: Object.entries(compose.secrets ?? {}).map(([key, payload]) =>
      convertPayload(stack, key, payload),
    ),
    configs: Object.entries(compose.configs ?? {}).map(([key, payload]) =>
      convertPayload(stack, key, payload),
    ),
    services: services.map(([key, service]) =>
      convertService({
        stack,
        key,
        service,
        networkName: (network) => networkNameOf(stack, network, compose.networks?.[network]),
        objectName: (kind, name) =>
          payloadNameOf(
            stack,
            name,
            kind === "secret" ? compose.secrets?.[name] : compose.configs?.[name],
            kind,
          ),
        volume: (name) => ({ declared: name in (compose.volumes ?? {}), ...compose.volumes?.[name] }),
      }),
    ),
  };
}

const predefinedNetworks = new Set(["host", "bridge", "none"]);

function networkNameOf(stack: string, key: string, network: ComposeNetwork | null | undefined): string {
  return scopedName(stack, key, network);
}

function convertNetwork(
  stack: string,
  key: string,
  network: ComposeNetwork | null | undefined,
  declared: ComposeFile["networks"],
): StackNetwork {
  if (key !== "default" && !(key in (declared ?? {}))) throw new Error(`undefined network "${key}"`);
  const name = networkNameOf(stack, key, network);
  const external = network?.external !== undefined && network.external !== false && network.external !== null;
  if (external || predefinedNetworks.has(name)) return { name, external: true };
  const subnets = (network?.ipam?.config ?? []).flatMap(({ subnet }) =>
    subnet === undefined ? [] : [{ Subnet: subnet }],
  );
  return {
    name,
    external: false,
    body: {
      Name: name,
      CheckDuplicate: true,
      Driver: network?.driver ?? "overlay",
      Internal: network?.internal ?? false,
      Attachable: network?.attachable ?? false,
      Labels: { ...toRecord(network?.labels), [namespaceLabel]: stack },
      Options: Object.fromEntries(
        Object.entries(network?.driver_opts ?? {}).map(([option, value]) => [option, String(value)]),
      ),
      ...(subnets.length > 0 && { IPAM: { Driver: network?.ipam?.driver ?? "default", Config: subnets } }),
    },
  };
}

function convertPayload(stack: string, key: string, payload: ComposePayload): StackPayload {
  const external = payload.external !== undefined && payload.external !== false;
  return {
    name: scopedName(stack, key, payload),
    external,
    ...(!external && payload.file !== undefined && { file: payload.file }),
    labels: { ...toRecord(payload.labels), [namespaceLabel]: stack },
    ...(payload.template_driver !== undefined && { templateDriver: payload.template_driver }),
  };
}

function payloadNameOf(
  stack: string,
  key: string,
  payload: ComposePayload | undefined,
  kind: "secret" | "config",
): string {
  if (payload === undefined) throw new Error(`undefined ${kind} "${key}"`);
  return scopedName(stack, key, payload);
}
