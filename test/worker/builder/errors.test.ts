import t from "tap";

import { BuildErrors } from "../../../worker/builder/errors.ts";

function build(
  outcome: "built" | "failed",
  ...pieces: string[]
): { said: string; failure: string | undefined } {
  let said = "";
  const errors = new BuildErrors((text) => (said += text));
  for (const piece of pieces) errors.write(piece);
  const failure = errors.end(outcome);
  return { said, failure };
}

t.test("the last words of a build that failed are buildah's own", (t) => {
  const own = 'Error: building at STEP "RUN exit 7": while running runtime: exit status 7';
  t.strictSame(build("failed", "to stderr\n", `${own}\n`), { said: "to stderr\n", failure: own });
  t.strictSame(build("failed", "error running container: no such file\nError: exit st", "atus 1"), {
    said: "",
    failure: "Error: exit status 1",
  });
  t.strictSame(build("failed", "killed\n"), { said: "killed\n", failure: undefined });
  t.end();
});

t.test("what a command writes is told, whatever it looks like", (t) => {
  t.strictSame(build("built", "Error: of a command\n"), {
    said: "Error: of a command\n",
    failure: undefined,
  });
  t.strictSame(build("failed", "Error: one\nError: two\nnothing of it\nError: own\n"), {
    said: "Error: one\nError: two\nnothing of it\n",
    failure: "Error: own",
  });
  t.strictSame(build("failed", "Error: one\nerror running container: x\nError: own\n"), {
    said: "Error: one\n",
    failure: "Error: own",
  });
  t.strictSame(build("failed", "Error: one\n", `${"x".repeat(20_000)}\n`, "Error: own\n"), {
    said: `Error: one\n${"x".repeat(20_000)}\n`,
    failure: "Error: own",
  });
  t.end();
});
