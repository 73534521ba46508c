import type { ScalarTag, Tags } from "yaml";

/**
 * Numbers as `docker` reads them in compose files (go-yaml): YAML 1.2 with `0400` as octal beside `0o400`, `0b11`, and `_`
 * between digits. Nothing else of YAML 1.1: `yes` and `on` are texts, and so is `22:22`.
 */
export function composeNumbers(tags: Tags): Tags {
  return [integer, float, ...tags]; // The first that matches is taken; what the library's own would match, these do.
}

const integer: ScalarTag = {
  tag: "tag:yaml.org,2002:int",
  default: true,
  test: /^[-+]?(?:0[bB][01_]+|0[oO]?[0-7_]+|0[xX][0-9a-fA-F_]+|[1-9][0-9_]*|0)$/,
  resolve(text) {
    const plain = text.replaceAll("_", "").toLowerCase();
    const digits = plain.replace(/^[-+]/, "");
    const size = /^0\d/.test(digits) ? Number.parseInt(digits, 8) : Number(digits);
    if (!Number.isSafeInteger(size)) return text; // A long identifier in a variable must not lose digits.
    return plain.startsWith("-") ? -size : size;
  },
};

/** `0800` is no octal number, so it comes here and is 800. */
const float: ScalarTag = {
  tag: "tag:yaml.org,2002:float",
  default: true,
  test: /^[-+]?(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?$/,
  resolve: (text) => Number.parseFloat(text.replaceAll("_", "")),
};
