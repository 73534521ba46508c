/** `POST /images/create` with `fromImage`: a pull in Docker's progress lines. */
import type { FastifyReply } from "fastify";
import type { PullProgress } from "../engine/engine.ts";
import { parsePlatform } from "../engine/manifest.ts";
import { digestPattern, familiarName, parseReference, printReference } from "../engine/reference.ts";
import type { FrontDoorDeps } from "./deps.ts";
import { parseAuth, requireTag } from "./image.ts";
import { progressBar, type ProgressLine, streamProgress } from "./progress.ts";

export interface PullRequest {
  readonly fromImage: string;
  readonly tag: string;
  readonly platform: string;
  readonly auth: string | undefined;
}

export async function pullImage(
  deps: FrontDoorDeps,
  request: PullRequest,
  reply: FastifyReply,
  signal: AbortSignal,
): Promise<FastifyReply> {
  const { architecture } = await deps.engine.info();
  const platform =
    request.platform === "" ? undefined : parsePlatform(request.platform, { os: "linux", architecture });
  const wanted = referenceOf(request);
  const auth = parseAuth(request.auth);
  return streamProgress(reply, async (say) => {
    const references =
      typeof wanted === "string"
        ? [wanted]
        : (await deps.engine.imageStore.tags(wanted.allOf, auth, signal)).map(
            (tag) => `${wanted.allOf}:${tag}`,
          );
    for (const reference of references) await pull(reference, say);
  });

  async function pull(reference: string, say: (line: ProgressLine) => void): Promise<void> {
    const options = {
      onProgress: progressPrinter(reference, say),
      ...(auth !== undefined && { auth }),
      ...(platform !== undefined && { platform }),
    };
    const image = await deps.engine.pull(reference, options, signal);
    if (platform !== undefined && image.architecture !== platform.architecture) {
      say({
        status: `WARNING: image with reference ${familiarName(image.reference)} was found but its platform (${image.os}/${image.architecture}) does not match the specified platform (${platform.os}/${platform.architecture})`,
      });
    }
  }
}

/** The image and tag as clients send them, together or apart; without a tag, all of a repository is meant. */
export function referenceOf({
  fromImage,
  tag,
}: Pick<PullRequest, "fromImage" | "tag">): string | { readonly allOf: string } {
  const name = fromImage.replace(/:$/, "");
  if (tag === "") {
    const { digest } = parseReference(name);
    const last = name.slice(name.lastIndexOf("/") + 1);
    if (digest !== undefined || last.includes(":")) return name;
    return { allOf: name };
  }
  if (digestPattern.test(tag)) return `${name.replace(/@.*$/, "")}@${tag}`;
  const { domain, path } = parseReference(name);
  requireTag(tag);
  return printReference(parseReference(`${domain}/${path}:${tag}`));
}

/** Turns the engine's steps into the lines that `docker pull` draws. */
export function progressPrinter(
  reference: string,
  say: (line: ProgressLine) => void,
): (progress: PullProgress) => void {
  const { path, domain, tag, digest } = parseReference(reference);
  const present = new Set<string>();
  let resolved = "";
  return (progress) => {
    switch (progress.kind) {
      case "resolved": {
        resolved = progress.digest;
        const name = domain === "docker.io" ? path : familiarName(`${domain}/${path}`);
        return say({
          status: `Pulling from ${name.replace(/^[^/]+:\d+\//, "")}`,
          id: digest ?? tag ?? "latest",
        });
      }
      case "waiting":
        return say({ status: "Pulling fs layer", progressDetail: {}, id: progress.layer });
      case "downloading": {
        const { layer: id, currentBytes: current, totalBytes: total } = progress;
        return say({
          status: "Downloading",
          progressDetail: { current, total },
          progress: progressBar(current, total),
          id,
        });
      }
      case "exists":
        present.add(progress.layer);
        return say({ status: "Already exists", progressDetail: {}, id: progress.layer });
      case "downloaded":
        return say({ status: "Download complete", progressDetail: {}, id: progress.layer });
      case "extracting":
        if (present.has(progress.layer)) return undefined;
        return say({ status: "Extracting", progressDetail: {}, id: progress.layer });
      case "complete":
        if (present.has(progress.layer)) return undefined;
        return say({ status: "Pull complete", progressDetail: {}, id: progress.layer });
      case "done": {
        say({ status: `Digest: ${resolved}` });
        const what = progress.changed ? "Downloaded newer image for" : "Image is up to date for";
        return say({ status: `Status: ${what} ${familiarName(reference)}` });
      }
    }
  };
}
