import t from "tap";
import type { NodeId } from "../../../model/ids.ts";
import { createRequest, taskSpec, type TaskHost } from "../../../worker/task/request.ts";
import { assignment } from "../agent/fixtures.ts";

const host: TaskHost = {
  nodeId: "n" as NodeId,
  hostname: "host1",
  platform: { architecture: "x86_64", os: "linux" },
};

t.test("a container is told which generic resources are its own, after what its service says", (t) => {
  const task = assignment("t", { generic: [{ kind: "gpu", count: 2, names: ["a", "b"] }] });
  const request = createRequest(
    task,
    "c".repeat(64),
    taskSpec(task, host),
    host,
    { kind: "host", publishedPorts: [], files: { hosts: "", resolvConf: "", hostname: "" } },
    () => undefined,
  );
  t.strictSame(request.spec.env, ["SLOT=1", "DOCKER_RESOURCE_GPU=a,b"]);
  t.end();
});
