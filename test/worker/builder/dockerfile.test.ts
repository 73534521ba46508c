import { array, assert, constantFrom, property } from "fast-check";
import t from "tap";

import { expandWord, parseDockerfile, printInstruction } from "../../../worker/builder/dockerfile.ts";
import { failureText, planBuild, shellOf } from "../../../worker/builder/plan.ts";

const none = { target: "", args: new Map<string, string>(), labels: {} };

function refusal(text: string, options = none): string {
  try {
    planBuild(parseDockerfile(text), options);
    return "accepted";
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}

t.test("lines go on after the escape character; comments and blank lines in between are skipped", (t) => {
  const text =
    "\uFEFF# escape=`\n\n# comment\nFROM a AS B\r\nRUN one `\n  # comment\n\n  two `\n  three\nRUN four";
  const { escape, stages } = parseDockerfile(text);
  t.equal(escape, "`");
  t.match(stages, [
    {
      name: "b",
      image: "a",
      instructions: [
        { line: 5, keyword: "RUN", rest: "one   two   three" },
        { line: 10, keyword: "RUN", rest: "four" },
      ],
    },
  ]);
  t.equal(
    parseDockerfile("FROM a\n# escape=`\nRUN x\\\ny").escape,
    "\\",
    "a directive stands before everything else",
  );
  t.end();
});

t.test("what is not accepted, in Docker's words", (t) => {
  const cases: readonly [string, string][] = [
    ["", "dockerfile parse error line 1: file with no instructions"],
    ["# only\n", "dockerfile parse error line 1: file with no instructions"],
    ["ARG A\nRUN x", "dockerfile parse error line 2: no build stage in current context"],
    ["FROM a\nFORM b", "dockerfile parse error line 2: unknown instruction: FORM"],
    ["FROM a b", "dockerfile parse error line 1: FROM requires either one or three arguments"],
    ["FROM a\nCOPY --chown", "dockerfile parse error line 2: missing a value on flag: chown"],
    ["FROM a\nCOPY --odd=1 a b", "dockerfile parse error line 2: unknown flag: --odd"],
    ["FROM a\nCOPY --from=x --from=y a b", "dockerfile parse error line 2: duplicate flag specified: from"],
    [
      'FROM a\nRUN --"mount"=type=bind x',
      'dockerfile parse error line 2: the flag --"mount"=type=bind has quotes: plain values are accepted',
    ],
    ["FROM a\nRUN \u0085--mount=type=bind x", "dockerfile parse error line 2: it has a control character"],
    ["FROM a\nONBUILD FROM b", "dockerfile parse error line 2: FROM isn't allowed as an ONBUILD trigger"],
    [
      "FROM a\nONBUILD ONBUILD RUN b",
      "dockerfile parse error line 2: ONBUILD isn't allowed as an ONBUILD trigger",
    ],
    ["# escape=x\nFROM a", "dockerfile parse error line 1: invalid ESCAPE 'x'. Must be ` or \\"],
    ["FROM $NOTHING", "dockerfile parse error line 1: base name ($NOTHING) should not be blank"],
    [
      "FROM a\nCOPY --from=0 a b",
      "dockerfile parse error line 2: invalid from flag value 0: invalid stage index 0",
    ],
    ["FROM a", "accepted"],
  ];
  for (const [text, wanted] of cases) t.equal(refusal(text), wanted, JSON.stringify(text));
  for (const flag of ["mount", "network", "security"])
    t.match(refusal(`FROM a\nONBUILD RUN --${flag}=x y`), `the --${flag} option requires BuildKit`);
  t.match(refusal("FROM a", { ...none, target: "b" }), "failed to reach build target b in Dockerfile");
  t.end();
});

t.test("variables of a word", (t) => {
  const variables = new Map([
    ["A", "1"],
    ["EMPTY", ""],
  ]);
  const cases: readonly [string, string][] = [
    ["x$A", "x1"],
    ["${A}b", "1b"],
    ["${NONE:-d$A}", "d1"],
    ["${EMPTY:-d}", "d"],
    ["${A:+alt}", "alt"],
    ["${NONE:+alt}", ""],
    ["'$A'", "$A"],
    ['"$A b"', "1 b"],
    ["\\$A", "$A"],
    ["a$", "a$"],
  ];
  for (const [word, wanted] of cases)
    t.equal(expandWord(word, variables, { escape: "\\", line: 1 }), wanted, word);
  for (const word of ["${A", "${A?x}", "${}", "'a", '"a'])
    t.throws(
      () => expandWord(word, variables, { escape: "\\", line: 1 }),
      /dockerfile parse error line 1/,
      word,
    );
  t.end();
});

t.test("a plan names each image once, and prints ids where images are meant", (t) => {
  const file = parseDockerfile(
    [
      "ARG TAG=1",
      "ARG IMAGE=base:$TAG",
      "FROM --platform=linux/amd64 $IMAGE AS One",
      "FROM base:2",
      "COPY --from=one a b",
      "COPY --from=0 --chown=1:1 a b",
      "COPY --from=tool a b",
      "FROM ONE",
      "FROM scratch",
    ].join("\n"),
  );
  const plan = planBuild(file, { target: "", args: new Map([["TAG", "2"]]), labels: { a: "b" } });
  t.strictSame(
    plan.images.map(({ reference, platform, isBase }) => [reference, platform, isBase]),
    [
      ["base:2", "linux/amd64", true],
      ["base:2", "", true],
      ["tool", "", false],
    ],
  );
  const ids = new Map(plan.images.map(({ key }, index) => [key, `id${index}`]));
  t.strictSame(plan.print((key) => ids.get(key) ?? "?").split("\n"), [
    "# escape=\\",
    "ARG TAG=1",
    "ARG IMAGE=base:$TAG",
    "FROM id0 AS one",
    "FROM id1",
    "COPY --from=0 a b",
    "COPY --from=0 --chown=1:1 a b",
    "COPY --from=id2 a b",
    "FROM one",
    "FROM scratch",
    "",
  ]);
  t.strictSame(
    plan.steps.map(({ stage }) => stage),
    [-1, -1, 0, 1, 1, 1, 1, 2, 3, 3],
  );
  t.equal(plan.steps.at(-1)?.text, "LABEL a=b");
  t.equal(planBuild(file, { ...none, target: "one" }).steps.length, 3);
  t.end();
});

t.test("a failure names the command as it was run", (t) => {
  const { steps } = planBuild(
    parseDockerfile('FROM a\nRUN b\nSHELL ["c", "-d"]\nRUN e\nRUN ["f", "g"]\nFROM a\nRUN h'),
    none,
  );
  const texts = [1, 3, 4, 6].map((index) => {
    const step = steps[index];
    return step === undefined ? "" : failureText(step, shellOf(steps, index), 3);
  });
  t.strictSame(
    texts,
    ["/bin/sh -c b", "c -d e", "f g", "/bin/sh -c h"].map(
      (command) => `The command '${command}' returned a non-zero code: 3`,
    ),
  );
  t.end();
});

t.test("whatever is accepted is read the same again once it was printed", (t) => {
  const pieces = constantFrom(
    ..."FROM a|RUN |COPY --from=0 |ONBUILD |ENV A=$B|\n|\\\n| |\t|#|--mount=x|\"|'|[|]|$|${|}|`|\\|\u0085|é".split(
      "|",
    ),
  );
  const runs = array(pieces, { maxLength: 24 });
  assert(
    property(runs, (parts) => {
      const text = `FROM a\n${parts.join("")}`;
      let file;
      try {
        file = parseDockerfile(text);
        planBuild(file, none);
      } catch (error) {
        if ((error as { code?: string }).code === "invalid-argument") return;
        throw error;
      }
      for (const { instructions } of file.stages) {
        for (const instruction of instructions) {
          if (printInstruction(instruction).endsWith(file.escape)) continue; // Its last line goes on, to nowhere.
          const [stage] = parseDockerfile(
            `# escape=${file.escape}\nFROM a\n${printInstruction(instruction)}`,
          ).stages;
          t.match(stage?.instructions, [
            { keyword: instruction.keyword, rest: instruction.rest, flags: instruction.flags },
          ]);
        }
      }
    }),
    { numRuns: 2_000 },
  );
  t.end();
});
