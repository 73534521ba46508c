import t from "tap";

import { parseMountPoints } from "../../../worker/mounts/mountinfo.ts";

t.test("paths are those that programs use, however the kernel writes them", (t) => {
  const text = [
    "22 1 0:21 / / rw,relatime shared:1 - ext4 /dev/root rw",
    "90 22 0:51 / /var/lib/my\\040state\\011a\\012b\\134c rw - tmpfs shm rw,size=65536k",
    "91 22 0:52 / /tmp/é rw - tmpfs shm rw",
    "92 91 0:53 / /tmp/é rw - tmpfs shm rw",
    "",
  ].join("\n");
  t.strictSame(parseMountPoints(text), ["/", "/var/lib/my state\ta\nb\\c", "/tmp/é", "/tmp/é"]);
  t.end();
});
