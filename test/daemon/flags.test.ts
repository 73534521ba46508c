import { readFileSync } from "node:fs";
import t from "tap";
import { findBinary, parseFlags, readProxies } from "../../daemon/flags.ts";

t.test("without flags shoald uses the paths of a system service and runs containerd itself", (t) => {
  const { host, ownContainerd } = parseFlags([], "0");
  t.match(host, {
    stateDir: "/var/lib/shoal",
    runDir: "/run/shoal",
    socket: "/run/shoal/shoal.sock",
    managerSocket: "/run/shoal/manager.sock",
    containerd: "/run/shoal/containerd/containerd.sock",
    cgroupParent: "/shoal",
    insecureRegistries: [],
    registryMirrors: [],
    registryCertificates: ["/etc/docker/certs.d"],
    logLevel: "info",
  });
  t.equal(ownContainerd, true);
  t.match(host.runtime, /^(crun|runc)$/);
  t.end();
});

t.test("every path follows the directories given, and a containerd that is named is not run", (t) => {
  const { host, ownContainerd } = parseFlags(
    ["--run-dir", "/tmp/r", "--containerd", "/run/containerd/containerd.sock"],
    "0",
  );
  t.equal(host.socket, "/tmp/r/shoal.sock");
  t.equal(host.managerSocket, "/tmp/r/manager.sock");
  t.equal(host.containerd, "/run/containerd/containerd.sock");
  t.equal(ownContainerd, false);
  t.end();
});

t.test("repeated flags add up", (t) => {
  const { host } = parseFlags(
    [
      "--label",
      "zone=a",
      "--label",
      "disk=ssd=fast",
      "--insecure-registry",
      "a:5000",
      "--insecure-registry",
      "b:5000",
    ],
    "0",
  );
  t.strictSame(host.engineLabels, { zone: "a", disk: "ssd=fast" });
  t.strictSame(host.insecureRegistries, ["a:5000", "b:5000"]);
  t.end();
});

t.test("the socket belongs to a group by name or id, else to Docker's where there is one", (t) => {
  const groups = readFileSync("/etc/group", "utf8").split("\n");
  const docker = groups.find((line) => line.startsWith("docker:"))?.split(":")[2];
  t.equal(parseFlags([], "0").host.socketGroup, docker === undefined ? undefined : Number(docker));
  t.equal(parseFlags(["--group", "root"], "0").host.socketGroup, 0);
  t.equal(parseFlags(["-G", "4242"], "0").host.socketGroup, 4242);
  t.end();
});

t.test("proxies come from flags, else from the environment, capitals first", (t) => {
  const environment = {
    HTTP_PROXY: "a:1",
    http_proxy: "b:1",
    https_proxy: "c:1",
    NO_PROXY: "",
    no_proxy: "d",
  };
  t.strictSame(readProxies({ proxy: true }, environment), {
    httpProxy: "a:1",
    httpsProxy: "c:1",
    noProxy: "d",
  });
  const flags = ["--http-proxy", "x:1", "--https-proxy", "y:1", "--no-proxy", "z"];
  t.strictSame(parseFlags(flags, "0").host.proxies, { httpProxy: "x:1", httpsProxy: "y:1", noProxy: "z" });
  t.end();
});

t.test("generic resources are given by count or by name, one flag or many", (t) => {
  const { host } = parseFlags(
    ["--node-generic-resource", "gpu=UUID1,gpu=UUID2", "--node-generic-resource", "ssd=3"],
    "0",
  );
  t.strictSame(host.genericResources, { generic: { gpu: 2, ssd: 3 }, named: { gpu: ["UUID1", "UUID2"] } });
  t.end();
});

t.test("a program is found on the path, and a path stands for itself", (t) => {
  t.match(findBinary("sh"), /\/sh$/);
  t.equal(findBinary("/bin/sh"), "/bin/sh");
  t.equal(findBinary("no-such-program"), undefined);
  t.equal(findBinary("/no/such/program"), undefined);
  t.end();
});
