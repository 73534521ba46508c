import { existsSync, mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";

import { shimAddressDirectory } from "../../../proto/host.ts";
import { shimSocket, SocketAddresses } from "../../../worker/engine/shim-addresses.ts";

const containerd = "/run/shoal/containerd/containerd.sock";

t.test("a container is told of a shim that answers, and no longer than that", async (t) => {
  const settings = { containerd, runDir: t.testdir() };
  mkdirSync(shimAddressDirectory(settings));
  const file = join(shimAddressDirectory(settings), "a");
  let isUp = true;
  const asked: string[] = [];
  const addresses = new SocketAddresses(settings, (path) => {
    asked.push(path);
    return Promise.resolve(isUp);
  });
  t.equal(await addresses.offer("a", "group"), true);
  const socket = shimSocket(containerd, "group");
  t.equal(readFileSync(file, "utf8"), `unix://${socket}\n`);
  t.strictSame(asked, [socket]);
  isUp = false;
  t.equal(await addresses.offer("a", "group"), false, "what a killed worker left is taken away");
  t.notOk(existsSync(file));
  await addresses.withdraw("a");
});

t.test("where nobody reads it, nothing is written and nothing fails", async (t) => {
  const addresses = new SocketAddresses({ containerd, runDir: "/nowhere" }, () => Promise.resolve(true));
  t.equal(await addresses.offer("a", "group"), true);
  await addresses.withdraw("a");
});
