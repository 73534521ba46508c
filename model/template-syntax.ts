/** Which `{{…}}` placeholders a hostname, an environment line or a mount may hold. */

const fields = new Set([
  ".Service.ID",
  ".Service.Name",
  ".Service.Labels",
  ".Node.ID",
  ".Node.Hostname",
  ".Node.Platform",
  ".Node.Platform.OS",
  ".Node.Platform.Architecture",
  ".Task.ID",
  ".Task.Name",
  ".Task.Slot",
]);
/** `{{index .Service.Labels "name"}}` */
const labelPattern = /^index\s+\.Service\.Labels\s+"[^"]*"$/;
const labelFieldPattern = /^\.Service\.Labels\.[A-Za-z_][A-Za-z0-9_]*$/;

/** The first placeholder that nothing can fill, in words; undefined when all are known. */
export function templateProblem(text: string): string | undefined {
  let at = 0;
  for (;;) {
    const open = text.indexOf("{{", at);
    if (open < 0) return undefined;
    const close = text.indexOf("}}", open + 2);
    if (close < 0) return `template: expansion:1: unclosed action started at character ${open + 1}`;
    const inner = text
      .slice(open + 2, close)
      .replace(/^- | -$/g, "")
      .trim();
    if (!fields.has(inner) && !labelPattern.test(inner) && !labelFieldPattern.test(inner)) {
      return `template: expansion:1: can't evaluate {{${inner}}}: known are ${[...fields].join(", ")}`;
    }
    at = close + 2;
  }
}
