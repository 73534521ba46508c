import t from "tap";
import { ago, ellipsis, familiarImage, inWords, table } from "../../cli/print.ts";
import { parseMount, parseNetwork, parsePorts, parseUlimit } from "../../cli/service-parse.ts";
import { parseBytes, parseCpus, parseDuration } from "../../cli/units.ts";

t.test("durations are nanoseconds", (t) => {
  t.equal(parseDuration("1m30s"), 90e9);
  t.equal(parseDuration("500ms"), 5e8);
  t.equal(parseDuration("0"), 0);
  for (const text of ["", "10", "s", "1x", "1s!"])
    t.throws(() => parseDuration(text), /invalid duration/, text);
  t.end();
});

t.test("sizes are binary, CPUs are billionths", (t) => {
  t.equal(parseBytes("64m"), 64 * 1024 ** 2);
  t.equal(parseBytes("1.5GiB"), 1.5 * 1024 ** 3);
  t.equal(parseBytes("100"), 100);
  t.equal(parseCpus("0.25"), 250_000_000);
  t.throws(() => parseBytes("lots"), /invalid size/);
  t.throws(() => parseCpus("-1"), /invalid number of CPUs/);
  t.end();
});

t.test("ports have a short, a long and a range form", (t) => {
  t.strictSame(parsePorts("8080:80/udp"), [
    { Protocol: "udp", TargetPort: 80, PublishedPort: 8080, PublishMode: "ingress" },
  ]);
  t.strictSame(parsePorts("mode=host,published=8080,target=80"), [
    { Protocol: "tcp", TargetPort: 80, PublishMode: "host", PublishedPort: 8080 },
  ]);
  t.strictSame(
    parsePorts("8000-8001:80-81").map(({ PublishedPort, TargetPort }) => [PublishedPort, TargetPort]),
    [
      [8000, 80],
      [8001, 81],
    ],
  );
  t.strictSame(parsePorts("80"), [{ Protocol: "tcp", TargetPort: 80, PublishMode: "ingress" }]);
  for (const text of ["x", "1-3:1-2", "mode=host,published=1"])
    t.throws(() => parsePorts(text), /invalid port/, text);
  t.end();
});

t.test("mounts, networks and ulimits read docker's forms", (t) => {
  t.strictSame(parseMount("type=bind,src=/a,dst=/b,readonly"), {
    Type: "bind",
    Target: "/b",
    Source: "/a",
    ReadOnly: true,
  });
  t.strictSame(parseMount("type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=1777").TmpfsOptions, {
    SizeBytes: 1024 ** 2,
    Mode: 0o1777,
  });
  t.throws(() => parseMount("type=bind"), /target is required/);
  t.throws(() => parseMount("target=/a,colour=red"), /unexpected key 'colour'/);
  t.strictSame(parseNetwork("name=n,alias=a,alias=b"), { Target: "n", Aliases: ["a", "b"] });
  t.strictSame(parseUlimit("nofile=10:20"), { Name: "nofile", Soft: 10, Hard: 20 });
  t.end();
});

t.test("spans of time are said as docker says them", (t) => {
  const cases: [number, string][] = [
    [0, "Less than a second"],
    [1_000, "1 second"],
    [59_000, "59 seconds"],
    [61_000, "About a minute"],
    [3_500_000, "58 minutes"],
    [3_600_000, "About an hour"],
    [36_000_000, "10 hours"],
    [259_200_000, "3 days"],
    [15 * 86_400_000, "2 weeks"],
  ];
  for (const [ms, want] of cases) t.equal(inWords(ms), want);
  t.equal(ago("2026-01-01T00:00:00Z", Date.parse("2026-01-01T00:00:05Z")), "5 seconds ago");
  t.end();
});

t.test("tables are aligned, and the last column is not padded", (t) => {
  t.equal(
    table([
      ["ID", "NAME"],
      ["abcdefghijkl", "x"],
    ]),
    "ID             NAME\nabcdefghijkl   x",
  );
  t.end();
});

t.test("images are shown as people write them", (t) => {
  const digest = `sha256:${"0".repeat(64)}`;
  t.equal(familiarImage(`docker.io/library/nginx:1@${digest}`), "nginx:1");
  t.equal(familiarImage(`host:5000/a/b@${digest}`), `host:5000/a/b@${digest}`);
  t.equal(ellipsis("abcdef", 4), "abc…");
  t.end();
});
