import type { Command } from "commander";
import type { ApiInfo, ApiNode, ApiSwarm, ApiSwarmSpec } from "../api-types.ts";
import type { Client } from "../client.ts";
import { write } from "../print.ts";
import { parseCount, parseDuration } from "../units.ts";
import { collect } from "../options.ts";

interface InitOptions {
  advertiseAddr?: string;
  listenAddr: string;
  dataPathAddr?: string;
  dataPathPort?: string;
  defaultAddrPool: string[];
  defaultAddrPoolMaskLength: string;
  availability: string;
  forceNewCluster: boolean;
  taskHistoryLimit: string;
}

interface UpdateOptions {
  dispatcherHeartbeat?: string;
  taskHistoryLimit?: string;
  certExpiry?: string;
  snapshotInterval?: string;
  autoRebalance?: string;
}

interface JoinOptions {
  token: string;
  advertiseAddr?: string;
  listenAddr: string;
  dataPathAddr?: string;
  availability: string;
}

export function register(program: Command, client: () => Client): void {
  const swarm = program.command("swarm").description("Manage the cluster");
  swarm
    .command("init")
    .description("Initialize a swarm")
    .option("--advertise-addr <address>", "advertised address (format: <ip|interface>[:port])")
    .option("--listen-addr <address>", "listen address (format: <ip|interface>[:port])", "0.0.0.0:2377")
    .option("--data-path-addr <address>", "address or interface to use for data path traffic")
    .option("--data-path-port <port>", "port number to use for data path traffic (1024 - 49151)")
    .option("--default-addr-pool <cidr>", "default address pool in CIDR format", collect, [])
    .option("--default-addr-pool-mask-length <bits>", "default address pool subnet mask length", "24")
    .option("--availability <availability>", "availability of the node (active, pause, drain)", "active")
    .option("--force-new-cluster", "force create a new cluster from current state", false)
    .option("--task-history-limit <n>", "task history retention limit", "5")
    .action((options: InitOptions) => init(client(), options));
  swarm
    .command("join <host:port>")
    .description("Join a swarm as a node and/or manager")
    .requiredOption("--token <token>", "token for entry into the swarm")
    .option("--advertise-addr <address>", "advertised address (format: <ip|interface>[:port])")
    .option("--listen-addr <address>", "listen address (format: <ip|interface>[:port])", "0.0.0.0:2377")
    .option("--data-path-addr <address>", "address or interface to use for data path traffic")
    .option("--availability <availability>", "availability of the node (active, pause, drain)", "active")
    .action((remote: string, options: JoinOptions) => join(client(), remote, options));
  swarm
    .command("update")
    .description("Update the swarm")
    .option("--dispatcher-heartbeat <duration>", "dispatcher heartbeat period")
    .option("--task-history-limit <n>", "task history retention limit")
    .option("--cert-expiry <duration>", "validity period for node certificates")
    .option("--snapshot-interval <n>", "number of log entries between Raft snapshots")
    .option("--auto-rebalance <off|on|n>", "move tasks to nodes that have fewer, so many at a time (on: 2)")
    .action((options: UpdateOptions) => update(client(), options));
  swarm
    .command("leave")
    .description("Leave the swarm")
    .option("-f, --force", "force this node to leave the swarm, ignoring warnings", false)
    .action(async ({ force }: { force: boolean }) => {
      await client().post("/swarm/leave", { force });
      write("Node left the swarm.");
    });
  swarm
    .command("rotate-data-key")
    .description("Seal the log and snapshots of this manager with a new data key")
    .action(() => rotateDataKey(client()));
  swarm
    .command("join-token <role>")
    .description("Manage join tokens (role: worker or manager)")
    .option("--rotate", "rotate join token", false)
    .option("-q, --quiet", "only display token", false)
    .action((role: string, options: { rotate: boolean; quiet: boolean }) =>
      joinToken(client(), role, options),
    );
}

async function init(client: Client, options: InitOptions): Promise<void> {
  const nodeId = await client.post<string>("/swarm/init", undefined, {
    ListenAddr: options.listenAddr,
    AdvertiseAddr: options.advertiseAddr ?? "",
    DataPathAddr: options.dataPathAddr ?? "",
    DataPathPort: Number(options.dataPathPort ?? 0),
    DefaultAddrPool: options.defaultAddrPool,
    SubnetSize: Number(options.defaultAddrPoolMaskLength),
    ForceNewCluster: options.forceNewCluster,
    Availability: options.availability,
    Spec: { Orchestration: { TaskHistoryRetentionLimit: Number(options.taskHistoryLimit) } },
  });
  write(`Swarm initialized: current node (${nodeId}) is now a manager.\n`);
  await printJoin(client, "worker");
  write(
    "\nTo add a manager to this swarm, run 'shoal swarm join-token manager' and follow the instructions.\n",
  );
}

async function rotateDataKey(client: Client): Promise<void> {
  const { NodeID: nodeId, KeyID: keyId } = await client.post<{ NodeID: string; KeyID: number }>(
    "/shoal/v1/data-key/rotate",
  );
  write(`Manager ${nodeId} seals with data key ${keyId} from now on.`);
  write("\nEach manager has keys of its own: run this on the others too.");
}

async function update(client: Client, options: UpdateOptions): Promise<void> {
  const { Version, Spec } = await client.get<ApiSwarm>("/swarm");
  const spec: ApiSwarmSpec = { ...Spec };
  const { dispatcherHeartbeat, taskHistoryLimit, certExpiry, snapshotInterval } = options;
  if (dispatcherHeartbeat !== undefined) {
    spec.Dispatcher = { ...spec.Dispatcher, HeartbeatPeriod: parseDuration(dispatcherHeartbeat) };
  }
  if (taskHistoryLimit !== undefined) {
    spec.Orchestration = { ...spec.Orchestration, TaskHistoryRetentionLimit: parseCount(taskHistoryLimit) };
  }
  if (certExpiry !== undefined) {
    spec.CAConfig = { ...spec.CAConfig, NodeCertExpiry: parseDuration(certExpiry) };
  }
  if (snapshotInterval !== undefined) {
    spec.Raft = { ...spec.Raft, SnapshotInterval: parseCount(snapshotInterval) };
  }
  if (options.autoRebalance !== undefined) {
    spec.Labels = { ...spec.Labels, "shoal.auto-rebalance": options.autoRebalance };
  }
  await client.post("/swarm/update", { version: Version.Index }, spec);
  write("Swarm updated.");
}

async function join(client: Client, remote: string, options: JoinOptions): Promise<void> {
  await client.post("/swarm/join", undefined, {
    ListenAddr: options.listenAddr,
    AdvertiseAddr: options.advertiseAddr ?? "",
    DataPathAddr: options.dataPathAddr ?? "",
    RemoteAddrs: [remote],
    JoinToken: options.token,
    Availability: options.availability,
  });
  const { Swarm } = await client.get<ApiInfo>("/info");
  write(`This node joined a swarm as a ${Swarm.ControlAvailable ? "manager" : "worker"}.`);
}

async function joinToken(
  client: Client,
  role: string,
  options: { rotate: boolean; quiet: boolean },
): Promise<void> {
  if (role !== "worker" && role !== "manager") throw new Error(`unknown role ${role}`);
  if (options.rotate) {
    const { Version, Spec } = await client.get<ApiSwarm>("/swarm");
    const rotate = role === "worker" ? "rotateWorkerToken" : "rotateManagerToken";
    await client.post("/swarm/update", { version: Version.Index, [rotate]: true }, Spec);
    if (!options.quiet) write(`Successfully rotated ${role} join token.\n`);
  }
  if (options.quiet) {
    const { JoinTokens } = await client.get<ApiSwarm>("/swarm");
    return write(role === "worker" ? JoinTokens.Worker : JoinTokens.Manager);
  }
  return printJoin(client, role);
}

async function printJoin(client: Client, role: "worker" | "manager"): Promise<void> {
  const [{ JoinTokens }, info] = await Promise.all([
    client.get<ApiSwarm>("/swarm"),
    client.get<ApiInfo>("/info"),
  ]);
  const self = await client.get<ApiNode>(`/nodes/${info.Swarm.NodeID}`);
  const token = role === "worker" ? JoinTokens.Worker : JoinTokens.Manager;
  write(`To add a ${role} to this swarm, run the following command:\n`);
  write(`    shoal swarm join --token ${token} ${self.ManagerStatus?.Addr ?? ""}\n`);
}
