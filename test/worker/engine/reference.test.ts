import t from "tap";

import { parseReference, printReference, registryHost } from "../../../worker/engine/reference.ts";

const digest = `sha256:${"ab".repeat(32)}`;
const cases = [
  {
    name: "a bare name is Docker Hub's library, tag latest",
    text: "nginx",
    want: "docker.io/library/nginx:latest",
  },
  { name: "a user's repository", text: "me/app:2", want: "docker.io/me/app:2" },
  { name: "a host with a port", text: "10.0.0.1:5000/a/b:x", want: "10.0.0.1:5000/a/b:x" },
  { name: "localhost is a host", text: "localhost/a", want: "localhost/a:latest" },
  { name: "an IPv6 host", text: "[::1]:5000/a:1", want: "[::1]:5000/a:1" },
  {
    name: "a digest makes the tag meaningless",
    text: `nginx:1.27@${digest}`,
    want: `docker.io/library/nginx@${digest}`,
  },
  {
    name: "the old name of Docker Hub",
    text: "index.docker.io/library/nginx",
    want: "docker.io/library/nginx:latest",
  },
] as const;

for (const { name, text, want } of cases) {
  t.test(name, (t) => {
    t.equal(printReference(parseReference(text)), want);
    t.equal(printReference(parseReference(want)), want, "the full form stays as it is");
    t.end();
  });
}

for (const text of [
  "",
  "UPPER",
  "a:b:c",
  "a b",
  "nginx@sha256:12",
  "../etc",
  "host:port/x",
  "a//b",
  "a".repeat(300),
  "a:",
]) {
  t.test(`${JSON.stringify(text.slice(0, 20))} is refused`, (t) => {
    t.throws(() => parseReference(text), { code: "invalid-argument", message: /invalid reference format/ });
    t.end();
  });
}

t.test("Docker Hub's registry is not where its name says", (t) => {
  t.equal(registryHost("docker.io"), "registry-1.docker.io");
  t.equal(registryHost("quay.io"), "quay.io");
  t.end();
});
