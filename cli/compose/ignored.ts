import type { ComposeFile } from "./types.ts";

/**
 * Of no effect in a cluster. As Docker's CLI has them, but for two: `depends_on` is ignored by both and named here alone, `restart`
 * is honoured by both and so not named here.
 */
const unsupported = [
  "build",
  "cgroup_parent",
  "cgroupns_mode",
  "depends_on",
  "devices",
  "domainname",
  "external_links",
  "ipc",
  "links",
  "mac_address",
  "network_mode",
  "pid",
  "privileged",
  "security_opt",
  "shm_size",
  "userns_mode",
] as const;

const deprecated = {
  container_name: "Setting the container name is not supported.",
  expose:
    "Exposing ports is unnecessary - services on the same network can access each other's containers on any port.",
} as const;

/** What is to be said, as `docker stack deploy` says it, of keys that have no effect. */
export function ignoredOptions({ services = {} }: ComposeFile): string[] {
  const present = new Set(Object.values(services).flatMap((service) => Object.keys(service)));
  const ignored = unsupported.filter((key) => present.has(key));
  const old = Object.entries(deprecated).filter(([key]) => present.has(key));
  return [
    ...(ignored.length > 0 ? [`Ignoring unsupported options: ${ignored.join(", ")}\n`] : []),
    ...(old.length > 0
      ? [`Ignoring deprecated options:\n\n${old.map(([key, why]) => `${key}: ${why}`).join("\n\n")}\n`]
      : []),
  ];
}
