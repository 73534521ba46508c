/** Everything that is asked, in order: each part leaves nothing behind but the image `bb`. */
import type { Call } from "./call.ts";
import { clientCalls } from "./client.ts";
import { containerCalls } from "./containers.ts";
import { filesCalls } from "./files.ts";
import { imageCalls } from "./images.ts";
import { networkCalls } from "./networks.ts";
import { sandboxCalls } from "./sandbox.ts";
import { systemCalls } from "./system.ts";
import { volumeCalls } from "./volumes.ts";

export const allCalls: readonly Call[] = [
  ...systemCalls,
  ...imageCalls,
  ...volumeCalls,
  ...networkCalls,
  ...containerCalls,
  ...sandboxCalls,
  ...filesCalls,
  ...clientCalls,
];
