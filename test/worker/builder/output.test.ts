import t from "tap";

import { parseDockerfile } from "../../../worker/builder/dockerfile.ts";
import { BuildOutput } from "../../../worker/builder/output.ts";
import { planBuild } from "../../../worker/builder/plan.ts";

const { steps } = planBuild(parseDockerfile("ARG A=1\nFROM a AS x\nRUN b\nFROM c\nENV d=e"), {
  target: "",
  args: new Map(),
  labels: {},
});
const id = "0123456789ab".padEnd(64, "c");

function printed(...texts: string[]): { text: string; built: string | undefined; current: number } {
  let text = "";
  const output = new BuildOutput(
    steps,
    () => id,
    (said) => (text += said),
  );
  for (const piece of texts) output.write(piece);
  const built = output.end();
  return { text, built, current: output.current };
}

t.test("buildah's lines become Docker's, however they are cut", (t) => {
  const whole = `[1/2] STEP 1/2: FROM ${id} AS x
[1/2] STEP 2/2: RUN b
out
--> 0123456789a
[2/2] STEP 1/2: FROM ${id}
[2/2] STEP 2/2: ENV d=e
--> Using cache ${id}
--> 0123456789a
[2/2] COMMIT
${id}
`;
  const wanted = `Step 1/5 : ARG A=1
Step 2/5 : FROM a AS x
 ---> 0123456789ab
Step 3/5 : RUN b
out
 ---> 0123456789a
Step 4/5 : FROM c
 ---> 0123456789ab
Step 5/5 : ENV d=e
 ---> Using cache
 ---> 0123456789ab
`;
  t.strictSame(printed(whole), { text: wanted, built: id, current: 4 });
  t.strictSame(printed(...whole.split("")), { text: wanted, built: id, current: 4 });
  t.end();
});

t.test("a command that prints marks moves nothing on", (t) => {
  const { text, current, built } = printed(
    `[1/2] STEP 1/2: FROM ${id} AS x\n`,
    `[1/2] STEP 2/2: RUN b\n`,
    `[2/2] STEP 2/2: ENV d=e\nSTEP 3/2: x\n${id}\nmore`,
  );
  t.equal(current, 2);
  t.equal(built, undefined);
  t.match(text, `[2/2] STEP 2/2: ENV d=e\nSTEP 3/2: x\n${id}\nmore\n`);
  t.end();
});

t.test("a line without an end is passed on before it fills the memory", (t) => {
  const { text } = printed("x".repeat(40_000), "y");
  t.equal(text.length, 40_002);
  t.end();
});
