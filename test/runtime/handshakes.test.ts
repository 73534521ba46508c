import t from "tap";
import { HandshakeQueue } from "../../runtime/handshakes.ts";
import { VirtualClock } from "../sim/clock.ts";

class Connection {
  destroyed = false;
  readonly remoteAddress: string;
  readonly name: string;

  constructor(remoteAddress: string, name: string) {
    this.remoteAddress = remoteAddress;
    this.name = name;
  }

  destroy(): this {
    this.destroyed = true;
    return this;
  }
}

function queue(pace = { count: 2, everyMs: 10, waiting: 100 }) {
  const clock = new VirtualClock();
  const begun: string[] = [];
  const handshakes = new HandshakeQueue<Connection>(clock, pace, ({ name }) => void begun.push(name));
  const add = (address: string, name: string): Connection => {
    const connection = new Connection(address, name);
    handshakes.add(connection);
    return connection;
  };
  return { clock, begun, handshakes, add };
}

t.test("few begin at once, many one stretch of time after another", async (t) => {
  const { clock, begun, add } = queue();
  for (const name of ["1", "2", "3", "4", "5"]) add("a", name);
  t.strictSame(begun, ["1", "2"]);
  await clock.advance(10);
  t.strictSame(begun, ["1", "2", "3", "4"]);
  await clock.advance(10);
  t.strictSame(begun, ["1", "2", "3", "4", "5"]);
  await clock.advance(100);
  add("a", "6");
  t.equal(begun.at(-1), "6", "after a quiet time at once again");
});

t.test("an address with many is in nobody's way but its own", async (t) => {
  const { clock, begun, add } = queue();
  for (let at = 0; at < 50; at += 1) add("flood", `f${at}`);
  add("peer", "p1");
  await clock.advance(10);
  t.ok(begun.includes("p1"), "it is let in with the next few");
  t.equal(begun.length, 4);
});

t.test("when too many wait, the last of those that have most are turned away", async (t) => {
  const { clock, begun, add } = queue({ count: 1, everyMs: 10, waiting: 3 });
  const flood = [0, 1, 2, 3, 4].map((at) => add("flood", `f${at}`));
  t.strictSame(
    flood.map(({ destroyed }) => destroyed),
    [false, false, false, false, true],
  );
  t.notOk(add("peer", "p1").destroyed);
  t.ok(flood[3]?.destroyed);
  await clock.advance(20);
  t.strictSame(begun, ["f0", "f1", "p1"]);
});

t.test("who has gone meanwhile costs no turn", async (t) => {
  const { clock, begun, add } = queue({ count: 1, everyMs: 10, waiting: 2 });
  add("a", "1");
  const gone = add("a", "2");
  const waits = add("a", "3");
  gone.destroy();
  await clock.advance(10);
  t.strictSame(begun, ["1", "3"]);
  t.notOk(waits.destroyed);
});

t.test("closing turns away who waits and whoever still comes", async (t) => {
  const { clock, begun, handshakes, add } = queue({ count: 1, everyMs: 10, waiting: 5 });
  add("a", "1");
  const waits = add("a", "2");
  handshakes.close();
  t.ok(waits.destroyed);
  t.ok(add("a", "3").destroyed);
  await clock.advance(50);
  t.strictSame(begun, ["1"]);
});
