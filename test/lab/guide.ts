/** The part of a lab that a user needs to go on by hand. */
export interface Reachable {
  readonly name: string;
  readonly hosts: readonly { readonly name: string; readonly netns: string; readonly socket: string }[];
  readonly lan: { readonly netns: string };
}

/** ` --name NAME` where a command needs it to find the lab. */
export function nameOption(name: string): string {
  return name === "shoal" ? "" : ` --name ${name}`;
}

/** How to speak to a lab that is up, and where its networks are. */
export function guide({ name, hosts, lan }: Reachable): string {
  const [first] = hosts;
  if (first === undefined) return "";
  return [
    `  export DOCKER_HOST=unix://${first.socket}`,
    `  network namespaces: ${lan.netns} (the wire between the hosts, from where their published ports are reached), ${hosts.map((host) => `${host.netns} (${host.name})`).join(", ")}`,
    `  nsenter --net=/run/netns/${lan.netns} busybox wget -qO- http://10.230.0.1:PORT/`,
    `  npm run lab -- down${nameOption(name)}`,
  ].join("\n");
}
