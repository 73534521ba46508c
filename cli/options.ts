import type { Command, Help, Option } from "commander";

/** For options that may be given more than once: their values in order. Their default is `[]`. */
export function collect(value: string, previous: readonly string[]): string[] {
  return [...previous, value];
}

/** Keeps `(default: [])` out of help: that nothing is given unless something is needs no word. */
export function hideEmptyDefaults(command: Command): void {
  const help: Help = command.createHelp();
  command.configureHelp({
    optionDescription(option: Option): string {
      const text = help.optionDescription(option);
      return isEmptyList(option.defaultValue) ? text.replace(/ \(default: \[\]\)$/, "") : text;
    },
  });
}

function isEmptyList(value: unknown): boolean {
  return Array.isArray(value) && value.length === 0;
}
