import t from "tap";
import { createRoot, digestOfRoot } from "../../../manager/ca/root.ts";
import { newJoinTokens, roleOfToken, rotateJoinToken } from "../../../manager/ca/token.ts";
import { seededRandom } from "../../../runtime/random.ts";
import { caDeps } from "./certificates.ts";

t.test("tokens carry the root's digest and say the role by which one they are", async (t) => {
  const root = await createRoot(caDeps);
  const random = seededRandom(1);
  const tokens = newJoinTokens(random, root.certificatePem);
  t.match(tokens.worker, /^SWMTKN-1-[0-9a-z]{50}-[0-9a-z]{25}$/);
  t.ok(tokens.worker.includes(digestOfRoot(root.certificatePem)));
  t.not(tokens.worker, tokens.manager);
  const rotated = rotateJoinToken(random, tokens, "worker", root.certificatePem);
  const foreign = newJoinTokens(random, (await createRoot(caDeps)).certificatePem);

  const accepted = [
    { name: "worker", token: tokens.worker, want: "worker" },
    { name: "manager", token: tokens.manager, want: "manager" },
    { name: "space around it", token: ` ${tokens.manager}\n`, want: "manager" },
  ] as const;
  for (const { name, token, want } of accepted) t.equal(roleOfToken(tokens, token), want, name);
  t.equal(roleOfToken(rotated, tokens.manager), "manager", "the other token survives a rotation");

  const refused = [
    { name: "empty", token: "" },
    { name: "not a token", token: "SWMTKN-1-abc" },
    { name: "another version", token: tokens.worker.replace("-1-", "-2-") },
    { name: "of another cluster", token: foreign.worker },
    {
      name: "one character off",
      token: tokens.worker.slice(0, -1) + (tokens.worker.endsWith("0") ? "1" : "0"),
    },
    { name: "the new one, asked of the old set", token: rotated.worker },
  ];
  for (const { name, token } of refused) {
    t.throws(
      () => roleOfToken(tokens, token),
      { code: "invalid-argument", message: /invalid join token/ },
      name,
    );
  }
  t.throws(() => roleOfToken(rotated, tokens.worker), { message: /invalid join token/ }, "rotated away");
});
