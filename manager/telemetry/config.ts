import { inboxPrefix, subjects } from "../../runtime/fabric.ts";

export interface FabricConfig {
  readonly clusterId: string;
  readonly certificateFile: string;
  readonly keyFile: string;
  readonly rootFile: string;
  readonly pidFile: string;
  readonly port: number;
  readonly managers: readonly string[];
  readonly workers: readonly string[];
}

/** A line of a container is 16 KiB at most, a chunk a few of them. */
const largestPayloadBytes = 1024 * 1024;
/** What a reader may leave unread before it is cut off; chunks are acknowledged, so little is ever under way. */
const largestPendingBytes = 16 * 1024 * 1024;

/**
 * nats-server's configuration: mutual TLS, one user per node, told by the node id among the names in its certificate.
 * Managers may do everything; a worker may publish its own lines, and read and answer requests to itself.
 */
export function printConfig(config: FabricConfig): string {
  const users = [
    ...config.managers.map((id) => ({ id, publish: [">"], subscribe: [">"], answers: false })),
    ...config.workers.map((id) => ({
      id,
      publish: [subjects.logChunks(id, "*")],
      subscribe: [subjects.logRequests(id), subjects.networkChecks(id), `${inboxPrefix(id)}.>`],
      answers: true,
    })),
  ];
  return `# Written by shoal; changes are lost.
server_name: ${JSON.stringify(config.clusterId)}
listen: "0.0.0.0:${config.port}"
pid_file: ${JSON.stringify(config.pidFile)}
max_payload: ${largestPayloadBytes}
max_pending: ${largestPendingBytes}
tls {
  cert_file: ${JSON.stringify(config.certificateFile)}
  key_file: ${JSON.stringify(config.keyFile)}
  ca_file: ${JSON.stringify(config.rootFile)}
  verify_and_map: true
  timeout: 5
}
authorization {
  users: [
${users.map((user) => `    ${printUser(user)}`).join("\n")}
  ]
}
`;
}

interface User {
  readonly id: string;
  readonly publish: readonly string[];
  readonly subscribe: readonly string[];
  /** May answer a request once, wherever the answer goes. */
  readonly answers: boolean;
}

function printUser({ id, publish, subscribe, answers }: User): string {
  const list = (entries: readonly string[]) =>
    `[${entries.map((entry) => JSON.stringify(entry)).join(", ")}]`;
  const responses = answers ? ', allow_responses: { max: 1, expires: "1m" }' : "";
  return `{ user: ${JSON.stringify(id)}, permissions: { publish: ${list(publish)}, subscribe: ${list(subscribe)}${responses} } }`;
}
