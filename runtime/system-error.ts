import { ClusterError, errorText } from "../model/errors.ts";

/**
 * What an error of a system call means to whoever runs us, with what to do about it.
 *
 * @returns Undefined when nothing more can be said than it says itself.
 */
export function explainSystemError(reason: unknown): ClusterError | undefined {
  const text = errorText(reason); // It names the address or the path.
  const explained = (code: ClusterError["code"], message: string): ClusterError =>
    new ClusterError(code, message, { cause: reason });
  switch (systemCode(reason)) {
    case "EADDRINUSE":
      return explained(
        "unavailable",
        `the cluster port is taken by another process (${text}); end it, or choose another with --listen-addr`,
      );
    case "EADDRNOTAVAIL":
      return explained(
        "unavailable",
        `this host has no such address (${text}); choose another with --listen-addr`,
      );
    case "ENOSPC":
    case "EDQUOT":
      return explained(
        "resource-exhausted",
        `the disk is full: ${text}; free space below the state directory`,
      );
    case "EROFS":
      return explained(
        "unavailable",
        `the file system below the state directory is read-only: ${text}; see dmesg for why, and mount it writable again`,
      );
    case "EACCES":
    case "EPERM":
      return explained("unavailable", `permission denied: ${text}; shoald must run as root`);
    default:
      return undefined;
  }
}

function systemCode(reason: unknown): string {
  return reason instanceof Error && "code" in reason && typeof reason.code === "string" ? reason.code : "";
}
