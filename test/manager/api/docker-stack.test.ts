import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { systemClock } from "../../../runtime/clock.ts";
import { dockerCli, hasDocker } from "./docker-cli.ts";
import { ask, makeHarness } from "./harness.ts";

const full = `
version: "3.13"
services:
  web:
    image: app:1
    command: ["serve", "--port", "80"]
    entrypoint: /entry
    env_file: [./web.env]
    environment: { B: "2" }
    labels: { container: label }
    depends_on: [db]
    hostname: "h-{{.Task.Slot}}"
    user: "1000"
    working_dir: /srv
    init: true
    read_only: true
    stop_grace_period: 7s
    stop_signal: SIGINT
    tty: true
    stdin_open: true
    cap_add: [NET_ADMIN]
    dns: [1.1.1.1]
    extra_hosts: ["other:10.0.0.1"]
    sysctls: { net.core.somaxconn: "1024" }
    ulimits: { nofile: { soft: 10, hard: 20 } }
    healthcheck: { test: ["CMD", "check"], interval: 5s, timeout: 2s, retries: 4, start_period: 3s }
    logging: { driver: json-file, options: { max-size: 1m } }
    configs: [{ source: settings, target: /etc/settings, uid: "5", gid: "6", mode: 0440 }]
    secrets: [{ source: key, target: the-key, mode: 0400 }]
    networks: { front: { aliases: [www] } }
    volumes: ["data:/data:ro", "/host:/host", { type: tmpfs, target: /tmp, tmpfs: { size: 4096 } }]
    ports: [{ target: 80, published: 8080, protocol: tcp, mode: host }]
    deploy:
      mode: replicated
      replicas: 3
      labels: { service: label }
      endpoint_mode: dnsrr
      placement:
        constraints: [node.role == worker]
        preferences: [{ spread: node.labels.zone }]
        max_replicas_per_node: 2
      resources:
        limits: { cpus: "0.5", memory: 64M, pids: 50 }
        reservations: { cpus: "0.25", memory: 32M }
      restart_policy: { condition: on-failure, delay: 2s, max_attempts: 3, window: 30s }
      update_config: { parallelism: 2, delay: 1s, order: start-first, failure_action: rollback, monitor: 4s, max_failure_ratio: 0.3 }
      rollback_config: { parallelism: 0, order: stop-first }
  db:
    image: db:1
    deploy: { mode: global }
  sweep:
    image: app:1
    deploy: { mode: replicated-job, replicas: 4 }
networks: { front: { driver: overlay, attachable: true } }
volumes: { data: {} }
configs: { settings: { file: ./settings.txt } }
secrets: { key: { file: ./settings.txt } }
`;

const small = `
version: "3.13"
services:
  db: { image: "db:2", deploy: { mode: global } }
configs: { settings: { file: ./settings.txt } }
`;

const s = 1_000_000_000;

if (!hasDocker()) {
  t.comment("SKIPPED: no docker client on PATH");
  t.pass("nothing to drive");
} else {
  t.test("a compose file with every part of a service, deployed, changed and pruned", async (t) => {
    const harness = await makeHarness({ clock: systemClock });
    const docker = await dockerCli(harness);
    const folder = mkdtempSync(join(tmpdir(), "shoal-stack-"));
    t.teardown(async () => {
      rmSync(folder, { recursive: true, force: true });
      await docker.close();
    });
    const file = join(folder, "stack.yml");
    writeFileSync(join(folder, "web.env"), "A=1\n");
    writeFileSync(join(folder, "settings.txt"), "hello");
    const deploy = (text: string, ...flags: string[]): ReturnType<typeof docker.run> => {
      writeFileSync(file, text);
      return docker.run("stack", "deploy", "--detach=true", ...flags, "-c", file, "st");
    };
    const specs = async (): Promise<Record<string, object>> => {
      const { json } = await ask(harness, "GET /services");
      return Object.fromEntries(
        (json as { Spec: { Name: string } }[]).map(({ Spec }) => [Spec.Name, Spec] as const),
      );
    };
    const first = await deploy(full, "--resolve-image", "never");
    t.equal(first.code, 0, first.err);
    const deployed = await specs();
    t.strictSame(Object.keys(deployed).toSorted(), ["st_db", "st_sweep", "st_web"]);
    const labels = { "com.docker.stack.namespace": "st" };
    t.match(deployed["st_web"], {
      Labels: { ...labels, "com.docker.stack.image": "app:1", service: "label" },
      Mode: { Replicated: { Replicas: 3 } },
      EndpointSpec: { Mode: "dnsrr", Ports: [{ TargetPort: 80, PublishedPort: 8080, PublishMode: "host" }] },
      UpdateConfig: {
        Parallelism: 2,
        Delay: s,
        Order: "start-first",
        FailureAction: "rollback",
        Monitor: 4 * s,
        MaxFailureRatio: Number,
      },
      RollbackConfig: { Parallelism: 0, Order: "stop-first" },
      TaskTemplate: {
        ContainerSpec: {
          Image: "app:1",
          Command: ["/entry"],
          Args: ["serve", "--port", "80"],
          Env: ["A=1", "B=2"],
          Labels: { ...labels, container: "label" },
          Hostname: "h-{{.Task.Slot}}",
          User: "1000",
          Dir: "/srv",
          Init: true,
          ReadOnly: true,
          StopGracePeriod: 7 * s,
          StopSignal: "SIGINT",
          TTY: true,
          OpenStdin: true,
          CapabilityAdd: ["CAP_NET_ADMIN"],
          DNSConfig: { Nameservers: ["1.1.1.1"] },
          Hosts: ["10.0.0.1 other"],
          Sysctls: { "net.core.somaxconn": "1024" },
          Ulimits: [{ Name: "nofile", Soft: 10, Hard: 20 }],
          Healthcheck: {
            Test: ["CMD", "check"],
            Interval: 5 * s,
            Timeout: 2 * s,
            Retries: 4,
            StartPeriod: 3 * s,
          },
          Configs: [
            { ConfigName: "st_settings", File: { Name: "/etc/settings", UID: "5", GID: "6", Mode: 0o440 } },
          ],
          Secrets: [{ SecretName: "st_key", File: { Name: "the-key", Mode: 0o400 } }],
          Mounts: [
            { Type: "volume", Source: "st_data", Target: "/data", ReadOnly: true },
            { Type: "bind", Source: "/host", Target: "/host" },
            { Type: "tmpfs", Target: "/tmp", TmpfsOptions: { SizeBytes: 4096 } },
          ],
        },
        LogDriver: { Name: "json-file", Options: { "max-size": "1m" } },
        Networks: [{ Aliases: ["www", "web"] }],
        Placement: {
          Constraints: ["node.role == worker"],
          Preferences: [{ Spread: { SpreadDescriptor: "node.labels.zone" } }],
          MaxReplicas: 2,
        },
        Resources: {
          Limits: { NanoCPUs: s / 2, MemoryBytes: 64 * 1024 * 1024, Pids: 50 },
          Reservations: { NanoCPUs: s / 4, MemoryBytes: 32 * 1024 * 1024 },
        },
        RestartPolicy: { Condition: "on-failure", Delay: 2 * s, MaxAttempts: 3, Window: 30 * s },
      },
    });
    t.match(deployed["st_db"], { Mode: { Global: {} } });
    t.match(deployed["st_sweep"], { Mode: { ReplicatedJob: { TotalCompletions: 4 } } });

    const again = await deploy(full, "--resolve-image", "changed");
    t.equal(again.code, 0, again.err);
    t.strictSame(await specs(), deployed, "the same file again changes nothing");

    writeFileSync(join(folder, "settings.txt"), "changed");
    const other = await deploy(full, "--resolve-image", "never");
    t.equal(other.code, 1);
    t.match(
      other.err,
      /failed to update (?:secret|config) st_(?:key|settings): .*only updates to Labels are allowed/,
    );
    writeFileSync(join(folder, "settings.txt"), "hello");

    const pruned = await deploy(small, "--prune", "--resolve-image", "always");
    t.equal(pruned.code, 0, pruned.err);
    const left = await specs();
    t.strictSame(Object.keys(left), ["st_db"], "prune removes the services that the file no longer has");
    t.match(left["st_db"], { TaskTemplate: { ContainerSpec: { Image: "db:2" } } });
    t.match((await docker.run("network", "ls")).out, "st_front", "and nothing else");

    for (const [text, message] of [
      ["services: { a: { image: x, colour: red } }", "Additional property colour is not allowed"],
      ["services: { a: { image: x, extends: b } }", "extends"],
      ["services: { a: { image: 'A:::b' } }", "is not a valid repository/tag|invalid reference"],
      [
        "services: { a: { image: x, deploy: { placement: { constraints: [a=b] } } } }",
        "constraint expected one operator",
      ],
    ] as const) {
      const refused = await deploy(`version: "3.13"\n${text}\n`, "--resolve-image", "never");
      t.equal(refused.code, 1, text);
      t.match(refused.err, new RegExp(message), text);
    }
    t.equal((await docker.run("stack", "rm", "--detach=true", "st")).code, 0);
    t.strictSame(await specs(), {});
  });
}
