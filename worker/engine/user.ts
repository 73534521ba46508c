/** `user` and `groups` of a container against the passwd and group files of its image. Pure. */
import { ClusterError } from "../../model/errors.ts";

export interface ProcessUser {
  readonly uid: number;
  readonly gid: number;
  readonly additionalGids: readonly number[];
}

const idLimit = 2 ** 31 - 1;

/**
 * @param user - "", "name", "uid", "name:group", "uid:gid"; empty is root.
 * @param groups - Names or numbers added to the user's own.
 * @param passwd - Text of /etc/passwd, empty if there is none; `group` likewise.
 * @throws {ClusterError} `invalid-argument` with Docker's text for an unknown name.
 */
export function resolveUser(
  user: string,
  groups: readonly string[],
  passwd: string,
  group: string,
): ProcessUser {
  const [userPart = "", groupPart] = user.split(":", 2);
  const wanted = userPart === "" ? "0" : userPart;
  const accounts = entriesOf(passwd);
  const account = accounts.find(([name]) => name === wanted) ?? accounts.find(([, , uid]) => uid === wanted);
  const uid = idOf(account?.[2] ?? wanted);
  if (uid === undefined) {
    throw new ClusterError(
      "invalid-argument",
      `unable to find user ${userPart}: no matching entries in passwd file`,
    );
  }
  const known = entriesOf(group);
  const gid =
    groupPart === undefined || groupPart === "" ? (idOf(account?.[3] ?? "0") ?? 0) : gidOf(groupPart);
  // As login would: the groups that list the user, unless a group was asked for.
  const member = account?.[0];
  const own =
    member === undefined || (groupPart ?? "") !== ""
      ? []
      : known
          .filter(([, , , members]) => members?.split(",").includes(member))
          .map(([, , id]) => idOf(id ?? ""));
  // Its own group as well: else a process that drops it would pass checks for those who are not in that group.
  const gids = [gid, ...own, ...groups.map(gidOf)].filter((id) => id !== undefined);
  return { uid, gid, additionalGids: [...new Set(gids)] };

  function gidOf(name: string): number {
    const entry = known.find(([groupName]) => groupName === name);
    const id = idOf(entry?.[2] ?? name);
    if (id === undefined) {
      throw new ClusterError(
        "invalid-argument",
        `unable to find group ${name}: no matching entries in group file`,
      );
    }
    return id;
  }
}

function entriesOf(text: string): string[][] {
  return text
    .split("\n")
    .map((line) => line.trim())
    .filter((line) => line !== "" && !line.startsWith("#"))
    .map((line) => line.split(":"));
}

function idOf(text: string): number | undefined {
  if (!/^\d{1,10}$/.test(text)) return undefined;
  const id = Number(text);
  return id <= idLimit ? id : undefined;
}
