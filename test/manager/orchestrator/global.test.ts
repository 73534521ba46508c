import t from "tap";
import type { UpdatePolicy } from "../../../model/service.ts";
import { decideGlobal } from "../../../manager/orchestrator/global.ts";
import { nodeObject, taskSpec } from "../../sim/objects.ts";
import { printPlan, scene, type SceneText } from "./plan-notation.ts";

type Case = SceneText & { readonly name: string; readonly want: string };

const startFirst: UpdatePolicy = {
  parallelism: 1,
  delayMs: 0,
  failureAction: "pause",
  maxFailureRatio: 0,
  order: "start-first",
};

const global = { mode: { kind: "global" } } as const;
const globals: readonly Case[] = [
  { name: "one on each node", tasks: "", spec: global, want: "+n1; +n2; +n3" },
  {
    name: "none on drained nodes, nothing new on paused ones and on those that are away, whose own wait for their return",
    tasks: "0=running@n1 0=running@n2",
    nodes: [
      nodeObject("n1", { spec: { availability: "drain" } }),
      nodeObject("n2", { state: "down" }),
      nodeObject("n3", { spec: { availability: "pause" } }),
    ],
    spec: global,
    want: "-t1",
  },
  {
    name: "on a node that is away, what an update has replaced goes, and what ended is put to rest",
    tasks: "0=running@n1:v1 0=failed@n2:v5",
    nodes: [nodeObject("n1", { state: "down" }), nodeObject("n2", { state: "down" })],
    spec: global,
    service: { specVersion: 5 },
    want: "-t1; -t2",
  },
  {
    name: "a node that was drained gets its task again, though nothing is ever restarted",
    tasks: "0=shutdown/shutdown@n1",
    nodes: [nodeObject("n1")],
    spec: { ...global, task: taskSpec({ restart: { condition: "none" } }) },
    want: "+n1",
  },
  {
    name: "or all attempts are used up",
    tasks: "0=shutdown/shutdown@n1#3",
    nodes: [nodeObject("n1")],
    spec: { ...global, task: taskSpec({ restart: { maxAttempts: 3 } }) },
    want: "+n1",
  },
  {
    name: "but not one whose task the policy has given up",
    tasks: "0=failed/shutdown@n1#3",
    nodes: [nodeObject("n1")],
    spec: { ...global, task: taskSpec({ restart: { maxAttempts: 3 } }) },
    want: "",
  },
  {
    name: "a node that returns goes on with the task it has",
    tasks: "0=running@n1",
    nodes: [nodeObject("n1")],
    spec: global,
    want: "",
  },
  {
    name: "on a paused node the one that an update has replaced goes",
    tasks: "0=running@n1:v1 0=running@n1:v5+20",
    nodes: [nodeObject("n1", { spec: { availability: "pause" } })],
    spec: { ...global, update: startFirst },
    service: { specVersion: 5 },
    nowMs: 30,
    want: "-t1",
  },
  {
    name: "on a paused node the one that runs stays until its replacement does",
    tasks: "0=running@n1:v1 0=preparing@n1:v5+20",
    nodes: [nodeObject("n1", { spec: { availability: "pause" } })],
    spec: { ...global, update: startFirst },
    service: { specVersion: 5 },
    nowMs: 30,
    want: "",
  },
  {
    name: "on a paused node one of two stays when both are of older specs",
    tasks: "0=running@n1:v1 0=running@n1:v3+20",
    nodes: [nodeObject("n1", { spec: { availability: "pause" } })],
    spec: { ...global, update: startFirst },
    service: { specVersion: 5 },
    nowMs: 30,
    want: "-t1",
  },
  {
    name: "constraints exclude",
    tasks: "0=running@n1",
    nodes: [nodeObject("n1"), nodeObject("n2")],
    spec: {
      ...global,
      task: {
        ...taskSpec(),
        placement: { constraints: ["node.hostname==n2"], spread: [], maxReplicas: 0, platforms: [] },
      },
    },
    want: "-t1; +n2",
  },
  {
    name: "records of nodes that are gone are dropped",
    tasks: "0=orphaned@old",
    nodes: [],
    spec: global,
    want: "!t1",
  },
  {
    name: "what ended is restarted in its place",
    tasks: "0=failed@n1",
    nodes: [nodeObject("n1")],
    spec: global,
    want: "-t1 +n1r",
  },
];

for (const { name, want, ...text } of globals) {
  t.test(name, (t) => {
    t.equal(printPlan(decideGlobal(scene(text))), want);
    t.end();
  });
}
