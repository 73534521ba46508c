import t from "tap";
import { nodeOfHost, type NodeSummary } from "./swarm.ts";

function node(id: string, hostname: string, state: string, createdAt: string): NodeSummary {
  return {
    ID: id,
    CreatedAt: createdAt,
    Spec: { Role: "worker", Availability: "active" },
    Description: { Hostname: hostname },
    Status: { State: state },
  };
}

const before = node("n1", "host1", "down", "2026-01-01T00:00:00.5Z");
const now = node("n2", "host1", "ready", "2026-01-01T00:00:10Z");
const other = node("n3", "host2", "ready", "2026-01-01T00:00:20Z");

t.test("a host that left and joined again is the node that lives, whichever is listed first", (t) => {
  t.equal(nodeOfHost([before, now, other], "host1"), now);
  t.equal(nodeOfHost([now, before, other], "host1"), now);
  t.end();
});

t.test("with none alive it is the newest", (t) => {
  const down = { ...now, Status: { State: "down" } };
  t.equal(nodeOfHost([before, down], "host1"), down);
  t.equal(nodeOfHost([other], "host1"), undefined);
  t.end();
});
