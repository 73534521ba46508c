import t from "tap";

import { frameLine, logDetails } from "../../../worker/api/log-frame.ts";

const line = { stream: "stdout", timeMs: 0, line: Buffer.from("text"), partial: false } as const;

t.test("details stand before each line, and a blank alone where there are none", (t) => {
  const print = (details: string | undefined, timestamps: boolean): string =>
    Buffer.from(
      frameLine(line, { tty: true, timestamps, ...(details !== undefined && { details }) }),
    ).toString();
  t.equal(print(undefined, false), "text\n");
  t.equal(print("", false), " text\n");
  t.equal(print("a=b,c=d", false), "a=b,c=d text\n");
  t.equal(print("a=b", true), "1970-01-01T00:00:00.000000000Z a=b text\n");
  t.end();
});

t.test("details are what the log options name, of labels and variables that there are", (t) => {
  const options = { labels: "tier,absent", env: "ZONE,ABSENT,EMPTY", "max-size": "1m" };
  const labels = { tier: "a b", other: "x" };
  t.equal(logDetails(options, labels, ["ZONE=x=1", "EMPTY=", "PATH=/"]), "EMPTY=,ZONE=x%3D1,tier=a+b");
  t.equal(logDetails({}, labels, ["ZONE=1"]), "");
  t.end();
});
