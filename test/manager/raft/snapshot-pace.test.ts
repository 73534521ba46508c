import t from "tap";
import { isSnapshotDue } from "../../../manager/raft/member-snapshots.ts";

const mib = 1024 * 1024;
const pace = { minEntries: 1_000, smallBytes: mib, maxEntries: 250_000, maxBytes: 64 * mib };

const cases = [
  { name: "nothing yet", entries: 0, bytes: 0, lastBytes: 0, due: false },
  { name: "fewer entries than asked for", entries: 999, bytes: mib, lastBytes: 0, due: false },
  { name: "the first, by its entries", entries: 1_000, bytes: 1, lastBytes: 0, due: true },
  { name: "a small state again, by its entries", entries: 1_000, bytes: 1, lastBytes: mib, due: true },
  { name: "a larger one, while little changed", entries: 5_000, bytes: mib, lastBytes: 2 * mib, due: false },
  {
    name: "a larger one, when as much changed",
    entries: 5_000,
    bytes: 2 * mib,
    lastBytes: 2 * mib,
    due: true,
  },
  { name: "as much changed, in few entries", entries: 2, bytes: 2 * mib, lastBytes: 2 * mib, due: false },
  { name: "a huge one, when the log is long", entries: 2, bytes: 64 * mib, lastBytes: 500 * mib, due: true },
  {
    name: "a huge one, when many entries are to be taken in by a restart",
    entries: 250_000,
    bytes: 9 * mib,
    lastBytes: 500 * mib,
    due: true,
  },
] as const;

for (const { name, entries, bytes, lastBytes, due } of cases) {
  t.test(name, (t) => {
    t.equal(isSnapshotDue({ entries, bytes }, lastBytes, pace), due);
    t.end();
  });
}

t.test("a state that grows for ever is written less than twice over", (t) => {
  const entryBytes = 500;
  let state = 0;
  let written = 0;
  let since = { entries: 0, bytes: 0 };
  let lastBytes = 0;
  for (let entry = 0; entry < 100_000; entry += 1) {
    state += entryBytes;
    since = { entries: since.entries + 1, bytes: since.bytes + entryBytes };
    if (!isSnapshotDue(since, lastBytes, pace)) continue;
    written += state;
    lastBytes = state;
    since = { entries: 0, bytes: 0 };
  }
  t.ok(written > 0 && written < 2 * state, `${written} bytes of ${state}`);
  t.end();
});

t.test(
  "whatever the state's size, entries without data are bounded; more only where it was asked for",
  (t) => {
    for (const [minEntries, most] of [
      [1_000, 250_000],
      [400_000, 400_000],
    ] as const) {
      const bytes = 32 * most;
      t.ok(isSnapshotDue({ entries: most, bytes }, 500 * mib, { ...pace, minEntries }), `${minEntries}`);
      t.notOk(isSnapshotDue({ entries: most - 1, bytes }, 500 * mib, { ...pace, minEntries }));
    }
    t.end();
  },
);
