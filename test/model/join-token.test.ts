import t from "tap";
import { bytesToBase36, parseJoinToken, printJoinToken } from "../../model/join-token.ts";

const digest = "0".repeat(40) + "abcdefghij";
const secret = "z".repeat(25);

t.test("a printed token reads back as itself", (t) => {
  const token = { rootDigest: digest, secret };
  t.equal(printJoinToken(token), `SWMTKN-1-${digest}-${secret}`);
  t.strictSame(parseJoinToken(` ${printJoinToken(token)}\n`), token);
  t.end();
});

const broken = [
  { name: "nothing", text: "" },
  { name: "another scheme", text: `SWMTKX-1-${digest}-${secret}` },
  { name: "another version", text: `SWMTKN-3-${digest}-${secret}` },
  { name: "a short digest", text: `SWMTKN-1-abc-${secret}` },
  { name: "a long secret", text: `SWMTKN-1-${digest}-${secret}0` },
  { name: "capital letters", text: `SWMTKN-1-${digest.toUpperCase()}-${secret}` },
  { name: "a fifth part", text: `SWMTKN-1-${digest}-${secret}-x` },
];

for (const { name, text } of broken) {
  t.test(`${name} is no token, and the text says where to get one`, (t) => {
    t.throws(() => parseJoinToken(text), {
      code: "invalid-argument",
      message: /^invalid join token.*join-token worker/,
    });
    t.end();
  });
}

t.test("bytes become base36 of a fixed length", (t) => {
  t.equal(bytesToBase36(Uint8Array.of(0), 3), "000");
  t.equal(bytesToBase36(Uint8Array.of(1, 0), 3), "074");
  t.equal(bytesToBase36(new Uint8Array(32).fill(255), 50).length, 50);
  t.end();
});
