/** For options that may be given more than once: their values in order. Their default is `[]`. */
export function collect(value: string, previous: readonly string[]): string[] {
  return [...previous, value];
}
