import { assert, constantFrom, dictionary, oneof, property, string } from "fast-check";
import t from "tap";

import { ClusterError } from "../../../model/errors.ts";
import { parseBuild } from "../../../worker/api/build.ts";

function parse(query: string, registryConfig?: string): ReturnType<typeof parseBuild> {
  return parseBuild(new URLSearchParams(query), registryConfig, "172.29.0.1");
}

t.test("what the client sends with 'docker build -t a -t b:1 --build-arg … .'", (t) => {
  const query = new URLSearchParams({
    buildargs: '{"A":"1","UNSET":null}',
    cachefrom: "[]",
    cgroupparent: "",
    cpusetcpus: "0",
    dockerfile: "Dockerfile",
    extrahosts: "a:10.0.0.1,host.docker.internal:host-gateway",
    labels: '{"x":"y"}',
    memory: "1000",
    memswap: "-1",
    nocache: "1",
    rm: "1",
    shmsize: "0",
    ulimits: '[{"Name":"nofile","Hard":2,"Soft":1}]',
    version: "1",
  });
  for (const name of ["a", "b:1", "a:latest"]) query.append("t", name);
  const config = Buffer.from(
    JSON.stringify({
      "https://index.docker.io/v1/": { username: "hub", password: "p" },
      "r:5000": { username: "own", password: "p" },
      broken: 1,
    }),
  ).toString("base64");
  const { args, authOf, ...rest } = parseBuild(query, config, "172.29.0.1");
  t.strictSame([...args], [["A", "1"]]);
  t.strictSame(rest, {
    dockerfile: "",
    names: ["docker.io/library/a:latest", "docker.io/library/b:1"],
    target: "",
    labels: { x: "y" },
    cache: "ignored",
    cacheFrom: [],
    pull: "missing",
    platform: "",
    limits: {
      memoryBytes: 1000,
      memorySwapBytes: -1,
      cpusetCpus: "0",
      ulimits: [{ name: "nofile", soft: 1, hard: 2 }],
    },
    extraHosts: ["a:10.0.0.1", "host.docker.internal:172.29.0.1"],
  });
  t.match(authOf("docker.io"), { username: "hub" });
  t.match(authOf("r:5000"), { username: "own" });
  t.equal(authOf("broken"), undefined);
  t.end();
});

t.test("what is refused", (t) => {
  const cases: readonly [string, RegExp][] = [
    ["remote=https://x/y.git", /no remote context is accepted/],
    ["version=2", /DOCKER_BUILDKIT=0/],
    ["squash=1", /squash is only supported with experimental mode/],
    ["securityopt=%5B%22a%22%5D", /securityopt is not accepted/],
    ["isolation=hyperv", /Unsupported isolation/],
    ["dockerfile=../x", /forbidden path outside the build context/],
    ["t=UPPER", /invalid reference format/],
    [`t=a@sha256:${"0".repeat(64)}`, /digest reference/],
    ["buildargs=x", /it is no JSON/],
    ["cachefrom=%7B%22a%22%3A1%7D", /invalid cachefrom: a list of images/],
    ["cachefrom=%5B1%5D", /invalid cachefrom: a list of images/],
    ["buildargs=[]", /an object is accepted/],
    ["labels=%7B%22a%3Db%22%3A%22c%22%7D", /invalid labels/],
    ["memory=much", /invalid value of memory/],
    ["ulimits=%5B%7B%7D%5D", /invalid ulimit/],
    ["extrahosts=a:host-gateway1", /invalid IP address in add-host/],
    ["extrahosts=nothing", /invalid IP address in add-host/],
  ];
  for (const [query, wanted] of cases) t.throws(() => parse(query), wanted, query);
  t.equal(parse("", "nonsense").authOf("docker.io"), undefined);
  t.end();
});

t.test("any query is parsed or refused as the client's mistake", (t) => {
  const names =
    "t dockerfile remote buildargs labels ulimits extrahosts memory shmsize target platform isolation";
  const json = constantFrom(
    "{}",
    "[]",
    "null",
    "1",
    '"x"',
    '{"a":1}',
    '[{"Name":"a","Soft":1,"Hard":"x"}]',
    "[null]",
  );
  const values = oneof(string(), json);
  assert(
    property(dictionary(constantFrom(...names.split(" ")), values), string(), (query, header) => {
      try {
        parseBuild(new URLSearchParams(query), header, "172.29.0.1");
      } catch (error) {
        if (!(error instanceof ClusterError) || !["invalid-argument", "unimplemented"].includes(error.code))
          throw error;
      }
    }),
    { numRuns: 5_000 },
  );
  t.end();
});
