import t from "tap";

import {
  chooseEntry,
  parseConfig,
  parseManifest,
  parsePlatform,
  printPlatform,
} from "../../../worker/engine/manifest.ts";

const digest = (digit: string): string => `sha256:${digit.repeat(64)}`;
const bytes = (value: unknown): Buffer => Buffer.from(JSON.stringify(value));
const descriptor = (digit: string): object => ({ mediaType: "x", digest: digest(digit), size: 1 });

t.test("an OCI manifest", (t) => {
  const manifest = parseManifest(
    bytes({ schemaVersion: 2, config: descriptor("1"), layers: [descriptor("2"), descriptor("3")] }),
    "application/vnd.oci.image.manifest.v1+json; charset=utf-8",
  );
  t.match(manifest, {
    kind: "manifest",
    mediaType: "application/vnd.oci.image.manifest.v1+json",
    config: { digest: digest("1") },
    layers: [{ digest: digest("2") }, { digest: digest("3") }],
  });
  t.end();
});

t.test("of an index, the entry of this platform is taken, one without variant first", (t) => {
  const entry = (digit: string, platform: object): object => ({ ...descriptor(digit), platform });
  const index = parseManifest(
    bytes({
      manifests: [
        entry("1", { os: "linux", architecture: "arm64", variant: "v8" }),
        entry("2", { os: "linux", architecture: "amd64", variant: "v3" }),
        entry("3", { os: "linux", architecture: "amd64" }),
        entry("4", { os: "unknown", architecture: "unknown" }),
      ],
    }),
    "",
  );
  if (index.kind !== "index") throw new Error("an index was expected");
  const choose = (os: string, architecture: string): string | undefined =>
    chooseEntry(index.manifests, { os, architecture })?.digest;
  t.equal(choose("linux", "amd64"), digest("3"));
  t.equal(choose("linux", "arm64"), digest("1"));
  t.equal(choose("windows", "amd64"), undefined);
  t.end();
});

t.test("a variant takes what was made for those before it, then what says nothing", (t) => {
  const cases = [
    { wanted: "v7", entries: ["v5", "v6", "v8"], chosen: 1 },
    { wanted: "v7", entries: ["v6", "v7"], chosen: 1 },
    { wanted: "v7", entries: ["v8", "plain"], chosen: 1 },
    { wanted: "v6", entries: ["v7"], chosen: undefined },
    { wanted: "v7", entries: ["v8", "none"], chosen: 1 },
    { wanted: undefined, entries: ["none", "v7"], chosen: 1 },
    { wanted: undefined, entries: ["none"], chosen: 0 },
  ];
  for (const { wanted, entries, chosen } of cases) {
    const arm = { os: "linux", architecture: "arm" };
    const index = entries.map((variant, at) => ({
      mediaType: "",
      digest: String(at),
      size: 1,
      ...(variant !== "none" && { platform: { ...arm, ...(variant !== "plain" && { variant }) } }),
    }));
    const platform = { ...arm, ...(wanted !== undefined && { variant: wanted }) };
    t.equal(chooseEntry(index, platform)?.digest, chosen?.toString(), `${wanted} of ${entries.join(" ")}`);
  }
  t.end();
});

for (const [name, value] of [
  ["not JSON", Buffer.from("<html>")],
  ["a list", bytes([])],
  ["schema 1", bytes({ schemaVersion: 1, fsLayers: [] })],
  ["no layers", bytes({ config: descriptor("1") })],
  ["a digest of another kind", bytes({ config: { ...descriptor("1"), digest: "md5:1" }, layers: [] })],
  ["a negative size", bytes({ config: { ...descriptor("1"), size: -1 }, layers: [] })],
  [
    "too many layers",
    bytes({ config: descriptor("1"), layers: Array.from({ length: 600 }, () => descriptor("2")) }),
  ],
] as const) {
  t.test(`a manifest that is ${name} is refused`, (t) => {
    t.throws(() => parseManifest(value, ""), { code: "failed-precondition" });
    t.end();
  });
}

t.test("an image configuration, health times in milliseconds", (t) => {
  const parsed = parseConfig(
    bytes({
      architecture: "amd64",
      os: "linux",
      created: "2024-01-02T03:04:05Z",
      rootfs: { diff_ids: [digest("1")] },
      config: {
        Env: ["A=1"],
        Entrypoint: ["/init"],
        Cmd: "run it",
        StopSignal: "SIGQUIT",
        Volumes: { "/data": {} },
        ExposedPorts: { "80/tcp": {} },
        Healthcheck: { Test: ["CMD", "x"], Interval: 2e9, Timeout: 500e6, Retries: 4 },
      },
    }),
  );
  t.match(parsed, {
    createdAtMs: Date.UTC(2024, 0, 2, 3, 4, 5),
    config: {
      entrypoint: ["/init"],
      cmd: ["/bin/sh", "-c", "run it"],
      stopSignal: "SIGQUIT",
      volumes: ["/data"],
      exposedPorts: ["80/tcp"],
      healthcheck: { test: ["CMD", "x"], intervalMs: 2000, timeoutMs: 500, retries: 4 },
    },
  });
  t.throws(() => parseConfig(bytes({ rootfs: { diff_ids: ["x"] } })), { code: "failed-precondition" });
  t.end();
});

for (const { text, want } of [
  { text: "linux/arm64", want: "linux/arm64" },
  { text: "linux/arm/v7", want: "linux/arm/v7" },
  { text: "linux/x86_64", want: "linux/amd64" },
  { text: "arm64", want: "linux/arm64" },
  { text: "linux", want: "linux/amd64" },
  { text: "LINUX/aarch64", want: "linux/arm64" },
]) {
  t.test(`platform ${text}`, (t) => {
    t.equal(printPlatform(parsePlatform(text, { os: "linux", architecture: "x86_64" })), want);
    t.end();
  });
}

for (const text of ["", "a/b/c/d", "linux/", "linux/a b"]) {
  t.test(`platform ${JSON.stringify(text)} is refused`, (t) => {
    t.throws(() => parsePlatform(text), { code: "invalid-argument" });
    t.end();
  });
}
