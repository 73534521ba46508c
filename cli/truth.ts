import type { Command } from "commander";

/**
 * Lets every switch of a command and its subcommands be given as docker's: `--detach=false` beside
 * `--detach`. The word after a switch is never its value.
 */
export function acceptTruthValues(command: Command): void {
  for (const subcommand of command.commands) acceptTruthValues(subcommand);
  const parseOptions = command.parseOptions.bind(command);
  command.parseOptions = (argv) => parseOptions(withoutTruthValues(command, argv));
}

function withoutTruthValues(command: Command, argv: readonly string[]): string[] {
  const kept: string[] = [];
  for (let at = 0; at < argv.length; at += 1) {
    const word = argv[at] ?? "";
    // What follows the first argument may belong to the container's command.
    if (word === "--" || (!word.startsWith("-") && endsInCommand(command)))
      return [...kept, ...argv.slice(at)];
    const [name = "", value] = word.split(/=(.*)/s, 2);
    const option = command.options.find(({ long, short }) => long === name || short === name);
    const isSwitch = option !== undefined && !option.required && !option.optional;
    if (isSwitch && value === "false") {
      command.setOptionValueWithSource(option.attributeName(), option.negate, "cli");
    } else kept.push(isSwitch && value === "true" ? name : word);
    if (option?.required === true && value === undefined && at + 1 < argv.length) {
      at += 1;
      kept.push(argv[at] ?? "");
    }
  }
  return kept;
}

/** As `create <image> [command...]` does. */
function endsInCommand({ registeredArguments }: Command): boolean {
  return registeredArguments.length > 1 && registeredArguments.at(-1)?.variadic === true;
}
