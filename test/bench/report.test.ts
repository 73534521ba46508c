import t from "tap";
import { markdownTable, medians } from "./report.ts";

t.test("medians are taken figure by figure; one round that failed fails the figure", async (t) => {
  const rounds = [
    { a_s: 1, b_s: 5 },
    { a_s: 3, b_s: Number.NaN },
    { a_s: 9, b_s: 7 },
  ];
  t.strictSame(medians(rounds), { a_s: 3, b_s: Number.NaN });
  t.strictSame(medians([{ a_s: 1 }, { a_s: 2 }]), { a_s: 1.5 });
});

t.test("the ratio says how many times the second column takes of the first", async (t) => {
  const table = markdownTable(
    [
      { title: "Shoal", figures: { deploy_50_s: 1, rss_idle_worker_mib: 80 } },
      { title: "Docker Swarm", figures: { deploy_50_s: 3.5, remove_s: Number.NaN } },
    ],
    "Note.",
  );
  t.match(table, "| deploy_50_s | 1.000 s | 3.500 s | 3.5× |");
  t.match(table, "| rss_idle_worker_mib | 80 MiB |  |  |");
  t.match(table, "| remove_s |  | not in time |  |");
});
