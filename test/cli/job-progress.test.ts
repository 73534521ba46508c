import t from "tap";
import type { ApiService, ApiTask } from "../../cli/api-types.ts";
import { jobProgress } from "../../cli/job-progress.ts";

/** "0=failed/shutdown 0=running/complete": slot = observed/desired, oldest first. */
function tasks(text: string): ApiTask[] {
  return text.split(" ").map((word, i) => {
    const [, slot, state, desired] = /^(\d)=(\w+)\/(\w+)$/.exec(word) ?? [];
    return {
      ID: `t${i}`,
      CreatedAt: `2026-01-01T00:00:0${i}Z`,
      Slot: Number(slot),
      Status: { State: state, ...(state === "failed" && { Err: "task: non-zero exit (1)" }) },
      DesiredState: desired,
    } as unknown as ApiTask;
  });
}

const service = {
  Spec: { Mode: { ReplicatedJob: { MaxConcurrent: 2, TotalCompletions: 2 } } },
} as unknown as ApiService;

const cases = [
  { name: "under way", text: "0=running/complete 1=complete/complete", finished: false, givenUp: undefined },
  { name: "complete", text: "0=complete/complete 1=complete/complete", finished: true, givenUp: undefined },
  {
    name: "a slot that failed and is tried again",
    text: "0=failed/shutdown 0=ready/ready 1=complete/complete",
    finished: false,
    givenUp: undefined,
  },
  {
    name: "a slot that failed a moment ago",
    text: "0=failed/complete 1=complete/complete",
    finished: false,
    givenUp: undefined,
  },
  {
    name: "a slot that was interrupted",
    text: "0=failed/shutdown 0=shutdown/shutdown",
    finished: false,
    givenUp: undefined,
  },
  {
    name: "a slot that is not tried again, while another is to come",
    text: "0=failed/shutdown",
    finished: false,
    givenUp: undefined,
  },
  {
    name: "all that is left was given up",
    text: "0=failed/shutdown 1=complete/complete",
    finished: false,
    givenUp: "job gave up: 1 out of 2 complete: task: non-zero exit (1)",
  },
];
for (const { name, text, finished, givenUp } of cases) {
  t.test(`progress of a job: ${name}`, (t) => {
    const progress = jobProgress(service, tasks(text), 1);
    t.equal(progress?.finished, finished);
    t.equal(progress?.givenUp, givenUp);
    t.end();
  });
}
