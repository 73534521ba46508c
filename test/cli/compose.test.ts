import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { convertStack } from "../../cli/compose/convert.ts";
import { loadCompose } from "../../cli/compose/load.ts";
import type { ComposeFile } from "../../cli/compose/types.ts";

const folder = mkdtempSync(join(tmpdir(), "shoal-compose-"));
t.teardown(() => rmSync(folder, { recursive: true, force: true }));

function write(name: string, text: string): string {
  const path = join(folder, name);
  writeFileSync(path, text);
  return path;
}

function load(text: string, environment: Record<string, string> = {}): ComposeFile {
  return loadCompose([write("compose.yaml", text)], environment, () => {}).file;
}

t.test("variables, merge keys and the schema work on one file", (t) => {
  const file = load(
    `
x-base: &base
  image: \${REGISTRY:-reg:5000}/web:1
  environment: { A: "1" }
services:
  web:
    <<: *base
    deploy: { replicas: 2 }
`,
    { REGISTRY: "other:5000" },
  );
  t.match(file.services?.["web"], {
    image: "other:5000/web:1",
    environment: { A: "1" },
    deploy: { replicas: 2 },
  });
  t.end();
});

// What `docker stack config` of Docker CLI 28.2 made of each as the value of a variable, where both can be the same text.
const numbers = {
  "0400": "256",
  "0o400": "256",
  "-0400": "-256",
  "04_00": "256",
  "0b11": "3",
  "0x1F": "31",
  "+12": "12",
  "-0x10": "-16",
  "1_000": "1000",
  "1.50": "1.5",
  ".5": "0.5",
  "1e3": "1000",
  "0800": "800",
  "08.5": "8.5",
  "12345678901234567890": "12345678901234567890",
  "190:20:30": "190:20:30",
  "1:30": "1:30",
  _1: "_1",
  "12e": "12e",
  "0b12": "0b12",
  yes: "yes",
  off: "off",
  y: "y",
  "'0400'": "0400",
} as const;

for (const [written, want] of Object.entries(numbers)) {
  t.test(`${written} is read as docker reads it`, (t) => {
    const file = load(`services: { a: { image: x, environment: { V: ${written} } } }`);
    const service = convertStack("s", file).services[0];
    t.strictSame(service?.spec.TaskTemplate.ContainerSpec.Env, [`V=${want}`]);
    t.end();
  });
}

t.test("the mode of a secret is octal in both spellings, and ports with a colon are no numbers", (t) => {
  const { services } = convertStack(
    "s",
    load(`
services:
  a:
    image: x
    ports: [22:22, 8080]
    secrets: [{ source: pw, target: a, mode: 0400 }, { source: pw, target: b, mode: 0o440 }]
secrets: { pw: { file: ./pw } }
`),
  );
  t.match(services[0]?.secrets, [{ file: { Mode: 0o400 } }, { file: { Mode: 0o440 } }]);
  const ports = services[0]?.spec.EndpointSpec?.Ports ?? [];
  t.strictSame(
    ports.map(({ PublishedPort, TargetPort }) => [PublishedPort, TargetPort]),
    [
      [undefined, 8080],
      [22, 22],
    ],
  );
  t.end();
});

t.test("variables stand for numbers and booleans where the file has such", (t) => {
  const text = `
services:
  a:
    image: x
    tty: \${TTY:-yes}
    labels: { n: "\${N}" }
    ports: [{ target: "\${PORT:-80}", published: "\${PORT:-80}" }]
    secrets: [{ source: pw, mode: "\${MODE:-0400}" }]
    deploy: { replicas: "\${N}", update_config: { max_failure_ratio: "\${RATIO:-.5}" } }
secrets: { pw: { file: ./pw, external: "\${OFF:-off}" } }
`;
  const file = load(text, { N: "03" });
  t.strictSame(file.services?.["a"], {
    image: "x",
    tty: true,
    labels: { n: "03" },
    ports: [{ target: 80, published: 80 }],
    secrets: [{ source: "pw", mode: 400 }], // As docker: a variable's number is decimal.
    deploy: { replicas: 3, update_config: { max_failure_ratio: 0.5 } },
  });
  t.equal(file.secrets?.["pw"]?.external, false);
  t.throws(() => load(text, { N: "many" }), {
    message: 'services.a.deploy.replicas: "many" is not an integer',
  });
  t.throws(() => load(text, { N: "1", TTY: "perhaps" }), {
    message: 'services.a.tty: "perhaps" is not a boolean',
  });
  t.end();
});

const refusals = [
  {
    name: "an unknown key",
    text: "services: { a: { image: x, colour: red } }",
    want: /services\.a .*'colour'/,
  },
  {
    name: "a mode in quotes",
    text: 'services: { a: { image: x, secrets: [{ source: s, mode: "0400" }] } }',
    want: /mode must be number/,
  },
  {
    name: "a boolean of YAML 1.1",
    text: "services: { a: { image: x, tty: yes } }",
    want: /tty must be boolean/,
  },
  { name: "a wrong type", text: "services: { a: { image: 5 } }", want: /services\.a\.image must be string/ },
  {
    name: "a bad duration",
    text: "services: { a: { image: x, stop_grace_period: soon } }",
    want: /stop_grace_period/,
  },
  {
    name: "an old format",
    text: 'version: "2.4"\nservices: { a: { image: x } }',
    want: /unsupported Compose file version/,
  },
  { name: "no mapping", text: "- a", want: /must be a mapping/ },
  { name: "broken YAML", text: "services: {", want: /compose\.yaml: / },
] as const;

for (const { name, text, want } of refusals) {
  t.test(`${name} is refused and the place is named`, (t) => {
    t.throws(() => load(text), want);
    t.end();
  });
}

t.test("later files override earlier ones key by key", (t) => {
  const first = write("a.yaml", "services: { web: { image: x, user: a }, db: { image: y } }");
  const second = write("b.yaml", "services: { web: { image: z } }");
  const { file } = loadCompose([first, second], {}, () => {});
  t.strictSame(file.services, { web: { image: "z", user: "a" }, db: { image: "y" } });
  t.end();
});

t.test("a service without networks is on the stack's default network, under its own short name", (t) => {
  const stack = convertStack("st", load("services: { web: { image: x } }"));
  t.strictSame(
    stack.networks.map(({ name, external }) => ({ name, external })),
    [{ name: "st_default", external: false }],
  );
  t.strictSame(stack.services[0]?.spec.TaskTemplate.Networks, [{ Target: "st_default", Aliases: ["web"] }]);
  t.equal(stack.services[0]?.spec.Name, "st_web");
  t.match(stack.services[0]?.spec.Labels, {
    "com.docker.stack.namespace": "st",
    "com.docker.stack.image": "x",
  });
  t.end();
});

t.test("a whole service becomes the API's fields", (t) => {
  const stack = convertStack(
    "st",
    load(`
services:
  web:
    image: web:1
    command: httpd -f "-p 80"
    environment: { B: "2", A: null }
    ports: ["8080:80", { mode: host, target: 81, published: 8081 }]
    volumes: ["data:/data:ro", "/etc:/host", { type: tmpfs, target: /t, tmpfs: { size: 1000 } }]
    healthcheck: { test: "true", interval: 5s }
    stop_grace_period: 1m
    ulimits: { nofile: 10 }
    extra_hosts: ["h:10.0.0.1"]
    configs: [{ source: c, target: /etc/c }]
    build: .
    deploy:
      mode: replicated
      replicas: 3
      update_config: { order: start-first, failure_action: rollback }
      restart_policy: { condition: on-failure, max_attempts: 3 }
      resources: { limits: { cpus: "0.5", memory: 64M } }
      placement: { constraints: ["node.role==worker"], max_replicas_per_node: 1 }
volumes: { data: { labels: { a: b } } }
configs: { c: { file: ./c.txt } }
networks: { default: { attachable: true } }
`),
  );
  const spec = stack.services[0]?.spec;
  t.match(spec?.TaskTemplate.ContainerSpec, {
    Args: ["httpd", "-f", "-p 80"],
    Env: ["A", "B=2"],
    StopGracePeriod: 60e9,
    Healthcheck: { Test: ["CMD-SHELL", "true"], Interval: 5e9 },
    Ulimits: [{ Name: "nofile", Soft: 10, Hard: 10 }],
    Hosts: ["10.0.0.1 h"],
    Mounts: [
      {
        Type: "volume",
        Source: "st_data",
        Target: "/data",
        ReadOnly: true,
        VolumeOptions: { Labels: { a: "b" } },
      },
      { Type: "bind", Source: "/etc", Target: "/host" },
      { Type: "tmpfs", Target: "/t", TmpfsOptions: { SizeBytes: 1000 } },
    ],
  });
  t.strictSame(spec?.Mode, { Replicated: { Replicas: 3 } });
  t.match(spec?.UpdateConfig, { Parallelism: 1, Order: "start-first", FailureAction: "rollback" });
  t.match(spec?.TaskTemplate, {
    RestartPolicy: { Condition: "on-failure", MaxAttempts: 3 },
    Resources: { Limits: { NanoCPUs: 5e8, MemoryBytes: 64 * 1024 ** 2 } },
    Placement: { Constraints: ["node.role==worker"], MaxReplicas: 1 },
  });
  t.strictSame(
    spec?.EndpointSpec?.Ports?.map(({ PublishedPort, PublishMode }) => [PublishedPort, PublishMode]),
    [
      [8080, "ingress"],
      [8081, "host"],
    ],
  );
  t.match(stack.services[0]?.configs, [{ object: "st_c", file: { Name: "/etc/c", Mode: 0o444 } }]);
  t.equal(stack.networks[0]?.body?.["Attachable"], true);
  t.end();
});

t.test("names that are declared nowhere are refused", (t) => {
  t.throws(
    () => convertStack("s", load("services: { a: { image: x, networks: [n] } }")),
    /undefined network "n"/,
  );
  t.throws(
    () => convertStack("s", load("services: { a: { image: x, volumes: ['v1:/a'] } }")),
    /undefined volume "v1"/,
  );
  t.throws(
    () => convertStack("s", load("services: { a: { image: x, configs: [c] } }")),
    /undefined config "c"/,
  );
  t.throws(() => convertStack("s", load("services: { a: { user: x } }")), /no image specified/);
  t.end();
});
