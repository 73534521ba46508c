import type { Configuration } from "raft-ts";
import t from "tap";
import { Departures } from "../../../manager/raft/departures.ts";

function configuration(voters: string, departed: readonly string[] = []): Configuration {
  return { voters: voters.split(" "), outgoing: [], learners: [], contexts: {}, departed };
}

t.test("who was in a committed configuration and is no more has left", (t) => {
  const departures = new Departures();
  departures.committed(configuration("a b c"));
  t.equal(departures.has("c"), false);
  departures.committed(configuration("a b"));
  t.equal(departures.has("c"), true);
  t.equal(departures.has("z"), false, "absence alone proves nothing");
  t.end();
});

t.test("a member that starts from a later configuration knows who left before it", (t) => {
  const departures = new Departures();
  departures.committed(configuration("a b", ["c", "d"]));
  t.equal(departures.has("c"), true);
  t.equal(departures.has("d"), true);
  t.equal(departures.has("b"), false);
  t.end();
});
