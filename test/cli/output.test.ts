import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Command } from "commander";
import t from "tap";
import { readNamedFile } from "../../cli/files.ts";
import { collect, hideEmptyDefaults } from "../../cli/options.ts";
import { familiarImage, imageWithoutDigest } from "../../cli/print.ts";

const digest = `sha256:${"a".repeat(64)}`;
const images = [
  { image: "web:1", service: "web:1", container: "web:1" },
  { image: `docker.io/library/web:1@${digest}`, service: "web:1", container: "web:1" },
  {
    image: `localhost:5000/web@${digest}`,
    service: `localhost:5000/web@${digest}`,
    container: "localhost:5000/web",
  },
] as const;

t.test("lists of services keep a digest that stands alone, the list of containers keeps none", (t) => {
  for (const { image, service, container } of images) {
    t.equal(familiarImage(image), service);
    t.equal(imageWithoutDigest(image), container);
  }
  t.end();
});

t.test("help says nothing of lists that are empty unless given", (t) => {
  const program = new Command("x");
  hideEmptyDefaults(program);
  const command = program
    .command("y")
    .option("-f, --filter <filter>", "filter output", collect, [])
    .option("--replicas <number>", "how many", "1");
  const help = command.helpInformation();
  t.match(help, /--filter <filter> +filter output\n/);
  t.match(help, /how many \(default: "1"\)/);
  t.end();
});

t.test("a file that cannot be read is told as docker does", (t) => {
  const folder = mkdtempSync(join(tmpdir(), "shoal-cli-"));
  t.teardown(() => rmSync(folder, { recursive: true }));
  const missing = join(folder, "nope.yml");
  t.throws(() => readNamedFile(missing), { message: `open ${missing}: no such file or directory` });
  t.throws(() => readNamedFile(folder), { message: /: is a directory$/ });
  t.end();
});
