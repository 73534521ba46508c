import t from "tap";

import { overlay } from "../../integration/network-hosts.ts";
import { OverlayTroubles, patienceMs } from "../../../worker/network/overlay-troubles.ts";
import { VirtualClock } from "../../sim/clock.ts";

const [red, blue] = [overlay("red", 1), overlay("blue", 2)];

t.test(
  "a network that cannot be set up is said once per change, and refused to its tasks alone",
  async (t) => {
    const clock = new VirtualClock();
    const said: string[] = [];
    const troubles = new OverlayTroubles({ clock, warn: (text) => said.push(text) });
    const wanted = [red, blue];
    const text = "network red cannot be set up on this host: no device";

    for (let round = 0; round < 3; round += 1) troubles.note(wanted, new Map([[red.id, "no device"]]));
    t.strictSame(said, [text], "not at each retry");
    t.strictSame(troubles.texts, [text]);
    t.match(troubles.refusal(red.id), { code: "unavailable", message: text }, "it may soon be mended");
    t.equal(troubles.refusal(blue.id), undefined);

    await clock.advance(patienceMs - 1);
    troubles.note(wanted, new Map([[red.id, "no device"]]));
    t.match(troubles.refusal(red.id), { code: "unavailable" });
    await clock.advance(1);
    troubles.note(wanted, new Map([[red.id, "no route"]]));
    t.match(troubles.refusal(red.id), { code: "internal", message: /no route/ }, "another host may have it");
    t.equal(said.length, 2, "it changed");

    troubles.note(wanted, new Map());
    t.equal(troubles.refusal(red.id), undefined);
    t.equal(said.at(-1), "network red is set up on this host now");

    troubles.note(wanted, new Map([[red.id, "no device"]]));
    t.match(troubles.refusal(red.id), { code: "unavailable" }, "time counts anew");
    said.length = 0;
    troubles.note([blue], new Map());
    t.strictSame(said, [], "a network that is wanted no more is not set up");
    t.strictSame(troubles.texts, []);
  },
);
