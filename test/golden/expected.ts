/** Differences that are meant, or that say nothing of what users get. Those that users may notice are in docs/engine-api.md. */
import type { Expected } from "./compare.ts";
import { earlyRefusals, lateRefusals, laterVersions, otherWords } from "./texts.ts";

const every = /^/;
const answer = /^(status|type|code|out|err|body)/;

const product = "each product is itself";
const engine = "another storage, runtime or network under it";
const later = "versions of the API or of Docker after 20.10 say so, too";
const absent = "lists and maps that were left out are shown empty";
const kernel = "depends on the kernel and its cgroups";
const images = "images have no chain of parents here, and no container that they were made of";
const build = "buildah's steps have no containers, and its images a layout of their own";

const places: readonly (readonly [call: RegExp, at: RegExp, why: string])[] = [
  [/\/version$|\/info$|docker (version|info)/, answer, product],
  [every, /GraphDriver|body\.Driver$|DockerVersion$|LogPath$|SandboxKey$|bridge\.name$/, engine],
  [every, /(ResolvConf|Hostname|Hosts)Path$|SandboxID$/, "there while the container runs"],
  [every, /EnableIPv4$|GwPriority$|DNSNames$|Annotations$|HostConfig\.KernelMemory$|MacAddress$/, later],
  [every, /HostConfig\.(RestartPolicy\.Name|NetworkMode|Runtime|Isolation)$/, later],
  [every, /HostConfig\.(MaskedPaths|ReadonlyPaths)(\.\d+)?$/, later],
  [every, /^type$/, "content types that later versions name"],
  [/\/wait/, /body\.Error$/, later],
  [
    every,
    /HostConfig\.(Dns|DnsOptions|DnsSearch|Blkio\w+|Devices|PortBindings|Ulimits)$|IPAM\.Options$/,
    absent,
  ],
  [/\/volumes|docker volume/, /(Labels|Options|Warnings)$|^out$/, absent],
  [/images\/json/, /(RepoDigests|Labels)$/, absent],
  [/system\/df/, /BuildCache$/, absent],
  [every, /HostConfig\.SecurityOpt$/, "labels are for SELinux"],
  [every, /Networks\.\w+\.NetworkID$/, "known before the first start"],
  [/l4|json\?all=1 #3/, /Networks\.bridge\.\w+$|FinishedAt$/, "a start that failed gives back its address"],
  [/\/stats/, every, kernel],
  [/s1\/json #8/, /Propagation$/, "Docker makes binds above its own directory slaves"],
  [/s1\/json #9/, /Config\.Hostname$/, product],
  [/--privileged|bb ls \/dev|\/dev\/core|\/proc\/mounts/, answer, "runc and crun differ here"],
  [/--dns 9/, /^out$/, "one resolver for all of the host"],
  [/images\/.*\/(json|history)$/, /body\.(\d+\.)?(Parent|Container|ContainerConfig|Id|Tags)$/, images],
  [/images\/(made|built):\d\/json$/, /Config\.(Hostname|Image|StopTimeout)$/, images],
  [/bb(:1)?\/json$/, /Created$|LastTagTime$/, "the epoch counts as no time; a pull is a tag"],
  [/images\/built/, /Layers|Comment$|CreatedBy$|Size$/, build],
  [/POST \/build/, /body\.\d+(\.|$)|CachesDeleted|SpaceReclaimed/, build],
  [/\/prune|docker system prune/, /SpaceReclaimed$|^out$|NetworksDeleted/, images],
  [/GET \/networks( #2|\?)/, /body\.\d+(\.|$)/, "a subnet with host bits makes no network here"],
  [/networks\/prune/, /NetworksDeleted/, "in another order, and without the networks that were refused"],
  [/nc\/json #2/, /n2\.Gateway$/, "no gateway leads out of an internal network"],
  [/docker network inspect n6/, /^out$/, "the gateway that was chosen is shown"],
  [/\/top/, /message$/, "the usage of ps is said whole"],
  [/docker push/, /^out$/, "the manifest of an OCI image"],
  [/\/distribution\//, /Platforms$/, "told of OCI manifests, too"],
  [/platform=nosuch/, /^body/, "found by asking the registry"],
  [/docker images --format/, /^out$/, "of one age, in order of names"],
  [/docker ps -a --filter name=c1/, /^out$/, "what was refused is not there"],
  [/exec\{?exec1\}?\/json #2|exec\/\{exec1\}\/json #2/, /CanRemove$/, later],
  [/s1\/json #6|s1\?force=1&v=1 #6/, answer, "groups that the image lacks are refused at create"],
  [/docker inspect --format '\{\{\.Name/, /^out$/, later],
  [/docker cp nosuch/, /^err$/, "the client's own directory"],
];

/** With cgroup v2, or more than one memory node; the record was made with cgroup v1. */
const ofHosts: readonly (readonly [call: RegExp, at: RegExp])[] = [
  [/"(MemorySwappiness|OomKillDisable|BlkioWeight|KernelMemoryTCP)"/, /Warnings(\.\d+)?$|^status$/],
  [every, /HostConfig\.(CgroupnsMode|BlkioWeight)$/],
];

/** By their names: every difference in what is refused, and how. */
const calls: readonly (readonly [names: readonly string[], why: string])[] = [
  [laterVersions, later],
  [earlyRefusals, "refused where somebody reads it; Docker finds it out at the start, or never"],
  [lateRefusals, "taken here, and told at the start"],
  [otherWords, "the same in other words"],
];

/** What the pace of a host, or of Docker on it, decides: met in one run and not in another. */
const ofPace: readonly (readonly [call: RegExp, at: RegExp, why: string])[] = [
  [
    /DELETE \/images\/made:1/,
    /^body\.2$/,
    "a layer that no other image has is told of; the next one has the same when the container wrote nothing in between",
  ],
  [
    /tail=1$/,
    /^body/,
    "the last line of the stream that was asked for; Docker has it where that line came last of both",
  ],
];

export const expected: readonly Expected[] = [
  ...places.map(([call, at, why]) => ({ call, at, why })),
  ...ofHosts.map(([call, at]) => ({ call, at, why: kernel, isHostsOwn: true as const })),
  ...ofPace.map(([call, at, why]) => ({ call, at, why, isHostsOwn: true as const })),
  ...calls.flatMap(([names, why]) =>
    names.map((name) => ({ call: new RegExp(`^${escaped(name)}$`), at: answer, why })),
  ),
];

function escaped(text: string): string {
  return text.replaceAll(/[.*+?^${}()|[\]\\]/g, String.raw`\$&`);
}
