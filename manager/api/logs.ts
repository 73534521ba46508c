/** `GET /services/{id}/logs`, `GET /tasks/{id}/logs` */
import { ClusterError } from "../../model/errors.ts";
import type { ServiceId, TaskId } from "../../model/ids.ts";
import { revisionKey } from "../../model/service.ts";
import type { LogOptions } from "../../proto/telemetry.ts";
import { compareVersions, queryFlag } from "../../runtime/http.ts";
import { type Call, param, type Reply, type Route } from "./call.ts";
import type { ApiDeps } from "./deps.ts";
import { errorReply } from "./error.ts";
import { frameError, type FrameOptions, frameLine } from "./log-frame.ts";
import { present } from "./parse.ts";
import { parseTime } from "./query.ts";
import { resolve, resolveById } from "./resolve.ts";

export const logRoutes: readonly Route[] = [
  { method: "GET", path: "/services/:id/logs", handle: serviceLogs },
  { method: "GET", path: "/tasks/:id/logs", handle: taskLogs },
];

function serviceLogs(deps: ApiDeps, call: Call): Reply {
  const service = deps.store.view((view) => resolve("service", param(call, "id"), view.services));
  return stream(deps, call, { serviceIds: [service.id], taskIds: [] }, service.spec.task.container.tty);
}

function taskLogs(deps: ApiDeps, call: Call): Reply {
  const { task, tty } = deps.store.view((view) => {
    const task = resolveById("task", param(call, "id"), view.tasks);
    const revision = view.revisions.get(revisionKey(task.serviceId, task.specVersion));
    return { task, tty: revision?.task.container.tty ?? false };
  });
  return stream(deps, call, { serviceIds: [], taskIds: [task.id] }, tty);
}

function stream(
  deps: ApiDeps,
  { query, version, signal }: Call,
  selector: { readonly serviceIds: readonly ServiceId[]; readonly taskIds: readonly TaskId[] },
  tty: boolean,
): Reply {
  const stdout = queryFlag(query.get("stdout"));
  const stderr = queryFlag(query.get("stderr"));
  if (!stdout && !stderr) {
    throw new ClusterError("invalid-argument", "Bad parameters: you must choose at least one stream");
  }
  const options: LogOptions = {
    stdout,
    stderr,
    follow: queryFlag(query.get("follow")),
    tail: parseTail(query.get("tail")),
    ...present({
      sinceMs: parseTime(query.get("since"), "since", deps.clock.now()),
      untilMs: parseTime(query.get("until"), "until", deps.clock.now()),
    }),
  };
  const frame = {
    tty,
    timestamps: queryFlag(query.get("timestamps")),
    details: queryFlag(query.get("details")),
  };
  const multiplexed = !tty && compareVersions(version, "1.42") >= 0;
  return {
    kind: "stream",
    contentType: `application/vnd.docker.${multiplexed ? "multiplexed" : "raw"}-stream`,
    chunks: frames(deps.logs(selector, options, signal), frame, signal),
  };
}

/**
 * The headers are gone when something fails, so the failure travels as a frame of its own, which clients
 * print; a terminal's raw bytes have no place for it and just end.
 */
async function* frames(
  lines: ReturnType<ApiDeps["logs"]>,
  options: FrameOptions,
  signal: AbortSignal,
): AsyncGenerator<Uint8Array> {
  try {
    for await (const line of lines) yield frameLine(line, options);
  } catch (reason) {
    if (signal.aborted || options.tty) return;
    yield frameError(errorReply(reason).body.message);
  }
}

/** @throws {ClusterError} `invalid-argument` with the texts of Docker's cluster; of a container it takes anything else as "all". */
function parseTail(text: string | null): number | "all" {
  if (text === null || text === "" || text === "all") return "all";
  if (/^-\d+$/.test(text)) throw new ClusterError("invalid-argument", "negative tail values not supported");
  if (!/^\d{1,15}$/.test(text))
    throw new ClusterError("invalid-argument", 'tail value must be a positive integer or "all"');
  return Number(text);
}
