import t from "tap";
import { bytes } from "./cluster.ts";
import { World } from "./world.ts";

const seedCount = Number(process.env["RAFT_SEEDS"] ?? 300);
const firstSeed = Number(process.env["RAFT_SEED"] ?? 1);
const stepsPerSeed = 3000;
const roundsToHeal = 200;

t.test(
  "nothing committed is lost or changed under drops, cuts and crashes; all agree once they stop",
  (t) => {
    let committed = 0;
    for (let seed = firstSeed; seed < firstSeed + seedCount; seed += 1) {
      const world = new World(seed);
      try {
        run(world);
      } catch (error) {
        t.fail(`seed ${seed}: ${error instanceof Error ? error.message : String(error)}`);
      }
      if (world.violations.length > 0) t.fail(`seed ${seed}: ${world.violations.slice(0, 3).join("; ")}`);
      const problem = heal(world);
      if (problem !== undefined) t.fail(`seed ${seed}: ${problem}`);
      committed += world.committed;
    }
    t.ok(committed > seedCount * 20, `${committed} entries were committed over ${seedCount} seeds`);
    t.end();
  },
);

function run(world: World): void {
  for (let step = 0; step < stepsPerSeed; step += 1) {
    world.step();
    if (step % 100 === 0) world.checkLogs();
  }
}

/** Liveness: a leader, a new entry, everyone caught up. */
function heal(world: World): string | undefined {
  world.heal();
  for (let round = 0; round < roundsToHeal; round += 1) {
    world.round();
    const leader = world.leader();
    if (leader === undefined) continue;
    // A leader that was deposed may have taken it and lost it, so it is offered again.
    if (round % 20 === 0) leader.node.propose(bytes("final"));
    const last = leader.node.status().lastIndex;
    const caughtUp = world.current().every(({ applied }) => applied.length === last);
    if (caughtUp && leader.applied.some((text) => text.endsWith(":final"))) {
      world.checkLogs();
      return world.violations[0];
    }
  }
  const states = [...world.members.values()].map(({ id, node }) => {
    const { role, term, commit, lastIndex } = node.status();
    return `${id} ${role} t${term} c${commit} l${lastIndex}`;
  });
  return `no agreement after ${roundsToHeal} quiet rounds: ${states.join(", ")}`;
}
