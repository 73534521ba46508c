import { buildImage, buildLayer, busyboxLayer, text, type Image } from "./image.ts";

/** An image and the name it has in the lab's registry, such as `web:1`. */
export interface NamedImage {
  readonly repository: string;
  readonly tag: string;
  readonly image: Image;
}

/** Runs the web server as a child, so that TERM ends it at once: process 1 ignores a signal it has no handler for. */
const serveScript = `#!/bin/sh
trap 'kill $child; exit 0' TERM INT
echo "web version $VERSION serves on port $PORT"
httpd -f -p "$PORT" -h /www &
child=$!
wait $child
`;

const pageScript = `#!/bin/sh
printf 'Content-Type: text/plain\\r\\n\\r\\n'
echo "version=$VERSION host=$(hostname)"
`;

/**
 * The images of the lab, every tag with a digest of its own:
 *
 * - `bb:1`, `bb:2`: a busybox shell; they differ in `/version` and `VERSION`.
 * - `web:1`, `web:2`: answer `version=N host=NAME` on `$PORT` (8080), with a health check.
 * - `web:broken`: ends at once with code 1, as a version does that must be rolled back.
 * - `web:sick`: runs, but its health check never succeeds.
 */
export async function labImages(): Promise<NamedImage[]> {
  const base = await busyboxLayer();
  const path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
  const web = buildLayer([
    { kind: "directory", path: "www/cgi-bin" },
    text("www/cgi-bin/index.cgi", pageScript, 0o755),
    text("bin/serve", serveScript, 0o755),
  ]);
  const health = {
    Test: ["CMD-SHELL", 'wget -q -O /dev/null "http://127.0.0.1:$PORT/" || exit 1'],
    Interval: 1_000_000_000,
    Timeout: 2_000_000_000,
    Retries: 3,
  };
  const shell = (version: string): NamedImage => ({
    repository: "bb",
    tag: version,
    image: buildImage([base, versionLayer(version)], { Env: [path, `VERSION=${version}`], Cmd: ["sh"] }),
  });
  const server = (version: string, cmd: string[], healthcheck = health): NamedImage => ({
    repository: "web",
    tag: version,
    image: buildImage([base, web, versionLayer(version)], {
      Env: [path, `VERSION=${version}`, "PORT=8080"],
      Cmd: cmd,
      ExposedPorts: { "8080/tcp": {} },
      Healthcheck: healthcheck,
    }),
  });
  return [
    shell("1"),
    shell("2"),
    server("1", ["/bin/serve"]),
    server("2", ["/bin/serve"]),
    server("broken", ["sh", "-c", "echo this version is broken >&2; exit 1"]),
    server("sick", ["/bin/serve"], { ...health, Test: ["CMD-SHELL", "exit 1"], Retries: 1 }),
  ];
}

function versionLayer(version: string): ReturnType<typeof buildLayer> {
  return buildLayer([text("version", `${version}\n`)]);
}
