import dns from "dns-packet";
import * as fc from "fast-check";
import t from "tap";

import { must, runCommand } from "../../../worker/network/command.ts";
import { encodeReply, parseQuery, replyCodes } from "../../../worker/network/dns-message.ts";
import type { Query } from "../../../worker/network/dns-message.ts";

function query(name: string, udpPayloadSize?: number): Query {
  const additionals: dns.Answer[] =
    udpPayloadSize === undefined
      ? []
      : [
          {
            type: "OPT",
            name: ".",
            udpPayloadSize,
            extendedRcode: 0,
            ednsVersion: 0,
            flags: 0,
            flag_do: false,
            options: [],
          },
        ];
  const parsed = parseQuery(
    dns.encode({ type: "query", id: 77, questions: [{ type: "A", name }], additionals }),
  );
  if (parsed === undefined) throw new Error("not parsed");
  return parsed;
}

const addresses = Array.from({ length: 200 }, (_, index) => `10.0.1.${index}`);
const records = addresses.map((address) => ({ type: "A", address }) as const);

t.test("a reply repeats number and question and carries the records", (t) => {
  const reply = encodeReply(query("web"), {
    code: replyCodes.done,
    records: records.slice(0, 2),
    ttlSeconds: 2,
    over: "udp",
  });
  const { id, questions, answers, flag_tc: truncated } = dns.decode(reply);
  t.match(
    { id, questions, truncated },
    { id: 77, questions: [{ name: "web", type: "A" }], truncated: false },
  );
  t.match(answers, [
    { name: "web", type: "A", ttl: 2, data: "10.0.1.0" },
    { name: "web", data: "10.0.1.1" },
  ]);
  t.end();
});

t.test("records of both families have their addresses whole", (t) => {
  const reply = encodeReply(query("web"), {
    code: replyCodes.done,
    records: [
      { type: "AAAA", address: "fd00::5" },
      { type: "PTR", name: "web.red" },
    ],
    ttlSeconds: 2,
    over: "udp",
  });
  t.match(dns.decode(reply).answers, [
    { name: "web", type: "AAAA", data: "fd00::5" },
    { name: "web", type: "PTR", data: "web.red" },
  ]);
  t.end();
});

for (const { rule, offered, limit } of [
  { rule: "512 bytes when nothing is said", offered: undefined, limit: 512 },
  { rule: "what the asker takes", offered: 1000, limit: 1000 },
  { rule: "never more than one packet of an overlay", offered: 65_000, limit: 1232 },
  { rule: "never less than 512", offered: 10, limit: 512 },
]) {
  t.test(`a long reply over UDP is cut and marked: ${rule}`, (t) => {
    const reply = encodeReply(query("web", offered), {
      code: replyCodes.done,
      records,
      ttlSeconds: 2,
      over: "udp",
    });
    t.ok(reply.length <= limit && reply.length > limit - 16, `${reply.length} bytes`);
    t.ok(dns.decode(reply).flag_tc);
    t.end();
  });
}

t.test("over TCP it is whole", (t) => {
  const reply = encodeReply(query("web"), { code: replyCodes.done, records, ttlSeconds: 2, over: "tcp" });
  t.equal(dns.decode(reply).answers?.length, 200);
  t.end();
});

t.test("no bytes make the parser throw, and whatever it takes can be answered", (t) => {
  const valid = dns.encode({ type: "query", id: 1, questions: [{ type: "A", name: "a.b" }] });
  const damaged = fc
    .tuple(fc.nat(valid.length - 1), fc.nat(255))
    .map(([at, byte]) => Uint8Array.from(valid, (old, index) => (index === at ? byte : old)));
  fc.assert(
    fc.property(fc.oneof(fc.uint8Array({ maxLength: 200 }), damaged), (bytes) => {
      const parsed = parseQuery(Buffer.from(bytes));
      if (parsed === undefined) return;
      const reply = encodeReply(parsed, {
        code: 0,
        records: records.slice(0, 1),
        ttlSeconds: 0,
        over: "udp",
      });
      if (reply.length > 512) throw new Error("too long");
    }),
    { numRuns: 2000 },
  );
  t.end();
});

t.test("a missing tool is named with its package; a refusal says what was being done", async (t) => {
  const path = process.env["PATH"];
  process.env["PATH"] = "/nowhere";
  t.teardown(() => void (process.env["PATH"] = path));
  await t.rejects(runCommand(["nft", "-f", "x"]), {
    code: "unavailable",
    message: /apt-get install nftables/,
  });
  await t.rejects(
    must(async () => ({ code: 1, stdout: "", stderr: "No such device\n" }), "join the bridge", ["ip"]),
    { code: "internal", message: "cannot join the bridge: No such device" },
  );
});
