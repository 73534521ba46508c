import t from "tap";

import { type ImageTag, planRemoval } from "../../../worker/engine/image-removal.ts";

const id = `sha256:${"ab".repeat(32)}`;
const user = "cd".repeat(32);

/** "web:1", "web@" for the digest of a repository. */
function tag(text: string): ImageTag {
  const [repository = ""] = text.split(/[:@]/);
  return { text, repository, kind: text.includes("@") ? "digest" : "tag" };
}

const cases = [
  { name: "the last name takes the image along", asked: "web:1", tags: "web:1", want: "-web:1 deleted" },
  {
    name: "the last tag of a repository takes its digests along",
    asked: "web:1",
    tags: "web:1 web@",
    want: "-web:1 -web@ deleted",
  },
  {
    name: "one of two tags goes alone",
    asked: "web:1",
    tags: "web:1 web:2 web@",
    want: "-web:1 kept",
  },
  {
    name: "a digest of a repository whose tag stays",
    asked: "web@",
    tags: "web:1 web@",
    want: "-web@ kept",
  },
  { name: "by id, one repository", asked: "", tags: "web:1 web@", want: "-web:1 -web@ deleted" },
  { name: "by id, no name at all", asked: "", tags: "", want: "deleted" },
  {
    name: "by id, two repositories",
    asked: "",
    tags: "db:1 web:1",
    want: "must be forced) - image is referenced in multiple repositories",
  },
  {
    name: "by id, two repositories, forced",
    asked: "",
    tags: "db:1 web:1",
    force: true,
    want: "-db:1 -web:1 deleted",
  },
  {
    name: "the only name of a used image",
    asked: "web:1",
    tags: "web:1",
    users: "stopped",
    want: "(must force)",
  },
  {
    name: "one of two names of a used image",
    asked: "web:1",
    tags: "web:1 web:2",
    users: "running",
    want: "-web:1 kept",
  },
  {
    name: "forced, used by a running container: it stays without a name",
    asked: "web:1",
    tags: "web:1",
    users: "running",
    force: true,
    want: "-web:1 orphaned",
  },
  {
    name: "forced, used by a stopped container: it goes",
    asked: "web:1",
    tags: "web:1",
    users: "stopped",
    force: true,
    want: "-web:1 deleted",
  },
  {
    name: "by id, used by a stopped container",
    asked: "",
    tags: "web:1",
    users: "stopped",
    want: "image is being used by stopped container cdcdcdcdcdcd",
  },
  {
    name: "by id, used by a running container: force does not help",
    asked: "",
    tags: "web:1",
    users: "running",
    force: true,
    want: "unable to delete abababababab (cannot be forced) - image is being used by running container",
  },
] as const;

for (const { name, asked, tags, want, ...rest } of cases) {
  t.test(name, (t) => {
    const users = "users" in rest ? [{ id: user, running: rest.users === "running" }] : [];
    const input = {
      asked,
      named: asked === "" ? undefined : tag(asked),
      id,
      tags: tags.split(" ").filter(Boolean).map(tag),
      users,
      force: "force" in rest,
    };
    t.match(outcome(), want);
    t.end();

    function outcome(): string {
      try {
        const { untag, image } = planRemoval(input);
        return [...untag.map(({ text }) => `-${text}`), image].join(" ");
      } catch (error) {
        return (error as Error).message;
      }
    }
  });
}
