/** Histories that once broke a rule, and what it was. */
export const clusterSeeds: readonly { readonly seed: number; readonly found: string }[] = [
  { seed: 499, found: "a task of a start-first service that had just begun to serve was shut down as idle" },
  { seed: 588, found: "a node that had asked a leader without a quorum was down before it found the next" },
  { seed: 5154, found: "the same with a leader whose log was slow" },
  { seed: 5436, found: "a start-first update whose tasks all failed began again whenever it was complete" },
  { seed: 5501, found: "a node paused in mid-update kept both tasks of a global service" },
  { seed: 5652, found: "a rollback shut down a task that had just begun to serve" },
  { seed: 5696, found: "a node that looked for its leader asked one silent manager twice in a row" },
  { seed: 5701, found: "the first task of a start-first update was shut down as it began to serve" },
  {
    seed: 283,
    found: "an update that goes on past failures waited for ever for restarts beside the old tasks",
  },
  { seed: 794, found: "a host port was refused as taken where an update of a global service added it" },
  { seed: 5166, found: "an update began again and again where the restart policy had given its tries up" },
  { seed: 5752, found: "a rollback made new tasks for ever where nothing is restarted" },
  {
    seed: 41022,
    found: "a task was given to a node that lost the label it asks for while that was on its way",
  },
  { seed: 100429, found: "a global job never began on a node that became eligible while it was not heard" },
];
