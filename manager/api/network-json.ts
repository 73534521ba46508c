/** A swarm network: Engine API JSON to model and back. */
import { parseCidr, printCidr } from "../../model/address.ts";
import { ClusterError } from "../../model/errors.ts";
import {
  askedSubnets,
  isPredefined,
  type Network,
  type NetworkSpec,
  requireIpv4,
  type SubnetConfig,
  subnetsOf,
} from "../../model/network.ts";
import { apiTime } from "../../runtime/http.ts";
import type { JsonObject } from "./json-reader.ts";
import { type Json, printMeta, unlessEmpty } from "./json-writer.ts";
import { present } from "./parse.ts";

/** @throws {ClusterError} for what a swarm network cannot be. */
export function parseNetworkSpec(json: JsonObject): NetworkSpec {
  const ipam = json.object("IPAM");
  const ipamDriver = ipam.text("Driver");
  if (ipamDriver !== "" && ipamDriver !== "default") {
    throw new ClusterError("unimplemented", `IPAM driver "${ipamDriver}" is not available; default is`);
  }
  if (json.flag("ConfigOnly") || json.object("ConfigFrom").text("Network") !== "") {
    throw new ClusterError(
      "unimplemented",
      "configuration-only networks are not available for driver overlay",
    );
  }
  requireIpv4("overlay", { ipv4: json.optionalFlag("EnableIPv4"), ipv6: json.flag("EnableIPv6") });
  return {
    name: json.text("Name"),
    labels: json.labels("Labels"),
    driver: json.optionalText("Driver") ?? "overlay",
    driverOptions: json.labels("Options"),
    // Ports are published by both families unless a user wants it otherwise.
    ipv6: json.optionalFlag("EnableIPv6") ?? json.flag("Ingress"),
    internal: json.flag("Internal"),
    attachable: json.flag("Attachable"),
    ingress: json.flag("Ingress"),
    ipam: ipam.objects("Config").map(parseSubnet),
  };
}

function parseSubnet(json: JsonObject): SubnetConfig {
  if (Object.keys(json.labels("AuxiliaryAddresses")).length > 0) {
    throw new ClusterError("unimplemented", "auxiliary addresses are not available for driver overlay");
  }
  return {
    subnet: json.text("Subnet"),
    ...present({ gateway: json.optionalText("Gateway"), range: json.optionalText("IPRange") }),
  };
}

export interface NetworkDetails {
  readonly Services?: Json;
  readonly Peers?: readonly Json[];
}

/** As `/networks` shows it; `Containers` is for the host that runs them to fill in. */
export function printNetwork(network: Network, details: NetworkDetails = {}): Json {
  const { spec } = network;
  return {
    Name: spec.name,
    Id: network.id,
    Created: apiTime(network.meta.createdAtMs),
    Scope: "swarm",
    Driver: spec.driver,
    EnableIPv4: true,
    EnableIPv6: spec.ipv6,
    IPAM: { Driver: "default", Config: printSubnets(network) },
    Internal: spec.internal,
    Attachable: spec.attachable,
    Ingress: spec.ingress,
    ConfigFrom: { Network: "" },
    ConfigOnly: false,
    Containers: {},
    Options: printDriverOptions(network),
    Labels: spec.labels,
    ...details,
  };
}

/** As it stands in a task's `NetworksAttachments`. */
export function printAttachedNetwork(network: Network): Json {
  const { spec } = network;
  const driver = { Name: spec.driver, Options: unlessEmpty(printDriverOptions(network)) };
  return {
    ...printMeta(network),
    Spec: {
      Name: spec.name,
      Labels: spec.labels,
      DriverConfiguration: { Name: spec.driver, Options: unlessEmpty(spec.driverOptions) },
      IPv6Enabled: unlessEmpty(spec.ipv6),
      Internal: unlessEmpty(spec.internal),
      Attachable: unlessEmpty(spec.attachable),
      Ingress: unlessEmpty(spec.ingress),
      IPAMOptions: {
        Driver: { Name: "default" },
        Configs: unlessEmpty(
          spec.ipam.map(({ subnet, gateway, range }) => ({ Subnet: subnet, Gateway: gateway, Range: range })),
        ),
      },
      Scope: "swarm",
    },
    DriverState: driver,
    IPAMOptions: isPredefined(network)
      ? undefined
      : { Driver: { Name: "default" }, Configs: printSubnets(network) },
  };
}

function printSubnets({ state, spec }: Network): Json[] {
  if (state !== undefined)
    return subnetsOf(state).map(({ subnet, gateway }) => ({
      Subnet: subnet,
      IPRange: spec.ipam.find((config) => isSame(config.subnet, subnet))?.range,
      Gateway: gateway,
    }));
  return askedSubnets(spec).map(({ subnet, gateway, range }) => ({
    Subnet: subnet,
    Gateway: gateway,
    IPRange: range,
  }));
}

/** Whether a block, as a user wrote it, is that one. */
function isSame(given: string, canonical: string): boolean {
  const block = parseCidr(given);
  return block !== undefined && printCidr(block) === canonical;
}

const vniOption = "com.docker.network.driver.overlay.vxlanid_list";

function printDriverOptions({ spec, state }: Network): Readonly<Record<string, string>> {
  return state === undefined ? spec.driverOptions : { ...spec.driverOptions, [vniOption]: String(state.vni) };
}
