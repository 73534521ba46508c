import t from "tap";
import { ClusterError } from "../../model/errors.ts";
import {
  apiTime,
  errorResponse,
  parseFilters,
  parseJsonBody,
  queryFlag,
  splitVersion,
  versionProblem,
} from "../../runtime/http.ts";

t.test("a version prefix is taken off, and only a whole one", (t) => {
  const cases = [
    { url: "/v1.41/info?x=1", want: { version: "1.41", url: "/info?x=1" } },
    { url: "/info", want: { version: "1.50", url: "/info" } },
    { url: "/v1.50", want: { version: "1.50", url: "/" } },
    { url: "/volumes/v1.2", want: { version: "1.50", url: "/volumes/v1.2" } },
    { url: "/v1.41x/info", want: { version: "1.50", url: "/v1.41x/info" } },
  ];
  for (const { url, want } of cases) t.strictSame(splitVersion(url), want, url);
  t.end();
});

t.test("versions outside 1.24..1.50 are refused with the API's texts", (t) => {
  t.equal(versionProblem("1.50"), undefined);
  t.equal(versionProblem("1.24"), undefined);
  t.equal(versionProblem("1.51"), "client version 1.51 is too new. Maximum supported API version is 1.50");
  t.match(
    versionProblem("1.23"),
    /^client version 1.23 is too old. Minimum supported API version is 1.24, please upgrade/,
  );
  t.match(versionProblem("2.0"), /too new/);
  t.end();
});

t.test("filters come in two shapes and unknown keys are named", (t) => {
  t.strictSame(parseFilters('{"label":{"a=b":true,"c":false}}', ["label"]), new Map([["label", ["a=b"]]]));
  t.strictSame(parseFilters('{"label":["a=b"]}', ["label"]), new Map([["label", ["a=b"]]]));
  t.throws(() => parseFilters('{"foo":["a"]}', ["label"]), {
    code: "invalid-argument",
    message: "invalid filter 'foo'",
  });
  t.throws(() => parseFilters("[1]", ["label"]), { message: "invalid filter" });
  t.throws(() => parseFilters("{", ["label"]), { message: "invalid filter" });
  t.end();
});

t.test("bodies: empty is no fields, other media types and bad JSON are refused", (t) => {
  t.strictSame(parseJsonBody(undefined, ""), {});
  t.strictSame(parseJsonBody("application/json; charset=utf-8", '{"a":1}'), { a: 1 });
  t.throws(() => parseJsonBody("text/plain", "{}"), {
    message: "unsupported Content-Type header (text/plain): must be 'application/json'",
  });
  t.throws(() => parseJsonBody("application/json", "{"), { message: /^invalid JSON: / });
  t.end();
});

t.test("errors keep their text, bugs do not", (t) => {
  t.strictSame(errorResponse(new ClusterError("not-found", "No such container: x ")), {
    status: 404,
    body: { message: "No such container: x" },
  });
  t.strictSame(errorResponse(new TypeError("secret")), { status: 500, body: { message: "internal error" } });
  t.end();
});

t.test("flags and times print as the API has them", (t) => {
  for (const text of ["", "0", "no", "False", "NONE", null, undefined])
    t.equal(queryFlag(text), false, String(text));
  for (const text of ["1", "true", "yes"]) t.equal(queryFlag(text), true, text);
  t.equal(apiTime(undefined), "0001-01-01T00:00:00Z");
  t.equal(apiTime(Date.UTC(2026, 0, 2, 3, 4, 5, 120)), "2026-01-02T03:04:05.12Z");
  t.equal(apiTime(Date.UTC(2026, 0, 2, 3, 4, 5)), "2026-01-02T03:04:05Z");
  t.end();
});
