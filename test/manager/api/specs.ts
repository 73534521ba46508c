/** A service with everything that the API can say and we can hold, as a client sends it. */
export function fullService(ids: {
  readonly network: string;
  readonly secret: string;
  readonly config: string;
}): object {
  return {
    Name: "full",
    Labels: { "com.example.a": "1", empty: "" },
    TaskTemplate: {
      ContainerSpec: {
        Image: "registry.example.com:5000/team/app:1.2@sha256:" + "ab".repeat(32),
        Labels: { inner: "x" },
        Command: ["/bin/app"],
        Args: ["--flag", "v"],
        Hostname: "{{.Service.Name}}-{{.Task.Slot}}",
        Env: ["A=1", "B", "NODE={{.Node.Hostname}}", 'L={{index .Service.Labels "empty"}}'],
        Dir: "/srv",
        User: "1000:1000",
        Groups: ["wheel"],
        Privileges: {
          CredentialSpec: null,
          SELinuxContext: null,
          Seccomp: { Mode: "custom", Profile: "e30=" },
          AppArmor: { Mode: "disabled" },
          NoNewPrivileges: true,
        },
        Init: false,
        StopSignal: "SIGINT",
        TTY: true,
        OpenStdin: true,
        ReadOnly: true,
        Mounts: [
          {
            Type: "bind",
            Source: "/etc",
            Target: "/host-etc",
            ReadOnly: true,
            BindOptions: { Propagation: "rslave", NonRecursive: true },
          },
          {
            Type: "volume",
            Source: "data",
            Target: "/data",
            VolumeOptions: {
              NoCopy: true,
              Labels: { v: "1" },
              DriverConfig: { Name: "local", Options: { o: "size=1m" } },
              Subpath: "a/b",
            },
          },
          { Type: "volume", Target: "/anonymous" },
          {
            Type: "tmpfs",
            Target: "/tmp",
            TmpfsOptions: { SizeBytes: 1_048_576, Mode: 1023, Options: [["noexec"], ["uid", "7"]] },
          },
        ],
        StopGracePeriod: 0,
        Healthcheck: {
          Test: ["CMD-SHELL", "true"],
          Interval: 1_500_000,
          Timeout: 2_000_000_000,
          StartPeriod: 3_000_000_000,
          StartInterval: 1_000_000,
          Retries: 4,
        },
        Hosts: ["10.0.0.1 db db.local"],
        DNSConfig: { Nameservers: ["9.9.9.9"], Search: ["example.com"], Options: ["ndots:1"] },
        Secrets: [
          { File: { Name: "key", UID: "0", GID: "0", Mode: 292 }, SecretID: ids.secret, SecretName: "s1" },
        ],
        Configs: [
          {
            File: { Name: "/c.conf", UID: "0", GID: "0", Mode: 292 },
            ConfigID: ids.config,
            ConfigName: "c1",
          },
        ],
        Isolation: "default",
        Sysctls: { "net.core.somaxconn": "1024" },
        CapabilityAdd: ["CAP_NET_ADMIN"],
        CapabilityDrop: ["CAP_CHOWN"],
        Ulimits: [{ Name: "nofile", Soft: 1024, Hard: -1 }],
        OomScoreAdj: -100,
      },
      Resources: {
        Limits: { NanoCPUs: 500_000_000, MemoryBytes: 67_108_864, Pids: 50 },
        Reservations: {
          NanoCPUs: 1_000_000,
          MemoryBytes: 4_194_304,
          GenericResources: [{ DiscreteResourceSpec: { Kind: "gpu", Value: 2 } }],
        },
      },
      RestartPolicy: { Condition: "on-failure", Delay: 1_000_001, MaxAttempts: 3, Window: 120_000_000_000 },
      Placement: {
        Constraints: ["node.role==worker", "node.labels.zone != b"],
        Preferences: [{ Spread: { SpreadDescriptor: "node.labels.zone" } }],
        MaxReplicas: 2,
        Platforms: [{ Architecture: "amd64", OS: "linux" }],
      },
      Networks: [{ Target: ids.network, Aliases: ["app"], DriverOpts: { x: "y" } }],
      LogDriver: { Name: "json-file", Options: { "max-size": "1m" } },
      ForceUpdate: 7,
      Runtime: "container",
    },
    Mode: { Replicated: { Replicas: 3 } },
    UpdateConfig: {
      Parallelism: 2,
      Delay: 10_000_000_000,
      FailureAction: "rollback",
      Monitor: 0,
      MaxFailureRatio: 0.25,
      Order: "start-first",
    },
    RollbackConfig: {
      Parallelism: 0,
      FailureAction: "continue",
      Monitor: 1_000_000_000,
      MaxFailureRatio: 0,
      Order: "stop-first",
    },
    EndpointSpec: {
      Mode: "dnsrr",
      Ports: [
        { Name: "web", Protocol: "tcp", TargetPort: 80, PublishedPort: 8080, PublishMode: "host" },
        { Protocol: "udp", TargetPort: 53, PublishMode: "host" },
      ],
    },
  };
}

export function plainService(name: string, change: object = {}): object {
  return { Name: name, TaskTemplate: { ContainerSpec: { Image: "app:1" } }, ...change };
}
