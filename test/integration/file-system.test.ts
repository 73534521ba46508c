/** A file system of our own that turns read-only, as ext4 does by itself when its disk fails. */
import { existsSync } from "node:fs";
import { mkdir, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { run, tryRun } from "../lab/shell.ts";
import { labelOf, setLabel } from "../manager/calls.ts";
import { eventually, ManagerProcesses } from "../manager/processes.ts";

const skip = existsSync("/dev/loop-control") ? false : "no loop devices here";
const imageBytes = 256 * 1024 * 1024;

t.test(
  "a manager whose file system turns read-only acknowledges nothing more, says so, and goes on after a repair",
  { skip },
  async (t) => {
    const folder = await mkdtemp(join(tmpdir(), "shoal-ext4-"));
    t.teardown(() => rm(folder, { recursive: true, force: true }));
    const [image, disk] = [join(folder, "image"), join(folder, "disk")];
    await mkdir(disk);
    await run(["truncate", "--size", String(imageBytes), image]);
    await run(["mkfs.ext4", "-q", image]);
    await run(["mount", "-o", "loop", image, disk]);
    t.teardown(() => tryRun(["umount", "--lazy", disk])); // Before the folder goes: the last one is run first.
    const processes = await ManagerProcesses.create(t, disk);
    const manager = processes.bootstrap();
    await manager.message("ready");
    const { identity } = manager;
    await setLabel(manager, identity.nodeId, "acknowledged");

    await run(["mount", "-o", "remount,abort", disk]);
    await t.rejects(setLabel(manager, identity.nodeId, "refused"));
    const failure = await manager.message("failed");
    t.comment(failure.message);
    t.match(failure, { code: "data-loss", retry: false, message: /EROFS/ });
    t.not(await manager.exited, "0");

    const again = processes.start(manager.address, { kind: "restart", identity });
    t.match(await again.message("failed"), { retry: true, message: /is read-only.*mount it writable again/ });
    await again.exited;
    await run(["umount", disk]);
    t.ok((await tryRun(["e2fsck", "-p", image])).code <= 1, "which is mended"); // 1: it has mended something.
    await run(["mount", "-o", "loop", image, disk]);
    const repaired = processes.start(manager.address, { kind: "restart", identity });
    await repaired.message("ready");
    t.equal(await eventually("the state is back", () => labelOf(repaired, identity.nodeId)), "acknowledged");
  },
);
