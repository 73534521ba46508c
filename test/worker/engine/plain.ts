import type { ContainerSpec } from "../../../model/service.ts";

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
