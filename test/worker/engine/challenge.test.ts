import t from "tap";

import { parseChallenges } from "../../../worker/engine/challenge.ts";

const cases = [
  {
    name: "a token service with service and scope",
    header:
      'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull"',
    want: [
      {
        kind: "bearer",
        realm: "https://auth.docker.io/token",
        service: "registry.docker.io",
        scope: "repository:a/b:pull",
      },
    ],
  },
  {
    name: "basic",
    header: 'Basic realm="Registry Realm"',
    want: [{ kind: "basic", realm: "Registry Realm" }],
  },
  {
    name: "a comma inside quotes does not end a value",
    header: 'Bearer realm="https://x/t",scope="repository:a:pull,push"',
    want: [{ kind: "bearer", realm: "https://x/t", scope: "repository:a:pull,push" }],
  },
  {
    name: "two challenges in one header",
    header: 'Bearer realm="https://x/t", Basic realm="y"',
    want: [
      { kind: "bearer", realm: "https://x/t" },
      { kind: "basic", realm: "y" },
    ],
  },
  {
    name: "schemes and names in any case, spaces around",
    header: 'bearer Realm = "https://x/t"',
    want: [{ kind: "bearer", realm: "https://x/t" }],
  },
  { name: "a bearer without realm is no use", header: 'Bearer service="x"', want: [] },
  {
    name: "unknown schemes are passed over",
    header: 'Negotiate abc==, Basic realm="y"',
    want: [{ kind: "basic", realm: "y" }],
  },
  { name: "nothing", header: "", want: [] },
] as const;

for (const { name, header, want } of cases) {
  t.test(name, (t) => {
    t.strictSame(parseChallenges(header), want);
    t.end();
  });
}
