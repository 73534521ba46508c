/** `POST /images/{name}/push` in Docker's progress lines. */
import type { FastifyReply } from "fastify";
import { ClusterError } from "../../model/errors.ts";
import type { PushProgress } from "../engine/push.ts";
import { familiarName, parseReference, printReference } from "../engine/reference.ts";
import type { FrontDoorDeps } from "./deps.ts";
import { parseAuth } from "./image.ts";
import { progressBar, type ProgressLine, streamProgress } from "./progress.ts";

export interface PushRequest {
  readonly name: string;
  /** Empty for all tags of the repository. */
  readonly tag: string;
  readonly auth: string | undefined;
}

export async function pushImage(
  deps: FrontDoorDeps,
  { name, tag, auth: header }: PushRequest,
  reply: FastifyReply,
  signal: AbortSignal,
): Promise<FastifyReply> {
  const { domain, path, digest } = parseReference(name);
  if (digest !== undefined) throw new ClusterError("invalid-argument", "cannot push a digest reference");
  const auth = parseAuth(header);
  const { imageStore } = deps.engine;
  const repository = `${domain}/${path}`;
  const wanted = tag === "" ? await tagsOf() : [printReference(parseReference(`${repository}:${tag}`))];
  return streamProgress(reply, async (say) => {
    say({ status: `The push refers to repository [${repository}]` });
    if (wanted.length === 0) {
      const text = `An image does not exist locally with the tag: ${familiarName(repository)}`;
      throw new ClusterError("not-found", text);
    }
    const [single] = wanted;
    const held = tag === "" ? wanted : await tagsOf();
    if (single !== undefined && held.length > 0 && !held.includes(single))
      throw new ClusterError("not-found", `tag does not exist: ${familiarName(single)}`);
    for (const reference of wanted) {
      const options = { onProgress: progressPrinter(say), ...(auth !== undefined && { auth }) };
      const pushed = await imageStore.push(reference, options, signal);
      const own = parseReference(reference).tag ?? "latest";
      say({ status: `${own}: digest: ${pushed.digest} size: ${pushed.size}` });
      say({ progressDetail: {}, aux: { Tag: own, Digest: pushed.digest, Size: pushed.size } });
    }
  });

  async function tagsOf(): Promise<string[]> {
    const tags = (await imageStore.list()).flatMap((image) => image.tags);
    return tags
      .map((text) => parseReference(text))
      .filter((each) => each.domain === domain && each.path === path)
      .map(printReference)
      .toSorted();
  }
}

function progressPrinter(say: (line: ProgressLine) => void): (progress: PushProgress) => void {
  return (progress) => {
    const { layer: id } = progress;
    switch (progress.kind) {
      case "preparing":
        return say({ status: "Preparing", progressDetail: {}, id });
      case "exists":
        return say({ status: "Layer already exists", progressDetail: {}, id });
      case "foreign":
        return say({ status: "Skipped foreign layer", progressDetail: {}, id });
      case "mounted":
        return say({ status: `Mounted from ${progress.from}`, progressDetail: {}, id });
      case "pushed":
        return say({ status: "Pushed", progressDetail: {}, id });
      case "pushing": {
        const { currentBytes: current, totalBytes: total } = progress;
        const detail = { progressDetail: { current, total }, progress: progressBar(current, total) };
        return say({ status: "Pushing", ...detail, id });
      }
    }
  };
}
