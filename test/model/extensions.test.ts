import t from "tap";
import {
  extensionLabels,
  extensionProblems,
  extensionsOf,
  parseDurationMs,
  unknownExtensions,
} from "../../model/extensions.ts";
import { defaultUpdatePolicy } from "../../model/defaults.ts";
import type { Labels } from "../../model/meta.ts";
import type { ServiceSpec } from "../../model/service.ts";
import { serviceWarnings } from "../../model/warnings.ts";
import { serviceSpec, taskSpec } from "../sim/objects.ts";

t.test("every label has a default, and what is given is read", (t) => {
  t.match(extensionsOf({}), {
    prefer: [],
    avoid: [],
    onUnreachable: { kind: "replace", afterMs: 0 },
    restartMaxDelayMs: 300_000,
    updateDeadlineMs: 600_000,
    rebalance: "allowed",
  });
  const given = extensionsOf({
    "shoal.prefer": "node.labels.disk==ssd, service!=DB",
    "shoal.avoid": "db, Cache,",
    "shoal.on-unreachable": "stop:1m30s",
    "shoal.restart.max-delay": "500ms",
    "shoal.update.deadline": "1.5h",
    "shoal.rebalance": "never",
    "shoal.mesh": "local",
    "shoal.publish.address": "192.0.2.7, 10.1.2.3/8",
  });
  t.strictSame(given.prefer, [
    { kind: "node", constraint: { key: "node.labels.disk", operator: "==", value: "ssd" } },
    { kind: "service", operator: "!=", name: "db" },
  ]);
  t.match(given, {
    avoid: ["db", "cache"],
    onUnreachable: { kind: "stop", afterMs: 90_000 },
    restartMaxDelayMs: 500,
    updateDeadlineMs: 5_400_000,
    rebalance: "never",
    mesh: "local",
    publishAddresses: ["192.0.2.7/32", "10.0.0.0/8"],
  });
  t.end();
});

const refused = {
  "shoal.prefer": "node.labels.disk",
  "shoal.on-unreachable": "panic",
  "shoal.restart.max-delay": "5",
  "shoal.update.deadline": "-5s",
  "shoal.rebalance": "yes",
  "shoal.mesh": "near",
  "shoal.publish.address": "eth0",
};
for (const [label, value] of Object.entries(refused)) {
  t.test(`${label}=${value} is refused with what is accepted, and counts as not there`, (t) => {
    const [problem = "", ...more] = extensionProblems({ [label]: value });
    t.ok(problem.startsWith(`invalid label ${label}="${value}": `), problem);
    t.strictSame(more, []);
    t.strictSame(extensionsOf({ [label]: value }), extensionsOf({}));
    t.end();
  });
}

t.test("labels that cannot act are told of; those that can are not", (t) => {
  const of = (mode: ServiceSpec["mode"], labels: Labels, more: Partial<ServiceSpec> = {}): string[] =>
    serviceWarnings({ ...serviceSpec({ labels }), mode, ...more }).map(
      (warning) => warning.split(":")[0] ?? "",
    );
  const replicated = { kind: "replicated", replicas: 1 } as const;
  const job = { kind: "replicated-job", maxConcurrent: 1, totalCompletions: 1 } as const;
  const all = {
    "shoal.on-unreachable": "wait",
    "shoal.prefer": "node.labels.a==b",
    "shoal.rebalance": "never",
    "shoal.update.deadline": "1m",
    "shoal.update.settle": "1s",
  };
  const startFirst = { update: { ...defaultUpdatePolicy, order: "start-first" } } as const;
  t.strictSame(of(replicated, all, startFirst), []);
  t.strictSame(of(replicated, all), ["label shoal.update.settle does nothing here"]);
  t.strictSame(of({ kind: "global" }, all, startFirst), [
    "label shoal.on-unreachable does nothing here",
    "label shoal.prefer does nothing here",
    "label shoal.rebalance does nothing here",
  ]);
  t.strictSame(of({ kind: "global" }, { "shoal.on-unreachable": "stop" }), []);
  t.strictSame(of(job, all), [
    "label shoal.rebalance does nothing here",
    "label shoal.update.deadline does nothing here",
    "label shoal.update.settle does nothing here",
  ]);
  t.strictSame(of(replicated, { "shoal.on-unreachable": "stop:1s" }), ["label shoal.on-unreachable"]);
  t.end();
});

t.test("times are those of Go, and bounded", (t) => {
  t.equal(parseDurationMs("1h2m3s4ms"), 3_723_004);
  for (const text of ["", "1", "s", "1d", "1s ", "9".repeat(40), "99999999h"]) {
    t.throws(() => parseDurationMs(text), /a time such as 30s/, text);
  }
  t.end();
});

t.test("what nobody knows is accepted with a warning", (t) => {
  t.strictSame(unknownExtensions({ "shoal.prefe": "x", other: "y", "shoal.avoid": "z" }), ["shoal.prefe"]);
  t.ok(extensionLabels.includes("shoal.on-unreachable"));
  const placement = { constraints: ["node.lable.a==b"], spread: ["rack"], maxReplicas: 0, platforms: [] };
  const warnings = serviceWarnings(
    serviceSpec({ labels: { "shoal.x": "" }, task: { ...taskSpec(), placement } }),
  );
  t.match(warnings, [
    /no node has node.lable.a, so no task will be placed/,
    /placement preference "rack" is not known/,
    /label shoal.x is not known and does nothing; known are shoal.prefer, /,
  ]);
  t.strictSame(serviceWarnings(serviceSpec()), []);
  t.end();
});
