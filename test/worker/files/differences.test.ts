import t from "tap";

import { type FileChange, withoutMountPoints } from "../../../worker/files/differences.ts";

const parse = (text: string): FileChange[] =>
  text
    .split(" ")
    .filter(Boolean)
    .map((word) => ({
      path: word.slice(1),
      kind: ({ A: "added", C: "modified", D: "removed" } as const)[word[0] as "A" | "C" | "D"],
    }));

const cases = [
  ["what is made for a start", "A/dev A/etc A/etc/hosts A/etc/hostname A/etc/resolv.conf A/proc A/sys", ""],
  ["a directory that changed by it alone", "C/etc A/etc/hosts C/sbin A/sbin/docker-init", ""],
  ["a directory with a file of the user's", "C/etc A/etc/hosts A/etc/own", "C/etc A/etc/own"],
  ["a directory that changed by itself", "C/etc", "C/etc"],
  ["one that the user filled", "A/dev A/dev/pts A/dev/own", "A/dev A/dev/own"],
  ["what was removed", "C/etc D/etc/hosts D/proc", "C/etc D/etc/hosts D/proc"],
  ["names that only begin alike", "A/device A/etc.d A/etc.d/hosts", "A/device A/etc.d A/etc.d/hosts"],
] as const;

for (const [name, changes, wanted] of cases) {
  t.test(name, (t) => {
    t.strictSame(withoutMountPoints(parse(changes)), parse(wanted));
    t.end();
  });
}
