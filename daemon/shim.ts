/**
 * The program that containerd finds where it looks for its shim. It starts and cleans up each container with a process of
 * its own, though the containers of a group share a shim that is there already and mostly has done what is asked: a script says so in a
 * fifth of the time, and becomes the shim's program in every other case.
 */
import { mkdirSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { delimiter, dirname, join } from "node:path";

import { containerdNamespace, type HostSettings, shimAddressDirectory } from "../proto/host.ts";
import { findBinary } from "./flags.ts";

export const shimProgram = "containerd-shim-runc-v2";

/** Tells crun that a read-only mount it runs from was made for it (cloned_binary.c); on any other it goes on to make its own. */
const readOnlyRuntimeEnvironment = { _LIBCONTAINER_CLONED_BINARY: "1" } as const;

/** What containerd is started with, so that it and its shims look in the directory first. */
export function containerdEnvironment(directory: string): NodeJS.ProcessEnv {
  const path = [directory, process.env["PATH"] ?? ""].join(delimiter);
  return { ...process.env, PATH: path, ...readOnlyRuntimeEnvironment };
}

/** Also what the script itself may need of the host is in the shell: each program more would cost as much as it does. */
export function shimScript(program: string, settings: Pick<HostSettings, "runDir" | "runtimeRoot">): string {
  return `#!/bin/sh
namespace= id= before= last=
for last; do
  case $before in
    -namespace) namespace=$last ;;
    -id) id=$last ;;
  esac
  before=$last
done
if [ "$namespace" = ${containerdNamespace} ] && [ -n "$id" ]; then
  case $last in
    start)
      # A shim of the container's group that has just been seen to answer.
      if read -r address 2>/dev/null <${quoted(shimAddressDirectory(settings))}/"$id"; then
        printf %s "$address" >address && printf %s "$address" && exit
      fi
      ;;
    delete)
      # Without the runtime's record its shim has deleted it, and nothing is left to be killed. The answer is the program's
      # own, a DeleteResponse with exit_status 137; containerd itself unmounts and removes the rest.
      if [ -d ${quoted(join(settings.runtimeRoot, containerdNamespace))} ] && [ ! -e ${quoted(
        join(settings.runtimeRoot, containerdNamespace),
      )}/"$id" ]; then
        printf '\\020\\211\\001'
        exit
      fi
      ;;
  esac
fi
exec ${quoted(program)} "$@"
`;
}

/**
 * Writes the script.
 *
 * @param directory - To be the first of containerd's PATH.
 * @param containerd - Its program, beside which the shim's may lie.
 */
export function installShim(
  directory: string,
  containerd: string,
  settings: Pick<HostSettings, "runDir" | "runtimeRoot">,
): void {
  const path = join(directory, shimProgram);
  mkdirSync(directory, { recursive: true, mode: 0o711 });
  mkdirSync(shimAddressDirectory(settings), { recursive: true, mode: 0o700 });
  const program = findBinary(shimProgram) ?? findBinary(join(dirname(containerd), shimProgram));
  if (program === undefined) {
    rmSync(path, { force: true }); // containerd then says what it misses.
    return;
  }
  // A containerd that runs already may start it at any moment.
  const fresh = `${path}.new`;
  rmSync(fresh, { force: true });
  writeFileSync(fresh, shimScript(program, settings), { mode: 0o755 });
  renameSync(fresh, path);
}

function quoted(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`;
}
