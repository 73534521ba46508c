import t from "tap";

import { filterAnnotation, SeccompFilters, withFilter } from "../../../worker/engine/filters.ts";
import type { OciSeccomp, OciSpec } from "../../../worker/engine/oci.ts";
import { defaultSeccomp } from "../../../worker/engine/seccomp.ts";

const profile = defaultSeccomp("x86_64", []);
const compiled = Buffer.alloc(16, 7);

function specOf(seccomp: OciSeccomp | undefined, annotations: Record<string, string> = {}): OciSpec {
  return { annotations, linux: { ...(seccomp !== undefined && { seccomp }) } } as unknown as OciSpec; // No more is looked at.
}

t.test(
  "what was compiled for one container is given to the next ones of the profile, and to no other",
  async (t) => {
    const filters = new SeccompFilters(() => Promise.resolve(compiled));
    t.strictSame(withFilter(specOf(profile), filters).annotations, {});
    await filters.learn("first", profile);
    const given = { [filterAnnotation]: compiled.toString("base64") };
    t.strictSame(withFilter(specOf(profile, { mine: "x" }), filters).annotations, { mine: "x", ...given });
    t.strictSame(withFilter(specOf(defaultSeccomp("x86_64", ["CAP_SYS_ADMIN"])), filters).annotations, {});
    t.strictSame(withFilter(specOf(undefined), filters).annotations, {});
  },
);

t.test("a filter that a user brings along is not passed on", (t) => {
  const filters = new SeccompFilters(() => Promise.resolve(compiled));
  const spec = specOf(profile, { [filterAnnotation]: "AAAA", mine: "x" });
  t.strictSame(withFilter(spec, filters).annotations, { mine: "x" });
  t.end();
});

t.test("what cannot be a filter is compiled each time", async (t) => {
  const unfit: Record<string, () => Promise<Buffer>> = {
    "another runtime keeps none": () => Promise.reject(new Error("ENOENT")),
    "an empty file": () => Promise.resolve(Buffer.alloc(0)),
    "half an instruction": () => Promise.resolve(Buffer.alloc(12)),
    "more than the kernel takes": () => Promise.resolve(Buffer.alloc(40_000)),
  };
  for (const [name, read] of Object.entries(unfit)) {
    const filters = new SeccompFilters(read);
    await filters.learn("first", profile);
    t.equal(filters.of(profile), undefined, name);
  }
  const filters = new SeccompFilters(() => Promise.resolve(compiled));
  const asking = { ...profile, defaultAction: "SCMP_ACT_NOTIFY" };
  await filters.learn("first", asking);
  t.equal(filters.of(asking), undefined, "one that asks somebody");
});
