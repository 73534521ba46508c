import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { bodyLimitBytes, headerLimitBytes } from "../../../runtime/http.ts";
import { systemClock } from "../../../runtime/clock.ts";
import { ask, idOf, makeHarness, messageOf, type Harness } from "./harness.ts";
import { fullService, plainService } from "./specs.ts";

async function withService(): Promise<{ readonly harness: Harness; readonly spec: object }> {
  const harness = await makeHarness({ clock: systemClock });
  const network = await ask(harness, "POST /networks/create", { Name: "net1", Driver: "overlay" });
  const secret = await ask(harness, "POST /secrets/create", { Name: "s1", Data: "cw==" });
  const config = await ask(harness, "POST /configs/create", { Name: "c1", Data: "Yw==" });
  const spec = fullService({ network: idOf(network), secret: idOf(secret), config: idOf(config) });
  await ask(harness, "POST /services/create", plainService("web"));
  await harness.fillTasks();
  return { harness, spec };
}

type Path = readonly (string | number)[];

/** Where every value of a document stands, its containers included. */
function pathsOf(value: unknown, at: Path = []): Path[] {
  if (typeof value !== "object" || value === null) return [at];
  return [at, ...Object.entries(value).flatMap(([key, each]) => pathsOf(each, [...at, key]))];
}

function replaced(value: unknown, [key, ...rest]: Path, by: unknown): unknown {
  if (key === undefined) return by;
  if (Array.isArray(value)) {
    return value.map((each, index) => (index === Number(key) ? replaced(each, rest, by) : (each as unknown)));
  }
  const fields = value as Record<string, unknown>;
  return { ...fields, [key]: replaced(fields[key], rest, by) };
}

const strangers = [null, true, -1, 1e300, "x", [[]], {}, { x: {} }] as const;

t.test(
  "a value of another kind anywhere in a body is refused or taken, and never an error of ours",
  async (t) => {
    const { harness, spec } = await withService();
    t.teardown(() => harness.api.close());
    const cluster = (await ask(harness, "GET /swarm")).json as { readonly Spec: object };
    const bodies: readonly (readonly [line: string, body: object])[] = [
      ["POST /services/create", spec],
      ["POST /services/web/update?version=1", spec],
      [
        "POST /secrets/create",
        { Name: "a", Labels: { a: "b" }, Data: "eA==", Templating: { Name: "golang", Options: {} } },
      ],
      ["POST /configs/c1/update?version=1", { Name: "c1", Labels: { a: "b" }, Data: "Yw==" }],
      [
        "POST /nodes/w1/update?version=1",
        { Name: "n", Labels: { a: "b" }, Role: "worker", Availability: "active" },
      ],
      ["POST /swarm/update?version=1", cluster.Spec],
      [
        "POST /networks/create",
        {
          Name: "n",
          Driver: "overlay",
          Options: { a: "b" },
          Labels: { a: "b" },
          IPAM: {
            Driver: "default",
            Config: [{ Subnet: "10.9.0.0/24", Gateway: "10.9.0.1", IPRange: "10.9.0.0/25" }],
          },
        },
      ],
    ];
    const wrong: string[] = [];
    let count = 0;
    for (const [line, body] of bodies) {
      for (const path of pathsOf(body)) {
        for (const stranger of strangers) {
          const answer = await ask(harness, line, replaced(body, path, stranger));
          count += 1;
          const { status, json, text } = answer;
          const isKnown = status < 500 || status === 501 || text.includes("out of sequence");
          const isJson = text === "" || (typeof json === "object" && json !== null);
          if (!isKnown || !isJson || (status >= 400 && messageOf(answer) === "")) {
            wrong.push(
              `${line} ${path.join(".")} = ${JSON.stringify(stranger)}: ${status} ${text.slice(0, 200)}`,
            );
          }
          if (status === 201) await ask(harness, `DELETE ${line.split(/[ /]/)[1] ?? ""}/x`);
        }
      }
    }
    t.strictSame(wrong, []);
    t.ok(count > 1_000, `${count} bodies`);
  },
);

t.test("names that JavaScript gives a meaning to are names like any other", async (t) => {
  const { harness } = await withService();
  t.teardown(() => harness.api.close());
  for (const name of ["__proto__", "constructor", "toString", "hasOwnProperty"]) {
    const body = `{"Name":"s-${name.length}","Labels":{"${name}":"v"},"${name}":{"Name":"other"},"TaskTemplate":{"ContainerSpec":{"Image":"a:1"}}}`;
    const { status, text } = await ask(harness, "POST /services/create", body);
    t.equal(status, 201, text);
    const shown = await ask(harness, `GET /services/s-${name.length}`);
    t.match(shown.text, `"Labels":{"${name}":"v"}`);
    const filters = encodeURIComponent(JSON.stringify({ label: [`${name}=v`] }));
    t.equal(((await ask(harness, `GET /services?filters=${filters}`)).json as unknown[]).length, 1, name);
    const key = encodeURIComponent(`{"${name}":["x"]}`);
    t.equal((await ask(harness, `GET /services?filters=${key}`)).status, 400);
    t.equal((await ask(harness, `GET /services/${name}`)).status, 404);
  }
});

t.test("documents of any depth are answered", async (t) => {
  const { harness } = await withService();
  t.teardown(() => harness.api.close());
  const deep = `${"[".repeat(200_000)}${"]".repeat(200_000)}`;
  const deepObject = `${'{"a":'.repeat(100_000)}1${"}".repeat(100_000)}`;
  const bodies = [
    deep,
    deepObject,
    `{"Labels":${deepObject}}`,
    `{"Name":${deep}}`,
    `{"TaskTemplate":{"ContainerSpec":{"Image":"a:1","Env":${deep}}}}`,
    `{"Unknown":${deep}}`,
  ];
  for (const body of bodies) {
    const answer = await ask(harness, "POST /services/create", body);
    t.equal(answer.status, 400, `${body.slice(0, 60)}: ${messageOf(answer)}`);
    t.not(messageOf(answer), "");
  }
  const filters = encodeURIComponent(`{"label":${"[".repeat(2_000)}${"]".repeat(2_000)}}`);
  for (const path of ["/services", "/tasks", "/nodes", "/secrets", "/configs", "/networks", "/events"]) {
    const answer = await ask(harness, `GET ${path}?filters=${filters}`);
    t.strictSame([answer.status, messageOf(answer)], [400, "invalid filter"], path);
  }
});

t.test("what is sent badly is refused in the API's form, and nothing hangs", async (t) => {
  const { harness } = await withService();
  const folder = mkdtempSync(join(tmpdir(), "shoal-hostile-"));
  const socketPath = join(folder, "manager.sock");
  await harness.api.listen(socketPath);
  t.teardown(async () => {
    await harness.api.close();
    rmSync(folder, { recursive: true, force: true });
  });
  const head = "Host: d\r\nContent-Type: application/json\r\n";
  const create = `POST /services/create HTTP/1.1\r\n${head}`;
  const longFilter = (bytes: number): string =>
    `GET /services?filters=${encodeURIComponent(JSON.stringify({ name: ["a".repeat(bytes)] }))} HTTP/1.1\r\n${head}Connection: close\r\n\r\n`;
  const cases: readonly (readonly [name: string, sent: string, status: number, text: RegExp])[] = [
    ["a chunk without a size", `${create}Transfer-Encoding: chunked\r\n\r\nZZ\r\n{}\r\n`, 400, /malformed/],
    [
      "a chunk longer than it says",
      `${create}Transfer-Encoding: chunked\r\n\r\n1\r\n{}}}\r\n0\r\n\r\n`,
      400,
      /malformed/,
    ],
    [
      "two lengths",
      `${create}Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n`,
      400,
      /malformed/,
    ],
    ["two different lengths", `${create}Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}`, 400, /malformed/],
    ["a length that is no number", `${create}Content-Length: many\r\n\r\n`, 400, /malformed/],
    [
      "a length beyond the limit",
      `${create}Content-Length: ${bodyLimitBytes + 1}\r\n\r\n`,
      413,
      /too large: at most/,
    ],
    [
      "a length beyond all numbers",
      `${create}Content-Length: 99999999999999999999\r\n\r\n`,
      400,
      /malformed/,
    ],
    ["no request line", "hello\r\n\r\n", 400, /malformed/],
    ["a line feed in a header", "GET /services HTTP/1.1\r\nHost: d\r\nX: a\n\nb\r\n\r\n", 400, /malformed/],
    ["a method nobody has", "BREW /services HTTP/1.1\r\nHost: d\r\n\r\n", 400, /malformed/],
    ["a filter as long as dockerode's address lines", longFilter(200_000), 200, /^\[\]/],
    ["a header beyond the limit", longFilter(headerLimitBytes), 431, /request header too large/],
    [
      "a body that is no UTF-8",
      `${create}Content-Length: 3\r\nConnection: close\r\n\r\n{\xff}`,
      400,
      /invalid JSON/,
    ],
  ];
  for (const [name, sent, status, text] of cases) {
    const socket = connect(socketPath);
    const pieces: Buffer[] = [];
    socket.on("data", (piece: Buffer) => pieces.push(piece)).on("error", () => undefined);
    socket.write(Buffer.from(sent, "latin1"));
    // A refusal may leave the connection open for what is left of the body; its answer is whole all the same.
    while (!/\r\n\r\n[\s\S]*\n?$/.test(Buffer.concat(pieces).toString()) && !socket.closed) {
      await Promise.race([once(socket, "data"), once(socket, "close")]);
    }
    socket.destroy();
    const [top = "", body = ""] = Buffer.concat(pieces).toString().split("\r\n\r\n");
    t.match(top, new RegExp(`^HTTP/1.1 ${status} `), name);
    t.match(top.toLowerCase(), "content-type: application/json\r\n", name);
    t.match(status === 200 ? body : (JSON.parse(body) as { message: string }).message, text, name);
  }
});

t.test("versions and paths that are none of ours", async (t) => {
  const { harness } = await withService();
  t.teardown(() => harness.api.close());
  const cases = [
    ["/v99.1/services", 400, /too new/],
    ["/v1.51/services", 400, /too new/],
    ["/v1.99999999999999999999/services", 400, /too new/],
    ["/v0.1/services", 400, /too old/],
    ["/v1.9/services", 400, /too old/],
    ["/v1/services", 404, /page not found/],
    ["/v1.41.2/services", 404, /page not found/],
    ["/v-1.41/services", 404, /page not found/],
    ["/v1.41", 404, /page not found/],
    ["/v1.41//services", 404, /page not found/],
    ["/services/%00", 404, /not found/],
    ["/services/..%2f..%2fetc", 404, /not found/],
    [`/services/${"a".repeat(5_000)}`, 404, /not found/],
    ["/services/web/logs?stdout=1&tail=5&since=-1e9", 400, /invalid value for since/],
    ["/tasks?filters=%7B%22id%22%3A%5B%22%22%5D%7D", 200, /^\[/],
    ["/services?filters=%", 400, /invalid filter/],
  ] as const;
  for (const [path, status, text] of cases) {
    const answer = await ask(harness, `GET ${path}`);
    t.equal(answer.status, status, path);
    t.match(status === 200 ? answer.text : messageOf(answer) || answer.text, text, path);
  }
});
