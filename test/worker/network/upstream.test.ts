import t from "tap";

import { systemClock } from "../../../runtime/clock.ts";
import { systemRandom } from "../../../runtime/random.ts";
import { Upstream } from "../../../worker/network/upstream.ts";

t.test("a resolver that the kernel has no way to is one that did not answer", async (t) => {
  const upstream = new Upstream({ clock: systemClock, random: systemRandom, resolvConf: "/nowhere" });
  const question = Buffer.alloc(17);
  // The kernel refuses to connect a socket to the broadcast address, as it does without a route.
  const asked = upstream.ask(question, { over: "udp", servers: ["255.255.255.255"], skip: () => false });
  await t.rejects(asked, { code: "unavailable", message: /255\.255\.255\.255: connect E/ });
});
