import type { ContainerSpec } from "../../../model/service.ts";
import type { ShimAddresses } from "../../../worker/engine/shims.ts";

/** A container that asks for nothing. */
export const plainSpec: ContainerSpec = {
  image: "",
  labels: {},
  command: [],
  args: [],
  env: [],
  groups: [],
  tty: false,
  openStdin: false,
  readOnly: false,
  mounts: [],
  hosts: [],
  secrets: [],
  configs: [],
  sysctls: {},
  capabilityAdd: [],
  capabilityDrop: [],
  ulimits: [],
};

/** Of a host where each container finds its shim by itself. */
export const noShims: ShimAddresses = {
  offer: () => Promise.resolve(false),
  withdraw: () => Promise.resolve(),
};
