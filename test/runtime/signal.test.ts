import { getEventListeners } from "node:events";
import t from "tap";

import { anyOf } from "../../runtime/signal.ts";

const listeners = (controllers: readonly AbortController[]): number[] =>
  controllers.map(({ signal }) => getEventListeners(signal, "abort").length);

t.test(
  "several signals as one: the first that aborts gives the reason, and none is listened to after that",
  (t) => {
    const sources = [new AbortController(), new AbortController(), new AbortController()] as const;
    const either = anyOf(...sources.map(({ signal }) => signal));
    t.equal(either.signal.aborted, false);
    t.strictSame(listeners(sources), [1, 1, 1]);
    sources[1].abort(new Error("enough"));
    t.match(either.signal, { aborted: true, reason: { message: "enough" } });
    t.strictSame(listeners(sources), [0, 0, 0]);
    sources[0].abort(new Error("late"));
    t.match(either.signal.reason, { message: "enough" });
    t.end();
  },
);

t.test("one that has aborted before counts at once", (t) => {
  const sources = [new AbortController(), new AbortController()] as const;
  sources[1].abort(new Error("before"));
  t.match(anyOf(...sources.map(({ signal }) => signal)).signal, {
    aborted: true,
    reason: { message: "before" },
  });
  t.strictSame(listeners(sources), [0, 0]);
  t.end();
});

t.test("whoever lets go leaves nothing with the sources, and hears nothing more", (t) => {
  const source = new AbortController();
  const lasting = new AbortController();
  const either = anyOf(source.signal, lasting.signal);
  either[Symbol.dispose]();
  t.strictSame(listeners([source, lasting]), [0, 0]);
  lasting.abort();
  t.equal(either.signal.aborted, false);
  t.end();
});
