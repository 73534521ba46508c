/**
 * Ends one thing after another. One that cannot be ended in order keeps none of the others open: an open listener or port
 * would keep the whole thread.
 *
 * @param told - Called with each failure, as it comes.
 */
export async function endAll(
  steps: readonly (() => Promise<void> | void)[],
  told: (error: unknown) => void,
): Promise<void> {
  for (const step of steps) {
    try {
      await step();
    } catch (error) {
      told(error);
    }
  }
}
