/** The OCI runtime that containerd's shim calls: crun, or runc where crun cannot run. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";

import { Options } from "../../proto/gen/containerd/runc.ts";
import type { Any } from "../../proto/gen/google/protobuf/any.ts";
import { containerdNamespace } from "../../proto/host.ts";

export const runtimeName = "io.containerd.runc.v2";
export const specType = "types.containerd.io/opencontainers/runtime-spec/1/Spec";

/** Where the shim and runtime refused because of the host, not the container. */
const cannotRun = /cgroups in hybrid mode|exec: "[^"]*crun": executable file not found|fork\/exec [^ ]*crun/;

export class Runtime {
  readonly #root: string;
  #binary: string;

  constructor(binary: string, root: string) {
    this.#binary = binary;
    this.#root = root;
  }

  get binary(): string {
    return this.#binary;
  }

  /** The root must not be shared: two containerds would share the runtime's state by container id. */
  get options(): Any {
    const value = Options.encode(
      Options.fromPartial({ binaryName: this.#binary, root: this.#root }),
    ).finish();
    return { typeUrl: "containerd.runc.v1.Options", value: Buffer.from(value) };
  }

  /** What crun has compiled for a container whose task exists. @throws The system's error: another runtime keeps none. */
  compiledFilter(containerId: string): Promise<Buffer> {
    return readFile(join(this.#root, containerdNamespace, containerId, "seccomp.bpf"));
  }

  /** True when the refusal is crun's own trouble with this host; runc is used from then on. */
  fallBack(refusal: string): boolean {
    if (!this.#binary.endsWith("crun") || !cannotRun.test(refusal)) return false;
    this.#binary = "runc";
    return true;
  }
}

/**
 * A refusal to start in the form that Docker's clients know: they read 127 and 126 out of the text.
 *
 * @param command - First word of the container's command.
 */
export function startRefusal(refusal: string, command: string): { exitCode: number; text: string } {
  const base = refusal.replace(
    /^.*?(OCI runtime \w+ failed)/s,
    "failed to create task for container: failed to create shim task: $1",
  );
  if (/chdir/.test(refusal)) return { exitCode: 126, text: base };
  // Not each file that is missing is the command: a kernel setting or a device may be.
  if (/executable file .*not found|not found in \$PATH|exec.*no such file or directory/i.test(refusal)) {
    const text = /executable file not found/.test(base)
      ? base
      : `${base}: exec: ${JSON.stringify(command)}: executable file not found in $PATH`;
    return { exitCode: 127, text };
  }
  if (
    /permission denied|is a directory|exec format error|open executable: Operation not permitted/i.test(
      refusal,
    )
  )
    // The words by which clients choose 126.
    return {
      exitCode: 126,
      text: /permission denied|is a directory/.test(base) ? base : `${base}: permission denied`,
    };
  return { exitCode: 128, text: base };
}
