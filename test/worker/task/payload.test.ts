import t from "tap";
import type { ConfigId, SecretId } from "../../../model/ids.ts";
import { payloadFiles, type TaskPayload } from "../../../worker/task/payload.ts";

const context = {
  service: { id: "sid", name: "web", labels: {} },
  node: { id: "nid", hostname: "host", platform: { architecture: "x86_64", os: "linux" } },
  task: { id: "tid", name: "web.2.tid", slot: "2" },
};
const target = (name: string) => ({ name, uid: "3", gid: "4", mode: 0o400 });
const spec = {
  env: ["MODE=old", "MODE=fast"],
  secrets: [
    { secretId: "s1" as SecretId, secretName: "pass", file: target("password") },
    { secretId: "s2" as SecretId, secretName: "url", file: target("url") },
  ],
  configs: [{ configId: "c1" as ConfigId, configName: "conf", file: target("/etc/app.conf") }],
};

function files(contents: Readonly<Record<string, readonly [data: string, templating: string]>>) {
  const find = (id: string): TaskPayload | undefined => {
    const found = contents[id];
    return found && { data: Buffer.from(found[0]), templating: found[1] };
  };
  const { secrets, configs } = payloadFiles(spec, { find, context });
  return [...secrets, ...configs].map(({ target: { name, mode, uid }, data }) => [
    name,
    Buffer.from(data).toString(),
    mode,
    uid,
  ]);
}

const plain = ["s3{{.Task.ID}}", ""] as const;

t.test("templates are expanded for their task, with its other payloads and its environment", (t) => {
  t.strictSame(
    files({
      s1: plain,
      s2: ['db://{{secret "password"}}@{{.Node.Hostname}}', "golang"],
      c1: ['mode={{env "MODE"}} slot={{.Task.Slot}} {{secret "url"}}', "golang"],
    }),
    [
      ["password", "s3{{.Task.ID}}", 0o400, "3"],
      ["url", "db://s3{{.Task.ID}}@host", 0o400, "3"],
      ["/etc/app.conf", 'mode=fast slot=2 db://{{secret "password"}}@{{.Node.Hostname}}', 0o400, "3"],
    ],
    "what is not a template stays byte for byte, and what is put in is put in as it is",
  );
  t.end();
});

const refused = [
  {
    name: "a target that the task does not have",
    c1: ['{{secret "none"}}', "golang"],
    code: "invalid-argument",
    why: /expanding config conf failed: secret target none not found/,
  },
  {
    name: "another driver",
    c1: ["x", "jinja"],
    code: "invalid-argument",
    why: /config conf: unrecognized template type/,
  },
  {
    name: "a result that is too large",
    c1: ["{{printf `%s` `" + "x".repeat(1_023_999) + "`}}y", "golang"],
    code: "invalid-argument",
    why: /1024000 bytes, less than 1024000/,
  },
] as const;
for (const { name, c1, code, why } of refused) {
  t.test(`refused: ${name}`, (t) => {
    t.throws(() => files({ s1: plain, s2: plain, c1 }), { code, message: why });
    t.end();
  });
}

t.test("what was not assigned yet is waited for, also by a template that names it", (t) => {
  t.throws(() => files({ s1: plain, s2: plain }), { code: "failed-precondition" });
  t.throws(() => files({ s2: ['{{secret "password"}}', "golang"], c1: plain }), {
    code: "failed-precondition",
  });
  t.end();
});
