import t from "tap";

import type { ContainerRecord } from "../../../worker/engine/engine.ts";
import { parseContainerFilter } from "../../../worker/api/container-filter.ts";
import type { ContainerView } from "../../../worker/api/container-print.ts";
import { nameMatches } from "../../../worker/api/name-filter.ts";

const id = (digit: string): string => digit.repeat(64);

function recordOf(name: string, more: Partial<ContainerRecord> = {}): ContainerRecord {
  return {
    id: id("a"),
    name,
    image: "bb",
    imageId: `sha256:${id("1")}`,
    labels: { team: "red" },
    createdAtMs: 5,
    status: { state: "running", pid: 1, startedAtMs: 5 },
    args: [],
    env: [],
    user: "",
    workingDir: "/",
    hostname: "",
    tty: false,
    stopSignal: "SIGTERM",
    network: { kind: "none" },
    mounts: [{ type: "volume", name: "data", source: "/x", target: "/data", readOnly: false }],
    resources: {},
    logDriver: "json-file",
    ...more,
  } as ContainerRecord;
}

const view: ContainerView = {
  record: recordOf("web.1"),
  isRestarting: false,
  execIds: [],
  health: undefined,
  ports: [{ protocol: "tcp", targetPort: 80, publishedPort: 8080 }],
  exposed: ["53/udp"],
  endpoints: [{ name: "back", networkId: id("b"), names: [], internal: false }],
  sandbox: undefined,
};
const older = recordOf("older", { id: id("c"), createdAtMs: 1 });

const cases: readonly (readonly [string, string, boolean])[] = [
  ["name", "eb", true],
  ["name", "^/web.1$", true],
  ["name", "^web", true],
  ["name", "web$", false],
  ["name", "(", false],
  ["id", "aaaa", true],
  ["label", "team", true],
  ["label", "team=blue", false],
  ["status", "running", true],
  ["status", "exited", false],
  ["health", "none", true],
  ["is-task", "false", true],
  ["exited", "0", false],
  ["isolation", "default", true],
  ["ancestor", "bb:latest", true],
  ["ancestor", "1111", true],
  ["ancestor", "b", false],
  ["volume", "data", true],
  ["volume", "/data", true],
  ["network", "back", true],
  ["publish", "8080", true],
  ["publish", "8000-9000/tcp", true],
  ["publish", "80", false],
  ["expose", "80/tcp", true],
  ["expose", "53/udp", true],
  ["expose", "53", false],
  ["since", "older", true],
  ["before", "cccc", false],
];

for (const [key, value, wanted] of cases) {
  t.test(`${key}=${value}: ${wanted}`, (t) => {
    const filter = parseContainerFilter(JSON.stringify({ [key]: { [value]: true } }), [view.record, older]);
    t.equal(filter.matches(view), wanted);
    t.end();
  });
}

t.test("of several values one is enough, but all labels; keys must all hold", (t) => {
  const matches = (filters: object): boolean =>
    parseContainerFilter(JSON.stringify(filters), []).matches(view);
  t.equal(matches({ status: ["exited", "running"] }), true);
  t.equal(matches({ label: ["team", "none"] }), false);
  t.equal(matches({ label: ["team"], name: ["none"] }), false);
  t.equal(parseContainerFilter('{"status":["exited"]}', []).wantsStopped, true);
  t.equal(parseContainerFilter(null, []).matches(view), true);
  t.end();
});

t.test("what cannot be asked for is refused in Docker's words", (t) => {
  const refused: readonly (readonly [string, string, string, RegExp])[] = [
    ["nosuch", "x", "invalid-argument", /invalid filter 'nosuch'/],
    ["status", "x", "invalid-argument", /invalid filter 'status=x'/],
    ["health", "x", "invalid-argument", /Unrecognised filter value for health: x/],
    ["exited", "x", "invalid-argument", /strconv\.Atoi: parsing "x": invalid syntax/],
    ["is-task", "x", "invalid-argument", /invalid filter 'is-task=\[x\]'/],
    ["expose", "99999", "invalid-argument", /is no port or range/],
    ["publish", "2-1", "invalid-argument", /is no port or range/],
    ["before", "x", "not-found", /No such container: x/],
  ];
  for (const [key, value, code, message] of refused)
    t.throws(() => parseContainerFilter(JSON.stringify({ [key]: [value] }), [older]), { code, message }, key);
  t.end();
});

t.test("a pattern that could take for ever is only looked for as it is written", (t) => {
  const name = "a".repeat(200);
  for (const pattern of ["(a+)+$x", ".*.*.*.*.*x", "(a|a)*b"])
    t.equal(nameMatches(name, pattern), false, pattern);
  t.equal(nameMatches("x(a+)+y", "(a+)+"), true);
  t.equal(nameMatches("db-2", "^(web|db)-[0-9]+$"), true);
  t.end();
});
