import t from "tap";
import { guide } from "./guide.ts";

t.test("a lab says how it is spoken to, by its own name", (t) => {
  const text = guide({
    name: "newc",
    hosts: [
      { name: "host1", netns: "newc1", socket: "/tmp/shoal-lab-newc/host1/shoal.sock" },
      { name: "host2", netns: "newc2", socket: "/tmp/shoal-lab-newc/host2/shoal.sock" },
    ],
    lan: { netns: "newc-lan" },
  });
  t.match(text, "export DOCKER_HOST=unix:///tmp/shoal-lab-newc/host1/shoal.sock\n");
  t.match(text, "newc1 (host1), newc2 (host2)");
  t.match(text, "--net=/run/netns/newc-lan ");
  t.match(text, /down --name newc$/);
  t.notMatch(guide({ name: "shoal", hosts: [], lan: { netns: "shoal-lan" } }), "--name");
  t.end();
});
