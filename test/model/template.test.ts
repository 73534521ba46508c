import { assert, constantFrom, property, string, array } from "fast-check";
import t from "tap";
import { expandTemplate, type PayloadLookups, type TemplateContext } from "../../model/template.ts";
import { payloadTemplateProblem } from "../../model/template-syntax.ts";

const context: TemplateContext = {
  service: { id: "sid", name: "web", labels: { "a.b": "label", plain: "p" } },
  node: { id: "nid", hostname: "host", platform: { architecture: "x86_64", os: "linux" } },
  task: { id: "tid", name: "web.2.tid", slot: "2" },
};
const lookups: PayloadLookups = {
  secret: (target) => {
    if (target !== "password") throw new Error(`secret target ${target} not found`);
    return "s3{{.Service.ID}}";
  },
  config: () => "content",
  env: (name) => (name === "MODE" ? "fast" : ""),
};

/** What Go's text/template makes of each with Docker's fields and functions. */
const cases: readonly (readonly [text: string, want: string])[] = [
  ["no template", "no template"],
  ["{{.Service.ID}} {{.Service.Name}}", "sid web"],
  ["{{.Service.Name}}-{{.Task.Slot}}", "web-2"],
  ["{{ .Node.ID }} {{ .Node.Hostname }}", "nid host"],
  ["{{.Node.Platform.OS}}/{{.Node.Platform.Architecture}} {{.Node.Platform}}", "linux/x86_64 {x86_64 linux}"],
  ["{{.Task.ID}} {{.Task.Name}}", "tid web.2.tid"],
  ['{{index .Service.Labels "a.b"}} {{.Service.Labels.plain}}', "label p"],
  ['[{{index .Service.Labels "none"}}]', "[]"],
  ["{{.Service.Labels}}", "map[a.b:label plain:p]"],
  ["a {{- /* why */ -}} b", "ab"],
  ["a {{- 1 -}} b", "a1b"],
  ["a {{-1}} b", "a -1 b"],
  ['{{secret "password"}} {{config "c"}} {{env "MODE"}}[{{env "NONE"}}]', "s3{{.Service.ID}} content fast[]"],
  ['{{if eq (env "MODE") "fast"}}on{{else}}off{{end}}', "on"],
  ['{{if eq .Task.Slot "1"}}one{{else if eq .Task.Slot "2"}}two{{else}}many{{end}}!', "two!"],
  ['{{if and (env "MODE") (not (env "NONE"))}}both{{end}}', "both"],
  ['{{if or (env "NONE") .Task.Slot}}some{{end}}', "some"],
  [
    '{{with env "NONE"}}{{.}}{{else}}none{{end}} {{with .Node}}{{.Hostname}} {{$.Task.Slot}}{{end}}',
    "none host 2",
  ],
  ["{{range $key, $value := .Service.Labels}}{{$key}}={{$value}};{{end}}", "a.b=label;plain=p;"],
  ["{{range .Service.Labels}}{{.}} {{end}}", "label p "],
  ['{{$x := "a"}}{{if true}}{{$x = "b"}}{{end}}{{$x}}', "b"],
  ['{{env "MODE" | printf "%s-%s" .Task.Slot}} {{printf "%q %d%%" "x" 5}}', '2-fast "x" 5%'],
  ['{{join "," "a" "b" .Task.Slot}} {{len "äb"}} {{print "a" "b"}}', "a,b,2 3 ab"],
  ["{{`}}`}}", "}}"],
  ['{{lt 1 2}} {{ge 2 3}} {{ne .Task.Slot "2"}}', "true false false"],
];
for (const [text, want] of cases) {
  t.test(`template ${text}`, (t) => {
    t.equal(expandTemplate(text, context, lookups), want);
    t.end();
  });
}

const refused: readonly (readonly [text: string, why: RegExp])[] = [
  ["{{.Foo}}", /can't evaluate \{\{\.Foo\}\}: known are \.Service, \.Node, \.Task/],
  ["{{.Task.Secret}}", /can't evaluate .*known are \.ID, \.Name, \.Slot/],
  ["{{.Service.Labels.none}}", /map has no entry for key "none"/],
  ['{{secret "other"}}', /secret target other not found/],
  ["{{nothing 1}}", /function "nothing" not defined/],
  ['{{.Task.Slot "x"}}', /can't give argument to non-function/],
  ["{{$x}}", /undefined variable "\$x"/],
  ["{{range .Task.Slot}}{{end}}", /range can't iterate/],
];
for (const [text, why] of refused) {
  t.test(`template ${text} is refused`, (t) => {
    t.throws(() => expandTemplate(text, context, lookups), { message: why });
    t.end();
  });
}

t.test("templates that cannot be read are found before any task has them", (t) => {
  for (const text of [
    "{{",
    "{{}}",
    "{{if true}}",
    "{{end}}",
    "{{else}}",
    "{{(.Task}}",
    '{{define "x"}}{{end}}',
    "{{ # }}",
    "{{a | }}",
  ])
    t.type(payloadTemplateProblem(text), "string", text);
  t.equal(payloadTemplateProblem('{{if env "X"}}{{secret "y"}}{{end}}'), undefined);
  t.throws(() => expandTemplate("{{secret `password`}}", context), {
    message: /function "secret" not defined/,
  });
  t.end();
});

t.test("a template cannot run for long", (t) => {
  const labels = Object.fromEntries(Array.from({ length: 100 }, (_, i) => [`l${i}`, "x"]));
  const loops = (depth: number): string =>
    depth === 0 ? "." : `{{range $.Service.Labels}}${loops(depth - 1)}{{end}}`;
  const many = { ...context, service: { ...context.service, labels } };
  t.throws(() => expandTemplate(loops(4), many), { message: /more than \d+ steps/ });
  t.throws(() => expandTemplate("{{if true}}".repeat(200), context), { message: /too deeply nested/ });
  t.throws(() => expandTemplate(`{{${"(".repeat(200)}}}`, context), { message: /too deeply nested/ });
  t.end();
});

t.test(
  "property: whatever the text, it is expanded or refused with a reason; without braces it stays",
  (t) => {
    const piece = constantFrom(
      "{{",
      "}}",
      "if ",
      "end",
      "else",
      " .Task",
      "$x",
      ":=",
      '"',
      "(",
      ")",
      "|",
      "-",
      " ",
      "range ",
      "1",
    );
    assert(
      property(array(piece, { maxLength: 20 }), (pieces) => {
        const text = pieces.join("");
        try {
          return typeof expandTemplate(text, context, lookups) === "string";
        } catch (reason) {
          return reason instanceof Error && reason.message.startsWith("template: expansion:1: ");
        }
      }),
      { numRuns: 2_000 },
    );
    assert(property(string(), (text) => text.includes("{{") || expandTemplate(text, context) === text));
    t.end();
  },
);
