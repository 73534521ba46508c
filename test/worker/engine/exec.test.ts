import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t, { type Test } from "tap";

import type { Connection } from "../../../worker/engine/connection.ts";
import type { Container } from "../../../worker/engine/container.ts";
import { type ExecDeps, processOf } from "../../../worker/engine/exec.ts";
import type { OciProcess } from "../../../worker/engine/oci.ts";

const root = "root:x:0:0::/root:/bin/sh\n";
const process = {
  args: ["sleep"],
  env: [],
  cwd: "/",
  terminal: false,
  noNewPrivileges: false,
  user: { uid: 0, gid: 0, additionalGids: [0] },
  capabilities: { bounding: [], effective: [], permitted: [] },
} as unknown as OciProcess;

interface Files {
  readonly passwd: string;
  readonly group: string;
}

/** The user of a command, in a container with files of its own above those of its image. */
async function userIn(
  t: Test,
  { image, own, groups }: { image: Files; own?: Files; groups?: readonly string[] },
  user: string,
): Promise<string> {
  const directory = mkdtempSync(join(tmpdir(), "shoal-exec-"));
  t.teardown(() => rmSync(directory, { recursive: true }));
  for (const [layer, files] of [["lower", image] as const, ["upper", own] as const]) {
    mkdirSync(join(directory, layer, "etc"), { recursive: true });
    for (const [name, text] of Object.entries(files ?? {}))
      writeFileSync(join(directory, layer, "etc", name), text);
  }
  const options = [`upperdir=${join(directory, "upper")}`, `lowerdir=${join(directory, "lower")}`];
  const mounts = [{ type: "overlay", source: "overlay", target: "", options }];
  const connection = { call: () => Promise.resolve({ mounts }) } as unknown as Connection;
  const container = {
    id: "c",
    process,
    stored: { ...(groups !== undefined && { groups }) },
  } as unknown as Container;
  const made = await processOf({ connection } as ExecDeps, container, { args: ["id"], user });
  return `${made.user.uid}:${made.user.gid}:${made.user.additionalGids.join()}`;
}

t.test("a command runs as a user that was added in the container", async (t) => {
  const image = { passwd: root, group: "root:x:0:\n" };
  const own = {
    passwd: `${root}added:x:1000:1000::/:\n`,
    group: "root:x:0:\nadded:x:1000:\nmore:x:50:added\n",
  };
  t.equal(await userIn(t, { image, own }, "added"), "1000:1000:1000,50");
  await t.rejects(userIn(t, { image }, "added"), { message: /^unable to find user added/ });
});

t.test("a command has the groups that were added to its container", async (t) => {
  const image = { passwd: `${root}web:x:33:33::/:\n`, group: "www:x:33:\nextra:x:70:\n" };
  t.equal(await userIn(t, { image, groups: ["999", "extra"] }, "1000"), "1000:0:0,999,70");
  t.equal(await userIn(t, { image }, "web"), "33:33:33");
});
