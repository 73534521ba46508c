import { Command } from "commander";
import t from "tap";
import type { ApiServiceSpec } from "../../cli/api-types.ts";
import type { Client } from "../../cli/client.ts";
import { payloadTable, prettyPayload, register as registerPayloads } from "../../cli/commands/payload.ts";
import { register as registerServices } from "../../cli/commands/service.ts";
import { parsePayload } from "../../cli/payloads.ts";

const file = { Name: "key", UID: "0", GID: "0", Mode: 0o444 };
const key = {
  ID: "id-of-key",
  CreatedAt: "2026-01-01T00:00:00Z",
  UpdatedAt: "2026-01-01T00:00:00Z",
  Version: { Index: 1 },
  Spec: { Name: "key" },
};
const service = {
  Name: "web",
  Labels: {},
  TaskTemplate: {
    ContainerSpec: {
      Image: "web:1",
      Secrets: [{ SecretID: "id-of-old", SecretName: "old", File: { ...file, Name: "old" } }],
      CapabilityAdd: ["CAP_NET_ADMIN"],
    },
  },
  Mode: { Replicated: { Replicas: 1 } },
};

interface Call {
  readonly method: string;
  readonly path: string;
  readonly body?: unknown;
}

/** What a command line asks of the daemon. */
async function calls(line: string): Promise<Call[]> {
  const made: Call[] = [];
  const answer = (path: string): unknown => {
    if (path === "/secrets" || path === "/configs") return [key];
    return { ID: "x", Version: { Index: 1 }, Spec: structuredClone(service) };
  };
  const client = {
    get: async (path: string) => answer(path),
    post: async (path: string, _query: unknown, body: unknown) => {
      made.push({ method: "POST", path, body });
      return { ID: "new" };
    },
    delete: async (path: string) => void made.push({ method: "DELETE", path }),
  } as unknown as Client;
  const program = new Command().exitOverride().enablePositionalOptions();
  registerPayloads(program, () => client);
  registerServices(program, () => client);
  await program.parseAsync(line.split(" "), { from: "user" });
  return made;
}

/** The container part of the specification that a command line sends. */
async function containerOf(line: string): Promise<ApiServiceSpec["TaskTemplate"]["ContainerSpec"]> {
  const [call] = await calls(line);
  if (call === undefined) throw new Error("nothing was sent");
  return (call.body as ApiServiceSpec).TaskTemplate.ContainerSpec;
}

t.test("a secret or config is named alone or with its file", (t) => {
  t.strictSame(parsePayload("secret", "key"), { SecretName: "key", File: file });
  t.strictSame(parsePayload("config", "source=key,target=/etc/k,uid=7,gid=8,mode=0440"), {
    ConfigName: "key",
    File: { Name: "/etc/k", UID: "7", GID: "8", Mode: 0o440 },
  });
  t.throws(() => parsePayload("secret", "target=x"), { message: /source is required/ });
  t.throws(() => parsePayload("secret", "source=a,colour=red"), {
    message: "invalid field in secret request: colour",
  });
  t.throws(() => parsePayload("config", "source=a,mode=rw"), { message: /invalid mode specified: rw/ });
  t.end();
});

t.test("services are sent with the ids of what they name", async (t) => {
  t.match(
    await containerOf(
      "service create -d --no-resolve-image --secret key --config source=key,target=/k web:1",
    ),
    {
      Secrets: [{ SecretID: "id-of-key", SecretName: "key", File: file }],
      Configs: [{ ConfigID: "id-of-key", ConfigName: "key", File: { ...file, Name: "/k" } }],
    },
  );
  t.strictSame((await containerOf("service update -d --secret-rm old --secret-add key web")).Secrets, [
    { SecretName: "key", File: file, SecretID: "id-of-key" },
  ]);
  await t.rejects(calls("service create -d --no-resolve-image --secret none web:1"), {
    message: "secret not found: none",
  });
});

t.test("a capability that is dropped is no longer added", async (t) => {
  t.match(await containerOf("service update -d --cap-drop net_admin --cap-add CHOWN web"), {
    CapabilityAdd: ["CHOWN"],
    CapabilityDrop: ["net_admin"],
  });
});

t.test("secrets and configs are made from files, listed and removed", async (t) => {
  const path = t.testdir({ content: "hush" });
  t.strictSame(await calls(`secret create -l a=b key ${path}/content`), [
    {
      method: "POST",
      path: "/secrets/create",
      body: { Name: "key", Labels: { a: "b" }, Data: Buffer.from("hush").toString("base64") },
    },
  ]);
  await t.rejects(calls("config create key"), { message: /no content for the config/ });
  t.strictSame(await calls("config rm a/b"), [{ method: "DELETE", path: "/configs/a%2Fb" }]);
});

t.test("lists and details read as docker's", (t) => {
  const nowMs = Date.parse("2026-01-01T02:00:00Z");
  const payload = { ...key, Spec: { Name: "key", Labels: { a: "b" }, Data: "aGk=" } };
  t.match(
    payloadTable("secret", [payload], nowMs),
    /^ID +NAME +DRIVER +CREATED +UPDATED\nid-of-key +key +2 hours ago +2 hours ago$/,
  );
  t.match(payloadTable("config", [payload], nowMs), /^ID +NAME +CREATED +UPDATED\n/);
  t.match(
    prettyPayload("config", payload),
    /^ID:\t\t\tid-of-key\nName:\t\t\tkey\nLabels:\n - a=b\n[^]*\nData:\nhi$/,
  );
  t.notMatch(prettyPayload("secret", payload), /Data/);
  t.end();
});
