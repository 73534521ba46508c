/** The container part of a service's spec: Engine API JSON to model and back. */
import { ClusterError } from "../../model/errors.ts";
import type { ConfigId, SecretId } from "../../model/ids.ts";
import type {
  BindOptions,
  ConfigReference,
  ContainerSpec,
  FileTarget,
  HealthCheck,
  Mount,
  SecretReference,
} from "../../model/service.ts";
import type { JsonObject } from "./json-reader.ts";
import { type Json, printNs, printOptionalNs, unlessEmpty } from "./json-writer.ts";
import { oneOf, present } from "./parse.ts";

export function parseContainer(json: JsonObject): ContainerSpec {
  const isolation = json.text("Isolation");
  if (isolation !== "" && isolation !== "default") {
    throw new ClusterError(
      "invalid-argument",
      `invalid isolation "${isolation}": default is expected on Linux`,
    );
  }
  return {
    image: json.text("Image"),
    labels: json.labels("Labels"),
    command: json.texts("Command"),
    args: json.texts("Args"),
    env: json.texts("Env"),
    groups: json.texts("Groups"),
    tty: json.flag("TTY"),
    openStdin: json.flag("OpenStdin"),
    readOnly: json.flag("ReadOnly"),
    mounts: json.objects("Mounts").map(parseMount),
    hosts: json.texts("Hosts"),
    secrets: json.objects("Secrets").map(parseSecretReference),
    configs: json.objects("Configs").map(parseConfigReference),
    sysctls: json.labels("Sysctls"),
    capabilityAdd: json.texts("CapabilityAdd"),
    capabilityDrop: json.texts("CapabilityDrop"),
    ulimits: json.objects("Ulimits").map((each) => ({
      name: each.text("Name"),
      soft: each.integer("Soft"),
      hard: each.integer("Hard"),
    })),
    ...parsePrivileges(json.object("Privileges")),
    ...present({
      hostname: json.optionalText("Hostname"),
      workingDir: json.optionalText("Dir"),
      user: json.optionalText("User"),
      init: json.optionalFlag("Init"),
      stopSignal: json.optionalText("StopSignal"),
      stopGracePeriodMs: json.optionalMs("StopGracePeriod"),
      healthcheck: parseHealth(json.optionalObject("Healthcheck")),
      dns: parseDns(json.object("DNSConfig")),
      oomScoreAdj: json.optionalInteger("OomScoreAdj") || undefined,
    }),
  };
}

export function printContainer(spec: ContainerSpec): Json {
  return {
    Image: spec.image,
    Labels: unlessEmpty(spec.labels),
    Command: unlessEmpty(spec.command),
    Args: unlessEmpty(spec.args),
    Hostname: spec.hostname,
    Env: unlessEmpty(spec.env),
    Dir: spec.workingDir,
    User: spec.user,
    Groups: unlessEmpty(spec.groups),
    Privileges: printPrivileges(spec),
    Init: spec.init,
    StopSignal: spec.stopSignal,
    TTY: unlessEmpty(spec.tty),
    OpenStdin: unlessEmpty(spec.openStdin),
    ReadOnly: unlessEmpty(spec.readOnly),
    Mounts: unlessEmpty(spec.mounts.map(printMount)),
    StopGracePeriod: spec.stopGracePeriodMs === undefined ? undefined : printNs(spec.stopGracePeriodMs),
    Healthcheck: spec.healthcheck === undefined ? undefined : printHealth(spec.healthcheck),
    Hosts: unlessEmpty(spec.hosts),
    DNSConfig:
      spec.dns === undefined
        ? undefined
        : {
            Nameservers: unlessEmpty(spec.dns.nameservers),
            Search: unlessEmpty(spec.dns.search),
            Options: unlessEmpty(spec.dns.options),
          },
    Secrets: unlessEmpty(
      spec.secrets.map((each) => ({
        File: printFile(each.file),
        SecretID: each.secretId,
        SecretName: each.secretName,
      })),
    ),
    Configs: unlessEmpty(
      spec.configs.map((each) => ({
        ...(each.file === undefined ? { Runtime: {} } : { File: printFile(each.file) }),
        ConfigID: each.configId,
        ConfigName: each.configName,
      })),
    ),
    Isolation: "default",
    Sysctls: unlessEmpty(spec.sysctls),
    CapabilityAdd: unlessEmpty(spec.capabilityAdd),
    CapabilityDrop: unlessEmpty(spec.capabilityDrop),
    Ulimits: unlessEmpty(
      spec.ulimits.map(({ name, soft, hard }) => ({ Name: name, Soft: soft, Hard: hard })),
    ),
    OomScoreAdj: spec.oomScoreAdj,
  };
}

function parsePrivileges(json: JsonObject): Partial<ContainerSpec> {
  if (unlessEmptyObject(json.optionalObject("CredentialSpec"), ["Config", "File", "Registry"])) {
    throw new ClusterError(
      "invalid-argument",
      "ContainerSpec: a credential spec needs Windows; leave Privileges.CredentialSpec out",
    );
  }
  const selinux = json.object("SELinuxContext");
  if (selinux.flag("Disable") || unlessEmptyObject(selinux, ["User", "Role", "Type", "Level"])) {
    throw new ClusterError(
      "unimplemented",
      "ContainerSpec: SELinux contexts are not available yet; leave Privileges.SELinuxContext out",
    );
  }
  const seccomp = json.optionalObject("Seccomp");
  const asked = seccomp?.text("Mode") ?? "";
  const seccompMode = oneOf(
    asked,
    ["default", "unconfined", "custom"],
    `invalid Seccomp mode: ${JSON.stringify(asked)}`,
  );
  const profile = json.object("AppArmor").text("Mode");
  const appArmor = oneOf(
    profile,
    ["default", "disabled"],
    `invalid AppArmor mode: ${JSON.stringify(profile)}`,
  );
  return present({
    noNewPrivileges: json.flag("NoNewPrivileges") || undefined,
    seccomp:
      seccompMode === undefined
        ? undefined
        : { mode: seccompMode, ...present({ profile: seccomp?.optionalText("Profile") }) },
    appArmor,
  });
}

function unlessEmptyObject(json: JsonObject | undefined, names: readonly string[]): boolean {
  return json !== undefined && names.some((name) => json.text(name) !== "");
}

function printPrivileges({ noNewPrivileges, seccomp, appArmor }: ContainerSpec): Json | undefined {
  if (noNewPrivileges === undefined && seccomp === undefined && appArmor === undefined) return undefined;
  return {
    Seccomp: seccomp === undefined ? undefined : { Mode: seccomp.mode, Profile: seccomp.profile },
    AppArmor: appArmor === undefined ? undefined : { Mode: appArmor },
    NoNewPrivileges: noNewPrivileges ?? false,
  };
}

function parseHealth(json: JsonObject | undefined): HealthCheck | undefined {
  if (json === undefined) return undefined;
  const health: HealthCheck = {
    test: json.texts("Test"),
    intervalMs: json.optionalMs("Interval") ?? 0,
    timeoutMs: json.optionalMs("Timeout") ?? 0,
    startPeriodMs: json.optionalMs("StartPeriod") ?? 0,
    startIntervalMs: json.optionalMs("StartInterval") ?? 0,
    retries: json.integer("Retries"),
  };
  return health;
}

function printHealth(health: HealthCheck): Json {
  return {
    Test: unlessEmpty(health.test),
    Interval: printOptionalNs(health.intervalMs),
    Timeout: printOptionalNs(health.timeoutMs),
    StartPeriod: printOptionalNs(health.startPeriodMs),
    StartInterval: printOptionalNs(health.startIntervalMs),
    Retries: unlessEmpty(health.retries),
  };
}

function parseDns(json: JsonObject): ContainerSpec["dns"] {
  const dns = {
    nameservers: json.texts("Nameservers"),
    search: json.texts("Search"),
    options: json.texts("Options"),
  };
  return Object.values(dns).every((each) => each.length === 0) ? undefined : dns;
}

const propagations = ["private", "rprivate", "shared", "rshared", "slave", "rslave"] as const;

function parseMount(json: JsonObject): Mount {
  const base = {
    target: json.text("Target"),
    readOnly: json.flag("ReadOnly"),
    ...present({ consistency: json.optionalText("Consistency") }),
  };
  const source = json.text("Source");
  const type = json.text("Type");
  switch (type) {
    case "bind":
      return { ...base, type, source, ...present({ bind: parseBind(json.optionalObject("BindOptions")) }) };
    case "volume": {
      const options = json.optionalObject("VolumeOptions");
      const driver = options?.object("DriverConfig");
      const volume =
        options &&
        present({
          noCopy: options.optionalFlag("NoCopy") || undefined,
          labels: unlessEmpty(options.labels("Labels")),
          subpath: options.optionalText("Subpath"),
          driverName: driver?.optionalText("Name"),
          driverOptions: unlessEmpty(driver?.labels("Options")),
        });
      return { ...base, type, source, ...present({ volume }) };
    }
    case "tmpfs": {
      if (source !== "")
        throw new ClusterError(
          "invalid-argument",
          `ContainerSpec: tmpfs mount at ${base.target} takes no source`,
        );
      const options = json.optionalObject("TmpfsOptions");
      const tmpfs =
        options &&
        present({
          sizeBytes: options.optionalInteger("SizeBytes") || undefined,
          mode: options.optionalInteger("Mode") || undefined,
          options: unlessEmpty(options.list("Options").map((each) => parseTmpfsOption(each, base.target))),
        });
      return { ...base, type, ...present({ tmpfs }) };
    }
    case "npipe":
    case "cluster":
    case "image":
      throw new ClusterError(
        "unimplemented",
        `mounts of type ${type} are not available yet; bind, volume and tmpfs are`,
      );
    default:
      throw new ClusterError(
        "invalid-argument",
        `invalid MountType: ${JSON.stringify(type)} (bind, volume, tmpfs is expected)`,
      );
  }
}

function parseTmpfsOption(value: unknown, target: string): string[] {
  if (
    Array.isArray(value) &&
    value.length > 0 &&
    value.length <= 2 &&
    value.every((each) => typeof each === "string")
  )
    return value;
  throw new ClusterError(
    "invalid-argument",
    `invalid tmpfs option at ${target}: ["key"] or ["key","value"] is expected`,
  );
}

function parseBind(json: JsonObject | undefined): BindOptions | undefined {
  if (json === undefined) return undefined;
  const propagation = json.text("Propagation");
  return present({
    propagation: oneOf(propagation, propagations, `invalid MountPropagation: ${JSON.stringify(propagation)}`),
    nonRecursive: json.optionalFlag("NonRecursive") || undefined,
    createMountpoint: json.optionalFlag("CreateMountpoint") || undefined,
    readOnlyNonRecursive: json.optionalFlag("ReadOnlyNonRecursive") || undefined,
    readOnlyForceRecursive: json.optionalFlag("ReadOnlyForceRecursive") || undefined,
  });
}

function printMount(mount: Mount): Json {
  const base = {
    Type: mount.type,
    Source: mount.type === "tmpfs" ? undefined : unlessEmpty(mount.source),
    Target: mount.target,
    ReadOnly: unlessEmpty(mount.readOnly),
    Consistency: mount.consistency,
  };
  switch (mount.type) {
    case "bind":
      return {
        ...base,
        BindOptions: mount.bind && {
          Propagation: mount.bind.propagation,
          NonRecursive: mount.bind.nonRecursive,
          CreateMountpoint: mount.bind.createMountpoint,
          ReadOnlyNonRecursive: mount.bind.readOnlyNonRecursive,
          ReadOnlyForceRecursive: mount.bind.readOnlyForceRecursive,
        },
      };
    case "volume":
      return {
        ...base,
        VolumeOptions: mount.volume && {
          NoCopy: mount.volume.noCopy,
          Labels: mount.volume.labels,
          Subpath: mount.volume.subpath,
          DriverConfig: unlessEmpty({ Name: mount.volume.driverName, Options: mount.volume.driverOptions }),
        },
      };
    case "tmpfs":
      return {
        ...base,
        TmpfsOptions: mount.tmpfs && {
          SizeBytes: mount.tmpfs.sizeBytes,
          Mode: mount.tmpfs.mode,
          Options: mount.tmpfs.options,
        },
      };
  }
}

function parseFile(json: JsonObject): FileTarget {
  return {
    name: json.text("Name"),
    uid: json.text("UID"),
    gid: json.text("GID"),
    mode: json.integer("Mode"),
  };
}

function printFile({ name, uid, gid, mode }: FileTarget): Json {
  return { Name: name, UID: uid, GID: gid, Mode: mode };
}

function parseSecretReference(json: JsonObject): SecretReference {
  return {
    secretId: json.text("SecretID") as SecretId,
    secretName: json.text("SecretName"),
    file: parseFile(json.object("File")),
  };
}

function parseConfigReference(json: JsonObject): ConfigReference {
  const file = json.optionalObject("File");
  if (file !== undefined && json.has("Runtime")) {
    throw new ClusterError("invalid-argument", "invalid Config: cannot specify both File and Runtime");
  }
  if (file === undefined && !json.has("Runtime")) {
    throw new ClusterError("invalid-argument", "malformed config reference");
  }
  return {
    configId: json.text("ConfigID") as ConfigId,
    configName: json.text("ConfigName"),
    ...present({ file: file && parseFile(file) }),
  };
}
