import t from "tap";
import { loadSchema, schemaPath } from "../../api/schema.ts";
import { systemClock } from "../../../runtime/clock.ts";
import { ask, idOf, makeHarness } from "./harness.ts";
import { fullService, plainService } from "./specs.ts";

const schema = loadSchema();

if (schema === undefined) {
  t.comment(
    `SKIPPED: responses are not validated, there is no ${schemaPath()} (SHOAL_API_SCHEMA names another)`,
  );
  t.pass("nothing to validate against");
} else {
  const cases = [
    { line: "GET /swarm", definition: "Swarm" },
    { line: "GET /nodes", definition: "Node", list: true },
    { line: "GET /nodes/w1", definition: "Node" },
    { line: "GET /services?status=true", definition: "Service", list: true },
    { line: "GET /services/full", definition: "Service" },
    { line: "GET /services/full?insertDefaults=true", definition: "Service" },
    { line: "GET /services/plain?insertDefaults=true", definition: "Service" },
    { line: "GET /tasks", definition: "Task", list: true },
    { line: "GET /networks", definition: "Network", list: true },
    { line: "GET /networks/net1?verbose=true", definition: "Network" },
    { line: "GET /secrets", definition: "Secret", list: true },
    { line: "GET /secrets/s1", definition: "Secret" },
    { line: "GET /configs", definition: "Config", list: true },
    { line: "GET /configs/c1", definition: "Config" },
    { line: "GET /shoal/v1/swarm-info", definition: "SwarmInfo" },
    { line: "GET /nope", definition: "ErrorResponse" },
  ] as const;

  t.test("every answer has the form that the API's description gives it", async (t) => {
    const harness = await makeHarness({ clock: systemClock });
    t.teardown(() => harness.api.close());
    const network = await ask(harness, "POST /networks/create", {
      Name: "net1",
      Driver: "overlay",
      Labels: { a: "b" },
    });
    const secret = await ask(harness, "POST /secrets/create", { Name: "s1", Data: "cw==" });
    const config = await ask(harness, "POST /configs/create", { Name: "c1", Data: "Yw==" });
    const ids = { network: idOf(network), secret: idOf(secret), config: idOf(config) };
    const created = await ask(harness, "POST /services/create", fullService(ids));
    t.strictSame(schema.problems("ServiceCreateResponse", created.json), []);
    await ask(harness, "POST /services/create", plainService("plain"));
    await harness.fillTasks();
    for (const { line, definition, ...rest } of cases) {
      const { json, headers } = await ask(harness, line);
      t.equal(headers["content-type"], "application/json", `${line}: exact content type`);
      const list = "list" in rest;
      const problems = list ? schema.listProblems(definition, json) : schema.problems(definition, json);
      t.strictSame(problems, [], `${line} is a ${definition}`);
      if (list) t.not((json as unknown[]).length, 0, `${line} has something to check`);
    }
  });
}
