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

/** As `docker stack config -c a.yaml -c b.yaml` puts them together. */
const merges = [
  {
    name: "variables, labels and settings go together by name, in either form",
    a: "{ environment: { A: 1, B: 2 }, labels: [x=1], sysctls: { net.a: 1 } }",
    b: "{ environment: [C=3, B=9], labels: { y: 2 }, sysctls: [net.b=2] }",
    want: {
      environment: { A: 1, B: "9", C: "3" },
      labels: { x: "1", y: 2 },
      sysctls: { "net.a": 1, "net.b": "2" },
    },
  },
  {
    name: "what is deployed is merged in its depth, and lists in it are joined",
    a: "{ deploy: { replicas: 2, labels: { q: r }, placement: { constraints: [node.role==worker] }, resources: { limits: { cpus: '0.5', memory: 50M } } } }",
    b: "{ deploy: { replicas: 0, labels: [t=u], placement: { constraints: [node.id==x] }, resources: { limits: { cpus: '0.7' } } } }",
    want: {
      deploy: {
        replicas: 0,
        labels: { q: "r", t: "u" },
        placement: { constraints: ["node.role==worker", "node.id==x"] },
        resources: { limits: { cpus: "0.7", memory: "50M" } },
      },
    },
  },
  {
    name: "command and entrypoint are the later file's",
    a: "{ command: [one, two], entrypoint: [e1], healthcheck: { test: [CMD, a], retries: 3 } }",
    b: "{ command: [three], entrypoint: e2, healthcheck: { test: b, interval: 5s } }",
    want: { command: ["three"], entrypoint: "e2", healthcheck: { test: "b", retries: 3, interval: "5s" } },
  },
  {
    name: "lists are joined, also those written as one text",
    a: "{ cap_add: [A], dns: 1.1.1.1, tmpfs: [/t], env_file: e, extra_hosts: ['a:1.1.1.1'] }",
    b: "{ cap_add: [B], dns: [8.8.8.8], tmpfs: /u, env_file: [f], extra_hosts: { b: 2.2.2.2 } }",
    want: {
      cap_add: ["A", "B"],
      dns: ["1.1.1.1", "8.8.8.8"],
      tmpfs: ["/t", "/u"],
      env_file: ["e", "f"],
      extra_hosts: ["a:1.1.1.1", "b:2.2.2.2"],
    },
  },
  {
    name: "ports by what they publish, mounts by where, secrets by what",
    a: "{ ports: ['80:80', { target: 9, published: 99, mode: host }, '7'], volumes: ['/v:/a', '/w:/b'], secrets: [s1, s2] }",
    b: "{ ports: ['80:81', { target: 9, published: 99 }, '90:90'], volumes: ['/x:/a'], secrets: [{ source: s1, target: t }] }",
    want: {
      ports: [
        { protocol: "tcp", target: 7, mode: "ingress" },
        { protocol: "tcp", target: 81, published: 80, mode: "ingress" },
        { target: 9, published: 99 },
        { protocol: "tcp", target: 90, published: 90, mode: "ingress" },
      ],
      volumes: ["/x:/a", "/w:/b"],
      secrets: [{ source: "s1", target: "t" }, "s2"],
    },
  },
  {
    name: "options of one log driver are joined, those of another are not",
    a: "{ logging: { driver: json-file, options: { a: b } } }",
    b: "{ logging: { options: { c: d } } }",
    want: { logging: { driver: "json-file", options: { a: "b", c: "d" } } },
  },
  {
    name: "another log driver has its own options alone",
    a: "{ logging: { driver: json-file, options: { a: b } } }",
    b: "{ logging: { driver: syslog } }",
    want: { logging: { driver: "syslog" } },
  },
  {
    name: "networks are added, and one of them is as the later file has it; what is null says nothing",
    a: "{ networks: { n1: { aliases: [x] } }, deploy: { replicas: 1 }, ulimits: { nofile: 10 } }",
    b: "{ networks: [n2], deploy: null, ulimits: { nproc: 5 } }",
    want: {
      networks: { n1: { aliases: ["x"] }, n2: null },
      deploy: { replicas: 1 },
      ulimits: { nofile: 10, nproc: 5 },
    },
  },
] as const;

for (const { name, a, b, want } of merges) {
  t.test(`of several files ${name}`, (t) => {
    const files = [a, b].map((text, at) => write(`merge${at}.yaml`, `services: { web: ${text} }`));
    t.strictSame(loadCompose(files, {}, () => {}).file.services?.["web"], want);
    t.end();
  });
}

t.test("what belongs to this host is looked up here: paths of binds, variables that are only named", (t) => {
  const file = write(
    "here.yaml",
    `services:
  web:
    environment: [FOO, NONE, SET=1]
    volumes: ["./data:/data", "~/x:/x:ro", "../up:/up", "/abs:/abs", "v:/v", { type: bind, source: ./long, target: /l }]
volumes: { v: {} }`,
  );
  const { file: loaded, folder } = loadCompose([file], { FOO: "shell", HOME: "/home/me" }, () => {});
  const { environment, volumes } = loaded.services?.["web"] ?? {};
  t.strictSame(environment, { FOO: "shell", NONE: null, SET: "1" });
  t.strictSame(volumes, [
    { type: "bind", source: join(folder, "data"), target: "/data" },
    { type: "bind", source: "/home/me/x", target: "/x", read_only: true },
    { type: "bind", source: join(folder, "../up"), target: "/up" },
    "/abs:/abs",
    "v:/v",
    { type: "bind", source: join(folder, "long"), target: "/l" },
  ]);
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
