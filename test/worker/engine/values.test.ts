import t from "tap";

import { logLimitsOf, healthcheckOf } from "../../../worker/engine/create.ts";
import { hostsText, resolvConfText } from "../../../worker/engine/files.ts";
import { startRefusal } from "../../../worker/engine/runtime.ts";
import { signalNumber } from "../../../worker/engine/signals.ts";
import { chainIds, lowerDirectories, upperDirectory } from "../../../worker/engine/snapshots.ts";
import type { TemplateContext } from "../../../model/template.ts";
import { expandSpec } from "../../../worker/engine/template.ts";
import { plainSpec } from "./plain.ts";
import { resolveUser } from "../../../worker/engine/user.ts";

const context: TemplateContext = {
  service: { id: "sid", name: "web", labels: { "a.b": "label", plain: "p" } },
  node: { id: "nid", hostname: "host", platform: { architecture: "x86_64", os: "linux" } },
  task: { id: "tid", name: "web.2.tid", slot: "2" },
};

t.test("templates: unknown expressions are refused; environment, hostname and mounts are expanded", (t) => {
  t.throws(() => expandSpec({ ...plainSpec, env: ["X={{.Task.Secret}}"] }, context), {
    code: "invalid-argument",
    message: /\.Task\.Secret/,
  });
  const expanded = expandSpec(
    {
      ...plainSpec,
      image: "{{.Task.ID}}",
      command: ["{{.Task.ID}}"],
      env: ["S={{.Task.Slot}}"],
      hostname: "h{{.Task.Slot}}",
      mounts: [{ type: "volume", source: "v-{{.Task.Slot}}", target: "/d", readOnly: false }],
    },
    context,
  );
  t.match(expanded, { image: "{{.Task.ID}}", command: ["{{.Task.ID}}"], env: ["S=2"], hostname: "h2" });
  t.match(expanded.mounts, [{ source: "v-2" }]);
  t.end();
});

const passwd = "root:x:0:0:root:/root:/bin/sh\n# comment\nweb:x:33:34::/:\n1000:x:77:78::/:\n";
const group = "root:x:0:\nwww:x:34:\nextra:x:50:web,other\n";
for (const { user, groups = [], want } of [
  { user: "", want: "0:0:0" },
  { user: "web", want: "33:34:34,50" },
  { user: "33", want: "33:34:34,50" },
  { user: "web:extra", want: "33:50:50" },
  { user: "web:9", want: "33:9:9" },
  { user: "4242", want: "4242:0:0" },
  { user: "0", groups: ["www", "7"], want: "0:0:0,34,7" },
  { user: "1000", want: "77:78:78" },
]) {
  t.test(`user ${JSON.stringify(user)} with groups [${groups.join()}]`, (t) => {
    const { uid, gid, additionalGids } = resolveUser(user, groups, passwd, group);
    t.equal(`${uid}:${gid}:${additionalGids.join()}`, want);
    t.end();
  });
}

t.test("unknown users and groups are refused with Docker's texts", (t) => {
  t.throws(() => resolveUser("ghost", [], passwd, group), {
    message: "unable to find user ghost: no matching entries in passwd file",
  });
  t.throws(() => resolveUser("web:ghost", [], passwd, group), {
    message: "unable to find group ghost: no matching entries in group file",
  });
  t.throws(() => resolveUser("99999999999", [], passwd, group), { code: "invalid-argument" });
  t.end();
});

t.test("signals by name, number and real-time offset", (t) => {
  for (const [text, want] of [
    ["SIGTERM", 15],
    ["term", 15],
    ["9", 9],
    ["SIGRTMIN+3", 37],
    ["RTMAX", 64],
  ] as const) {
    t.equal(signalNumber(text), want, text);
  }
  for (const text of ["", "SIGNOPE", "0", "65", "SIGRTMIN+40"]) {
    t.throws(() => signalNumber(text), { message: `invalid signal: ${text}` }, text);
  }
  t.end();
});

t.test("hosts file: the container's own loopback, or all of the host's", (t) => {
  const entries = [{ address: "10.0.0.2", names: ["me", "alias"] }];
  t.match(
    hostsText({ base: "", lines: ["1.2.3.4  db  db2"], entries }),
    /^127\.0\.0\.1\tlocalhost\n[^]*\n1\.2\.3\.4\tdb db2\n10\.0\.0\.2\tme alias\n$/,
  );
  t.equal(hostsText({ base: "127.0.0.1 host\n", lines: [], entries: [] }), "127.0.0.1 host\n");
  t.end();
});

t.test("resolv.conf: the task's, else the network's, else what of the host's can be reached", (t) => {
  const hostText = "# c\nnameserver 127.0.0.53\nnameserver 9.9.9.9\nsearch corp\noptions ndots:2\n";
  const fallback = { nameservers: ["10.0.0.1"], search: [], options: [] };
  const own = { nameservers: ["1.1.1.1"], search: [], options: [] };
  t.equal(resolvConfText(own, fallback, hostText, false), "nameserver 1.1.1.1\n");
  t.equal(resolvConfText(undefined, fallback, hostText, false), "nameserver 10.0.0.1\n");
  t.equal(
    resolvConfText(undefined, undefined, hostText, false),
    "nameserver 9.9.9.9\nsearch corp\noptions ndots:2\n",
  );
  t.match(resolvConfText(undefined, undefined, hostText, true), /^nameserver 127\.0\.0\.53\n/);
  t.end();
});

t.test("log options: json-file's limits, Docker's refusals", (t) => {
  t.strictSame(logLimitsOf({}), { maxBytes: 10 * 2 ** 20, maxFiles: 3, kept: true });
  t.strictSame(
    logLimitsOf({ log: { name: "json-file", options: { "max-size": "1.5k", "max-file": "2" } } }),
    { maxBytes: 1536, maxFiles: 2, kept: true },
  );
  t.equal(logLimitsOf({ log: { name: "none", options: {} } }).kept, false);
  for (const log of [
    { name: "splunk", options: {} },
    { name: "", options: { "max-size": "x" } },
    { name: "", options: { "max-file": "0" } },
  ]) {
    t.throws(() => logLimitsOf({ log }), { code: "invalid-argument" });
  }
  t.end();
});

t.test("health check: the spec's with the image's under it; NONE switches it off", (t) => {
  const check = {
    test: ["CMD", "a"],
    intervalMs: 5,
    timeoutMs: 6,
    startPeriodMs: 0,
    startIntervalMs: 0,
    retries: 2,
  };
  const empty = { ...check, test: [], intervalMs: 9, timeoutMs: 0, retries: 0 };
  t.match(healthcheckOf(empty, check), { test: ["CMD", "a"], intervalMs: 9, timeoutMs: 6, retries: 2 });
  t.equal(healthcheckOf({ ...check, test: ["NONE"] }, check), undefined);
  t.equal(healthcheckOf(undefined, undefined), undefined);
  t.end();
});

t.test("refusals of runtimes become the texts and codes that docker run knows", (t) => {
  t.match(
    startRefusal(
      "OCI runtime create failed: crun: executable file `/x` not found: No such file or directory",
      "/x",
    ),
    { exitCode: 127, text: /executable file not found in \$PATH/ },
  );
  t.match(startRefusal('x: OCI runtime create failed: exec: "/x": permission denied', "/x"), {
    exitCode: 126,
    text: /^failed to create task for container/,
  });
  t.match(
    startRefusal('x: OCI runtime create failed: exec: "/x": stat /x: no such file or directory', "/x"),
    {
      exitCode: 127,
    },
  );
  t.strictSame(
    startRefusal("OCI runtime create failed: open /proc/sys/net/foo: No such file or directory", "/x"),
    {
      exitCode: 128,
      text: "failed to create task for container: failed to create shim task: OCI runtime create failed: open /proc/sys/net/foo: No such file or directory",
    },
    "another file than the command",
  );
  t.match(startRefusal("something else", "/x"), { exitCode: 128 });
  t.end();
});

t.test("chain ids begin with the first layer and hash each on the one below", (t) => {
  const [first = "", second = ""] = chainIds([`sha256:${"1".repeat(64)}`, `sha256:${"2".repeat(64)}`]);
  t.equal(first, `sha256:${"1".repeat(64)}`);
  // printf 'sha256:1… sha256:2…' | sha256sum
  t.match(second, /^sha256:[0-9a-f]{64}$/);
  t.not(second, first);
  t.strictSame(
    lowerDirectories([
      { type: "overlay", source: "overlay", target: "", options: ["index=off", "lowerdir=/b:/a"] },
    ]),
    ["/b", "/a"],
  );
  t.strictSame(lowerDirectories([{ type: "bind", source: "/only", target: "", options: [] }]), ["/only"]);
  const overlay = { type: "overlay", source: "overlay", target: "", options: ["upperdir=/u", "lowerdir=/b"] };
  t.equal(upperDirectory([overlay]), "/u");
  t.equal(upperDirectory([{ type: "bind", source: "/only", target: "", options: [] }]), "/only");
  t.equal(upperDirectory([]), undefined);
  t.end();
});
