/**
 * Flags of `docker service create` and `update`, and what each changes in the spec of a plain service, as Docker's own engine
 * (20.10, API 1.41) shows it in `docker service inspect`. `null` is for a field that is gone; `<c1>` for the id of what has that name.
 */
export interface FlagCase {
  readonly flags: string;
  readonly changes: object;
}

export const createFlags: readonly FlagCase[] = [
  {
    flags: "--cap-add NET_ADMIN --cap-drop CHOWN",
    changes: {
      TaskTemplate: { ContainerSpec: { CapabilityAdd: ["CAP_NET_ADMIN"], CapabilityDrop: ["CAP_CHOWN"] } },
    },
  },
  { flags: "--cap-add ALL", changes: { TaskTemplate: { ContainerSpec: { CapabilityAdd: ["ALL"] } } } },
  {
    flags: "--config c1",
    changes: {
      TaskTemplate: {
        ContainerSpec: {
          Configs: [
            { File: { Name: "c1", UID: "0", GID: "0", Mode: 292 }, ConfigID: "<c1>", ConfigName: "c1" },
          ],
        },
      },
    },
  },
  {
    flags: "--config source=c1,target=/etc/c,uid=5,gid=6,mode=0440",
    changes: {
      TaskTemplate: {
        ContainerSpec: {
          Configs: [
            { File: { Name: "/etc/c", UID: "5", GID: "6", Mode: 288 }, ConfigID: "<c1>", ConfigName: "c1" },
          ],
        },
      },
    },
  },
  {
    flags: "--constraint node.role==worker --constraint node.labels.a!=b",
    changes: { TaskTemplate: { Placement: { Constraints: ["node.role==worker", "node.labels.a!=b"] } } },
  },
  {
    flags: "--container-label a=b --container-label c",
    changes: { TaskTemplate: { ContainerSpec: { Labels: { a: "b", c: "" } } } },
  },
  {
    flags: "--dns 1.1.1.1 --dns-option ndots:2 --dns-search a.b",
    changes: {
      TaskTemplate: {
        ContainerSpec: { DNSConfig: { Nameservers: ["1.1.1.1"], Search: ["a.b"], Options: ["ndots:2"] } },
      },
    },
  },
  { flags: "--endpoint-mode dnsrr", changes: { EndpointSpec: { Mode: "dnsrr" } } },
  {
    flags: "--entrypoint '/bin/sh -c'",
    changes: { TaskTemplate: { ContainerSpec: { Command: ["/bin/sh", "-c"] } } },
  },
  {
    flags: "--env A=1 --env B -e 'C=x y'",
    changes: { TaskTemplate: { ContainerSpec: { Env: ["A=1", "B", "C=x y"] } } },
  },
  { flags: "--env-file <env-file>", changes: { TaskTemplate: { ContainerSpec: { Env: ["EF=1"] } } } },
  {
    flags: "--generic-resource gpu=2",
    changes: {
      TaskTemplate: {
        Resources: {
          Reservations: { GenericResources: [{ DiscreteResourceSpec: { Kind: "gpu", Value: 2 } }] },
        },
      },
    },
  },
  { flags: "--group 10 --group g2", changes: { TaskTemplate: { ContainerSpec: { Groups: ["10", "g2"] } } } },
  {
    flags:
      "--health-cmd 'curl x' --health-interval 5s --health-retries 2 --health-start-period 3s --health-timeout 1s",
    changes: {
      TaskTemplate: {
        ContainerSpec: {
          Healthcheck: {
            Test: ["CMD-SHELL", "curl x"],
            Interval: 5000000000,
            Timeout: 1000000000,
            StartPeriod: 3000000000,
            Retries: 2,
          },
        },
      },
    },
  },
  {
    flags: "--no-healthcheck",
    changes: { TaskTemplate: { ContainerSpec: { Healthcheck: { Test: ["NONE"] } } } },
  },
  {
    flags: "--host a:1.2.3.4 --host b:::1",
    changes: { TaskTemplate: { ContainerSpec: { Hosts: ["1.2.3.4 a", "::1 b"] } } },
  },
  {
    flags: "--hostname h-{{.Task.Slot}}",
    changes: { TaskTemplate: { ContainerSpec: { Hostname: "h-{{.Task.Slot}}" } } },
  },
  { flags: "--init", changes: { TaskTemplate: { ContainerSpec: { Init: true } } } },
  { flags: "--init=false", changes: {} },
  { flags: "--isolation default", changes: {} },
  { flags: "--label a=b -l c", changes: { Labels: { a: "b", c: "" } } },
  {
    flags: "--limit-cpu 0.5 --limit-memory 64m --limit-pids 100",
    changes: {
      TaskTemplate: { Resources: { Limits: { NanoCPUs: 500000000, MemoryBytes: 67108864, Pids: 100 } } },
    },
  },
  {
    flags: "--log-driver json-file --log-opt max-size=1m --log-opt tag=x",
    changes: { TaskTemplate: { LogDriver: { Name: "json-file", Options: { "max-size": "1m", tag: "x" } } } },
  },
  { flags: "--mode global", changes: { Mode: { Global: {}, Replicated: null } } },
  { flags: "--mode replicated --replicas 3", changes: { Mode: { Replicated: { Replicas: 3 } } } },
  { flags: "--replicas 0", changes: { Mode: { Replicated: { Replicas: 0 } } } },
  {
    flags: "--mode replicated-job --replicas 4 --max-concurrent 2",
    changes: { Mode: { ReplicatedJob: { MaxConcurrent: 2, TotalCompletions: 4 }, Replicated: null } },
  },
  { flags: "--mode global-job", changes: { Mode: { GlobalJob: {}, Replicated: null } } },
  {
    flags: "--mode replicated-job",
    changes: { Mode: { ReplicatedJob: { MaxConcurrent: 1, TotalCompletions: 1 }, Replicated: null } },
  },
  { flags: "--replicas-max-per-node 2", changes: { TaskTemplate: { Placement: { MaxReplicas: 2 } } } },
  {
    flags: "--mount type=bind,source=/tmp,target=/t,readonly,bind-propagation=rslave",
    changes: {
      TaskTemplate: {
        ContainerSpec: {
          Mounts: [
            {
              Type: "bind",
              Source: "/tmp",
              Target: "/t",
              ReadOnly: true,
              BindOptions: { Propagation: "rslave" },
            },
          ],
        },
      },
    },
  },
  {
    flags:
      "--mount type=volume,source=v,target=/v,volume-driver=local,volume-label=a=b,volume-opt=o=1,volume-nocopy",
    changes: {
      TaskTemplate: {
        ContainerSpec: {
          Mounts: [
            {
              Type: "volume",
              Source: "v",
              Target: "/v",
              VolumeOptions: {
                NoCopy: true,
                Labels: { a: "b" },
                DriverConfig: { Name: "local", Options: { o: "1" } },
              },
            },
          ],
        },
      },
    },
  },
  {
    flags: "--mount type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=1770",
    changes: {
      TaskTemplate: {
        ContainerSpec: {
          Mounts: [{ Type: "tmpfs", Target: "/t", TmpfsOptions: { SizeBytes: 1048576, Mode: 1016 } }],
        },
      },
    },
  },
  {
    flags: "--mount type=volume,target=/anon",
    changes: { TaskTemplate: { ContainerSpec: { Mounts: [{ Type: "volume", Target: "/anon" }] } } },
  },
  { flags: "--network net1", changes: { TaskTemplate: { Networks: [{ Target: "<net1>" }] } } },
  { flags: "--network host", changes: { TaskTemplate: { Networks: [{ Target: "<id>" }] } } },
  { flags: "--no-resolve-image", changes: {} },
  {
    flags: "--placement-pref spread=node.labels.dc --placement-pref spread=engine.labels.x",
    changes: {
      TaskTemplate: {
        Placement: {
          Preferences: [
            { Spread: { SpreadDescriptor: "node.labels.dc" } },
            { Spread: { SpreadDescriptor: "engine.labels.x" } },
          ],
        },
      },
    },
  },
  {
    flags: "--publish mode=host,published=8080,target=80",
    changes: {
      EndpointSpec: {
        Ports: [{ Protocol: "tcp", TargetPort: 80, PublishedPort: 8080, PublishMode: "host" }],
      },
    },
  },
  {
    flags: "--publish mode=host,target=80,protocol=udp",
    changes: { EndpointSpec: { Ports: [{ Protocol: "udp", TargetPort: 80, PublishMode: "host" }] } },
  },
  {
    flags: "-p mode=host,published=8081,target=81 -p mode=host,published=8082,target=82",
    changes: {
      EndpointSpec: {
        Ports: [
          { Protocol: "tcp", TargetPort: 81, PublishedPort: 8081, PublishMode: "host" },
          { Protocol: "tcp", TargetPort: 82, PublishedPort: 8082, PublishMode: "host" },
        ],
      },
    },
  },
  { flags: "--read-only", changes: { TaskTemplate: { ContainerSpec: { ReadOnly: true } } } },
  {
    flags: "--reserve-cpu 0.25 --reserve-memory 32m",
    changes: {
      TaskTemplate: { Resources: { Reservations: { NanoCPUs: 250000000, MemoryBytes: 33554432 } } },
    },
  },
  {
    flags: "--restart-condition on-failure --restart-delay 3s --restart-max-attempts 4 --restart-window 1m",
    changes: {
      TaskTemplate: {
        RestartPolicy: { Condition: "on-failure", Delay: 3000000000, MaxAttempts: 4, Window: 60000000000 },
      },
    },
  },
  { flags: "--restart-condition none", changes: { TaskTemplate: { RestartPolicy: { Condition: "none" } } } },
  { flags: "--restart-max-attempts 0", changes: {} },
  {
    flags:
      "--rollback-delay 1s --rollback-failure-action continue --rollback-max-failure-ratio .25 --rollback-monitor 7s --rollback-order start-first --rollback-parallelism 3",
    changes: {
      RollbackConfig: {
        Parallelism: 3,
        Delay: 1000000000,
        FailureAction: "continue",
        Monitor: 7000000000,
        MaxFailureRatio: 0.25,
        Order: "start-first",
      },
    },
  },
  {
    flags: "--secret s1",
    changes: {
      TaskTemplate: {
        ContainerSpec: {
          Secrets: [
            { File: { Name: "s1", UID: "0", GID: "0", Mode: 292 }, SecretID: "<s1>", SecretName: "s1" },
          ],
        },
      },
    },
  },
  {
    flags: "--stop-grace-period 20s --stop-signal SIGQUIT",
    changes: { TaskTemplate: { ContainerSpec: { StopSignal: "SIGQUIT", StopGracePeriod: 20000000000 } } },
  },
  { flags: "--stop-grace-period 0", changes: { TaskTemplate: { ContainerSpec: { StopGracePeriod: 0 } } } },
  {
    flags: "--sysctl net.core.somaxconn=1024",
    changes: { TaskTemplate: { ContainerSpec: { Sysctls: { "net.core.somaxconn": "1024" } } } },
  },
  { flags: "-t", changes: { TaskTemplate: { ContainerSpec: { TTY: true } } } },
  {
    flags: "--ulimit nofile=100:200 --ulimit core=0",
    changes: {
      TaskTemplate: {
        ContainerSpec: {
          Ulimits: [
            { Name: "core", Hard: 0, Soft: 0 },
            { Name: "nofile", Hard: 200, Soft: 100 },
          ],
        },
      },
    },
  },
  {
    flags: "--ulimit core=-1",
    changes: { TaskTemplate: { ContainerSpec: { Ulimits: [{ Name: "core", Hard: -1, Soft: -1 }] } } },
  },
  {
    flags:
      "--update-delay 2s --update-failure-action rollback --update-max-failure-ratio .5 --update-monitor 9s --update-order start-first --update-parallelism 0",
    changes: {
      UpdateConfig: {
        Parallelism: 0,
        Delay: 2000000000,
        FailureAction: "rollback",
        Monitor: 9000000000,
        MaxFailureRatio: 0.5,
        Order: "start-first",
      },
    },
  },
  { flags: "-u 1000:1000", changes: { TaskTemplate: { ContainerSpec: { User: "1000:1000" } } } },
  { flags: "-w /w", changes: { TaskTemplate: { ContainerSpec: { Dir: "/w" } } } },
  { flags: "--with-registry-auth", changes: {} },
  { flags: "", changes: {} },
];

/** Flags that a service is created with, and those of the update that follows. */
export const updateFlags: readonly (FlagCase & { readonly created: string })[] = [
  {
    created: "",
    flags: "--args 'sleep 5'",
    changes: { TaskTemplate: { ContainerSpec: { Args: ["sleep", "5"] } } },
  },
  {
    created: "--cap-add NET_ADMIN",
    flags: "--cap-add SYS_TIME --cap-drop NET_ADMIN",
    changes: { TaskTemplate: { ContainerSpec: { CapabilityAdd: ["CAP_SYS_TIME"] } } },
  },
  {
    created: "--config c1",
    flags: "--config-rm c1 --config-add c2",
    changes: {
      TaskTemplate: {
        ContainerSpec: {
          Configs: [
            { File: { Name: "c2", UID: "0", GID: "0", Mode: 292 }, ConfigID: "<c2>", ConfigName: "c2" },
          ],
        },
      },
    },
  },
  {
    created: "--constraint node.role==worker",
    flags: "--constraint-rm node.role==worker --constraint-add node.id!=x",
    changes: { TaskTemplate: { Placement: { Constraints: ["node.id!=x"] } } },
  },
  {
    created: "--container-label a=b",
    flags: "--container-label-add c=d --container-label-rm a",
    changes: { TaskTemplate: { ContainerSpec: { Labels: { c: "d" } } } },
  },
  {
    created: "--dns 1.1.1.1",
    flags: "--dns-add 2.2.2.2 --dns-rm 1.1.1.1 --dns-option-add x --dns-search-add y",
    changes: {
      TaskTemplate: {
        ContainerSpec: { DNSConfig: { Nameservers: ["2.2.2.2"], Search: ["y"], Options: ["x"] } },
      },
    },
  },
  {
    created: "",
    flags: "--entrypoint /x",
    changes: { TaskTemplate: { ContainerSpec: { Command: ["/x"] } } },
  },
  {
    created: "--env A=1",
    flags: "--env-add B=2 --env-rm A",
    changes: { TaskTemplate: { ContainerSpec: { Env: ["B=2"] } } },
  },
  { created: "", flags: "--force", changes: { TaskTemplate: { ForceUpdate: 1 } } },
  {
    created: "--generic-resource gpu=1",
    flags: "--generic-resource-add ssd=2 --generic-resource-rm gpu",
    changes: {
      TaskTemplate: {
        Resources: {
          Reservations: { GenericResources: [{ DiscreteResourceSpec: { Kind: "ssd", Value: 2 } }] },
        },
      },
    },
  },
  {
    created: "--group 1",
    flags: "--group-add 2 --group-rm 1",
    changes: { TaskTemplate: { ContainerSpec: { Groups: ["2"] } } },
  },
  {
    created: "--health-cmd x",
    flags: "--no-healthcheck",
    changes: { TaskTemplate: { ContainerSpec: { Healthcheck: { Test: ["NONE"] } } } },
  },
  {
    created: "--health-cmd x",
    flags: "--health-interval 9s",
    changes: {
      TaskTemplate: { ContainerSpec: { Healthcheck: { Test: ["CMD-SHELL", "x"], Interval: 9000000000 } } },
    },
  },
  {
    created: "--host a:1.2.3.4",
    flags: "--host-add b:1.2.3.5 --host-rm a:1.2.3.4",
    changes: { TaskTemplate: { ContainerSpec: { Hosts: ["1.2.3.5 b"] } } },
  },
  { created: "", flags: "--hostname hh", changes: { TaskTemplate: { ContainerSpec: { Hostname: "hh" } } } },
  { created: "", flags: "--image app:2", changes: { TaskTemplate: { ContainerSpec: { Image: "app:2" } } } },
  { created: "--label a=b", flags: "--label-add c=d --label-rm a", changes: { Labels: { c: "d" } } },
  {
    created: "",
    flags: "--limit-cpu 1 --limit-memory 1g --limit-pids 5",
    changes: {
      TaskTemplate: { Resources: { Limits: { NanoCPUs: 1000000000, MemoryBytes: 1073741824, Pids: 5 } } },
    },
  },
  { created: "--limit-cpu 1", flags: "--limit-cpu 0", changes: {} },
  {
    created: "",
    flags: "--log-driver json-file --log-opt a=b",
    changes: { TaskTemplate: { LogDriver: { Name: "json-file", Options: { a: "b" } } } },
  },
  {
    created: "--mode replicated-job",
    flags: "--force",
    changes: {
      TaskTemplate: { ForceUpdate: 1 },
      Mode: { ReplicatedJob: { MaxConcurrent: 1, TotalCompletions: 1 }, Replicated: null },
    },
  },
  {
    created: "",
    flags: "--mount-add type=tmpfs,target=/t",
    changes: { TaskTemplate: { ContainerSpec: { Mounts: [{ Type: "tmpfs", Target: "/t" }] } } },
  },
  { created: "--mount type=tmpfs,target=/t", flags: "--mount-rm /t", changes: {} },
  {
    created: "--network net1",
    flags: "--network-add net2 --network-rm net1",
    changes: { TaskTemplate: { Networks: [{ Target: "<net2>" }] } },
  },
  {
    created: "--placement-pref spread=node.labels.a",
    flags: "--placement-pref-add spread=node.labels.b --placement-pref-rm spread=node.labels.a",
    changes: {
      TaskTemplate: { Placement: { Preferences: [{ Spread: { SpreadDescriptor: "node.labels.b" } }] } },
    },
  },
  {
    created: "",
    flags: "--publish-add mode=host,published=9000,target=90",
    changes: {
      EndpointSpec: {
        Ports: [{ Protocol: "tcp", TargetPort: 90, PublishedPort: 9000, PublishMode: "host" }],
      },
    },
  },
  {
    created: "--publish mode=host,published=9000,target=90",
    flags: "--publish-rm 90",
    changes: {
      EndpointSpec: {
        Ports: [{ Protocol: "tcp", TargetPort: 90, PublishedPort: 9000, PublishMode: "host" }],
      },
    },
  },
  { created: "", flags: "--replicas 5", changes: { Mode: { Replicated: { Replicas: 5 } } } },
  {
    created: "",
    flags: "--reserve-cpu 0.1 --reserve-memory 16m",
    changes: {
      TaskTemplate: { Resources: { Reservations: { NanoCPUs: 100000000, MemoryBytes: 16777216 } } },
    },
  },
  {
    created: "",
    flags: "--restart-condition none --restart-delay 9s --restart-max-attempts 2 --restart-window 3s",
    changes: {
      TaskTemplate: {
        RestartPolicy: { Condition: "none", Delay: 9000000000, MaxAttempts: 2, Window: 3000000000 },
      },
    },
  },
  {
    created: "",
    flags: "--rollback-delay 1s --rollback-parallelism 2 --rollback-order start-first",
    changes: { RollbackConfig: { Parallelism: 2, Delay: 1000000000, Order: "start-first" } },
  },
  {
    created: "--secret s1",
    flags: "--secret-rm s1 --secret-add s2",
    changes: {
      TaskTemplate: {
        ContainerSpec: {
          Secrets: [
            { File: { Name: "s2", UID: "0", GID: "0", Mode: 292 }, SecretID: "<s2>", SecretName: "s2" },
          ],
        },
      },
    },
  },
  {
    created: "",
    flags: "--stop-grace-period 3s --stop-signal SIGINT",
    changes: { TaskTemplate: { ContainerSpec: { StopSignal: "SIGINT", StopGracePeriod: 3000000000 } } },
  },
  {
    created: "--sysctl net.a=1",
    flags: "--sysctl-add net.b=2 --sysctl-rm net.a",
    changes: { TaskTemplate: { ContainerSpec: { Sysctls: { "net.b": "2" } } } },
  },
  { created: "", flags: "--tty", changes: { TaskTemplate: { ContainerSpec: { TTY: true } } } },
  {
    created: "--ulimit nofile=1:2",
    flags: "--ulimit-add core=0 --ulimit-rm nofile",
    changes: { TaskTemplate: { ContainerSpec: { Ulimits: [{ Name: "core", Hard: 0, Soft: 0 }] } } },
  },
  {
    created: "",
    flags: "--update-parallelism 4 --update-delay 1s --update-order start-first",
    changes: { UpdateConfig: { Parallelism: 4, Delay: 1000000000, Order: "start-first" } },
  },
  { created: "", flags: "--user u", changes: { TaskTemplate: { ContainerSpec: { User: "u" } } } },
  { created: "", flags: "--workdir /w", changes: { TaskTemplate: { ContainerSpec: { Dir: "/w" } } } },
  {
    created: "--replicas 2",
    flags: "--args ''",
    changes: { TaskTemplate: { ContainerSpec: { Args: null } }, Mode: { Replicated: { Replicas: 2 } } },
  },
];

/** Flags that need an API newer than the recorded engine's; what they change is as its description says. */
export const laterFlags: readonly FlagCase[] = [
  {
    flags: "--health-cmd x --health-start-interval 2s",
    changes: {
      TaskTemplate: {
        ContainerSpec: { Healthcheck: { Test: ["CMD-SHELL", "x"], StartInterval: 2_000_000_000 } },
      },
    },
  },
  { flags: "--oom-score-adj 500", changes: { TaskTemplate: { ContainerSpec: { OomScoreAdj: 500 } } } },
  {
    flags: "--mount type=volume,source=v,target=/v,volume-subpath=a/b",
    changes: {
      TaskTemplate: {
        ContainerSpec: {
          Mounts: [{ Type: "volume", Source: "v", Target: "/v", VolumeOptions: { Subpath: "a/b" } }],
        },
      },
    },
  },
];
