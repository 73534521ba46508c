import type { LoadHook } from "node:module";
import type { Plant } from "./raft-plants.ts";

type Planted = Pick<Plant, "name" | "module" | "changes">;

let plant: Planted | undefined;

/** Called by Node in the thread of the hooks. */
export function initialize(given: Planted): void {
  plant = given;
}

/** Rewrites the one module; a text that is not there any more is told, since the plant would prove nothing. */
export const load: LoadHook = async (url, context, next) => {
  const loaded = await next(url, context);
  if (plant === undefined || !url.endsWith(pathOf(plant))) return loaded;
  let source = Buffer.from(loaded.source as Uint8Array).toString(); // Node gives modules from disk as bytes.
  for (const { find, replace } of plant.changes) {
    if (source.split(find).length !== 2)
      throw new Error(`plant "${plant.name}": ${plant.module} does not hold once: ${find}`);
    source = source.replace(find, () => replace);
  }
  return { ...loaded, source };
};

function pathOf({ module }: Planted): string {
  return module.startsWith("raft-ts/")
    ? `/raft-ts/build/${module.slice("raft-ts/".length)}.js`
    : `/build/${module}.js`;
}
