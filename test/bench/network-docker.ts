/** Docker's own overlay between two hosts of the lab, as another path to measure. */
import { existsSync } from "node:fs";

import { call } from "../lab/api.ts";
import { clearLab, type Host, Lab, labPlace } from "../lab/lab.ts";
import { registryAddress } from "../lab/lan.ts";
import { run, waitFor } from "../lab/shell.ts";

const labName = "b-netd";
const network = "bench";
const readyMs = 90_000;

export interface DockerOverlay {
  /** Network namespaces of a container on either host. */
  readonly client: string;
  readonly server: string;
  /** Of the server on the overlay. */
  readonly address: string;
}

export function isDockerInstalled(): boolean {
  return ["/usr/sbin/dockerd", "/usr/bin/dockerd"].some((path) => existsSync(path));
}

/** Two hosts in a swarm of Docker's, an attachable overlay, and a container of each on it. */
export async function openDockerOverlay(): Promise<DockerOverlay> {
  const lab = await Lab.up({ name: labName, payload: "dockerd", managers: 1, workers: 1 });
  const [one, two] = lab.hosts;
  if (one === undefined || two === undefined) throw new Error("assertion failed: a lab of two hosts");
  await call(one.socket, "POST", "/networks/create", {
    body: { Name: network, Driver: "overlay", Attachable: true, CheckDuplicate: true },
  });
  const [client, server] = [await startContainer(one, 100_001), await startContainer(two, 100_002)];
  return { client: client.netns, server: server.netns, address: server.address };
}

export function closeDockerOverlay(): Promise<void> {
  return clearLab(labPlace({ name: labName }));
}

/** @param seconds - That it sleeps: what tells its process from others. */
async function startContainer(
  host: Host,
  seconds: number,
): Promise<{ readonly netns: string; readonly address: string }> {
  const name = `bench-${seconds}`;
  const image = `${registryAddress}/bb:1`;
  const env = { DOCKER_HOST: `unix://${host.socket}` };
  await run(["docker", "run", "-d", "--name", name, "--network", network, image, "sleep", String(seconds)], {
    env,
    timeoutMs: readyMs,
  });
  const { NetworkSettings } = await call<{
    NetworkSettings: { Networks: Record<string, { IPAddress: string }> };
  }>(host.socket, "GET", `/containers/${name}/json`);
  const pid = await waitFor("the container's process", { timeoutMs: readyMs }, async () => {
    const all = await host.processes();
    return all.find(({ argv }) => argv.join(" ") === `sleep ${seconds}`)?.pid;
  });
  return { netns: `/proc/${pid}/ns/net`, address: NetworkSettings.Networks[network]?.IPAddress ?? "" };
}
