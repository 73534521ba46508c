import t from "tap";

import { parseRuntimeVersion, runtimeWarnings } from "../../../worker/engine/runtime-gate.ts";

t.test("a runtime with known ways out is warned of", (t) => {
  const cases = [
    ["runc version 1.1.5+ds1\ncommit: 1.1.5+ds1-1\nspec: 1.0.2-dev", ["CVE-2024-21626", "CVE-2025-31133"]],
    ["runc version 1.1.12", ["CVE-2025-31133"]],
    ["runc version 1.2.7", ["CVE-2025-31133"]],
    ["runc version 1.2.8", []],
    ["runc version 1.3.0", ["CVE-2025-31133"]],
    ["runc version 1.3.3", []],
    ["runc version 1.4.0", []],
    ["crun version 1.4.3", ["CVE-2022-27650"]],
    ["crun version 1.8.1\ncommit: f8a0", []],
    ["crun version 1.20", []],
    ["youki version 0.1", []],
    ["", []],
  ] as const;
  for (const [text, ids] of cases) {
    const warnings = runtimeWarnings(text);
    t.equal(warnings.length, ids.length, text);
    ids.forEach((id, index) => t.ok(warnings[index]?.includes(id), `${text}: ${id}`));
  }
  t.strictSame(parseRuntimeVersion("crun version 1.8.1\n"), { name: "crun", version: "1.8.1" });
  t.end();
});
