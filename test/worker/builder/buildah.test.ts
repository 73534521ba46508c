import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";

import { buildArguments, resolverArguments } from "../../../worker/builder/arguments.ts";
import { noProxies } from "../../../proto/host.ts";
import { Buildah, lastWords } from "../../../worker/builder/buildah.ts";

t.test("without buildah the error names the package", async (t) => {
  const directory = await mkdtemp(join(tmpdir(), "shoal-buildah-"));
  const path = process.env["PATH"];
  t.teardown(async () => {
    process.env["PATH"] = path;
    await rm(directory, { recursive: true });
  });
  process.env["PATH"] = directory;
  const buildah = new Buildah({ root: directory, runRoot: directory, settings: directory }, noProxies);
  await t.rejects(buildah.run({ args: ["images"], temporary: directory }, new AbortController().signal), {
    code: "unavailable",
    message: /there is no buildah on this host's PATH; on Debian: apt-get install .*buildah/,
  });
});

t.test("a reader that is behind stops what buildah prints, never its end", async (t) => {
  const directory = await mkdtemp(join(tmpdir(), "shoal-buildah-"));
  const path = process.env["PATH"];
  t.teardown(async () => {
    process.env["PATH"] = path;
    await rm(directory, { recursive: true });
  });
  const total = 20_000_000;
  const script = `#!/bin/sh\nexec head -c ${total} /dev/zero\n`;
  for (const name of ["setpriv", "buildah"]) await writeFile(join(directory, name), script, { mode: 0o755 });
  process.env["PATH"] = `${directory}:${path}`;
  const buildah = new Buildah({ root: directory, runRoot: directory, settings: directory }, noProxies);
  let read = 0;
  let isBehind = true;
  const stopped: (() => void)[] = [];
  const start = (signal: AbortSignal): { ended: Promise<unknown>; first: Promise<void> } => {
    let begin = (): void => undefined;
    const first = new Promise<void>((resolve) => (begin = resolve));
    const ended = buildah.run(
      {
        args: ["images"],
        temporary: directory,
        onOutput: (text) => (read += text.length),
        behind: () => {
          begin();
          return isBehind ? new Promise((resolve) => stopped.push(resolve)) : undefined;
        },
      },
      signal,
    );
    return { ended, first };
  };

  const { ended, first } = start(new AbortController().signal);
  await first;
  t.equal(stopped.length, 1);
  for (let turns = 0; turns < 100; turns++) await new Promise<void>((resolve) => setImmediate(resolve));
  t.equal(stopped.length, 1, "nothing was read while it waited");
  isBehind = false;
  stopped[0]?.();
  t.match(await ended, { code: 0 });
  t.equal(read, total);

  isBehind = true;
  const life = new AbortController();
  const cancelled = start(life.signal);
  await cancelled.first;
  life.abort(new Error("the client is gone"));
  await t.rejects(cancelled.ended, /the client is gone/);
});

t.test("a build's settings become arguments; the context stands last", (t) => {
  const request = {
    dockerfile: "",
    names: [],
    target: "",
    args: new Map([["A", "b c"]]),
    labels: { x: "y=z" },
    cache: "ignored",
    cacheFrom: [],
    pull: "missing",
    platform: "",
    network: { kind: "none" },
    limits: { memoryBytes: 5, memorySwapBytes: -1, ulimits: [{ name: "nofile", soft: 1, hard: 2 }] },
    extraHosts: ["h:1.2.3.4"],
    authOf: () => undefined,
  } as const;
  const places = {
    runtime: "crun",
    work: "/w",
    cgroup: "/shoal/build-1",
    policyFile: "/p",
    network: "none",
    resolver: resolverArguments("# comment\nnameserver 10.0.0.1\nsearch a b\noptions ndots:0\n"),
  };
  const args = buildArguments(request, places);
  for (const wanted of [
    "--no-cache",
    "--build-arg=A=b c",
    "--label=x=y=z",
    "--memory=5b",
    "--memory-swap=-1",
    "--ulimit=nofile=1:2",
    "--add-host=h:1.2.3.4",
    "--dns=10.0.0.1",
    "--dns-search=a",
    "--dns-search=b",
    "--dns-option=ndots:0",
    "--cap-add=CAP_NET_RAW",
    "--pull-never",
  ])
    t.ok(args.includes(wanted), wanted);
  t.strictSame(args.slice(-2), ["--file=/w/Dockerfile", "/w/context"]);
  t.equal(lastWords("noise\nError: what went wrong\n\n"), "what went wrong");
  t.end();
});
