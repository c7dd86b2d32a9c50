// The page's pure parts: what it says of a status, and what it draws of samples.

import assert from "node:assert/strict";
import { test } from "node:test";
import { allowed, comesNext } from "../../../control/dashboard/actions.js";
import * as format from "../../../control/dashboard/format.js";
import { along, clockOf, ticks } from "../../../control/dashboard/rollback.js";
import { cells, columns, edges, latencyRange, marks, merge, rows } from "../../../control/dashboard/series.js";

const PHASES = [
  { name: "initial", weight: 5, min_soak_s: 300, rollback_within_s: 10, approval: false },
  { name: "half", weight: 50, min_soak_s: 900, rollback_within_s: 20, approval: false },
  { name: "complete", weight: 100, min_soak_s: 300, rollback_within_s: 38, approval: true },
];

function status(state, index, more = {}) {
  const phase = index === null ? null : { index, ...PHASES[index], soaked_s: 10, entered_at: null };
  return {
    migration: "phase6",
    state,
    weight: phase?.weight ?? 0,
    phase,
    phases: PHASES,
    verdict: { outcome: "hold", reasons: [], rules: [] },
    checkpoint: { resume_phase: null },
    waits: [],
    opens: null,
    ...more,
  };
}

const ids = (found) => found.map((each) => each.id);

test("every state allows what the control plane would carry out, and no more", () => {
  const cases = [
    [status("idle", null), ["start"]],
    [status("running", 1), ["pause", "advance", "rollback", "rollback-to-start", "abort", "reset"]],
    [status("running", 0), ["pause", "advance", "rollback", "abort", "reset"]],
    [status("paused", 1), ["resume", "rollback", "rollback-to-start", "abort", "reset"]],
    [status("rolling_back", 0), ["rollback-to-start", "abort", "reset"]],
    [status("rolled_back", null), ["start", "abort", "reset"]],
    [status("rolled_back", 0, { checkpoint: { resume_phase: "initial" } }), ["start", "resume", "rollback", "abort", "reset"]],
    [status("completed", 2), ["rollback", "reset"]],
    [status("aborted", null, { checkpoint: { resume_phase: "half" } }), ["start", "resume-run", "reset"]],
  ];
  for (const [given, expected] of cases) assert.deepEqual(ids(allowed(given)), expected, given.state);
});

test("taking traffic back asks nothing while a migration is under way", () => {
  for (const state of ["running", "paused", "rolling_back", "rolled_back"]) {
    for (const each of allowed(status(state, 1))) {
      if (["rollback", "abort"].includes(each.action)) assert.equal(each.ask, null, `${each.id} in ${state}`);
    }
  }
});

test("whatever puts traffic on the target asks first, and is bound to what was read", () => {
  const found = [
    ...allowed(status("idle", null)),
    ...allowed(status("running", 0)),
    ...allowed(status("aborted", null, { checkpoint: { resume_phase: "half" } })),
  ].filter((each) => each.raises);
  assert.deepEqual(ids(found), ["start", "advance", "start", "resume-run"]);
  for (const each of found) assert.ok(each.ask, each.id);
});

test("what goes against the evidence or forgets a run has to be typed, with a reason", () => {
  const by = (given, id) => allowed(given).find((each) => each.id === id).ask;
  assert.deepEqual([by(status("running", 0), "advance").type, by(status("running", 0), "advance").reason], ["half", true]);
  const earned = status("running", 0, { verdict: { outcome: "promote", reasons: [], rules: [] } });
  assert.equal(by(earned, "advance").type, null);
  assert.deepEqual([by(status("running", 0), "reset").type, by(status("running", 0), "reset").reason], ["phase6", true]);
});

test("a rollback's button says where it goes", () => {
  const label = (given) => allowed(given).find((each) => each.id === "rollback").label;
  assert.equal(label(status("running", 1)), "Roll back to 5 %");
  assert.equal(label(status("running", 0)), "Roll back to 0 %");
});

test("what comes next is said of every state", () => {
  assert.match(comesNext(status("running", 0)), /half, 50 %, in 4 min 50 s/);
  assert.match(comesNext(status("running", 1)), /complete, 100 %, when an operator advances/);
  assert.match(comesNext(status("running", 2)), /completion/);
  for (const state of ["idle", "paused", "rolling_back", "rolled_back", "completed", "aborted"]) {
    assert.ok(comesNext(status(state, state === "idle" ? null : 1)).length > 20, state);
  }
});

test("what comes next names the phase that going on leads to, and is not promised before the hours allow it", () => {
  const to = (name) => ({ checkpoint: { resume_phase: name } });
  const opens = { at: "2026-10-26T08:00:00.000Z", tz: "Europe/Paris" };
  const hours = { kind: "window", name: "hours", reason: "outside the hours" };
  const soaked = { phase: { index: 0, ...PHASES[0], soaked_s: 400 } };
  const later = /half, 50 %, not before Mon 2026-10-26 09:00 Europe\/Paris \(Mon 08:00 UTC\)/;
  assert.match(comesNext(status("paused", 1, to("half"))), /until an operator resumes, which goes on with half, 50 %/);
  assert.match(comesNext(status("rolled_back", 1, to("initial"))), /which lowers it to initial, 5 %/);
  assert.match(comesNext(status("paused", null, to("half"))), /Held at 0 % until .* raises it to half, 50 %/);
  assert.match(comesNext(status("rolled_back", 1)), /no phase has so little weight/);
  assert.match(comesNext(status("aborted", null, to("half"))), /Going on leads to half, 50 %\. Start begins anew with initial, 5 %/);
  assert.match(comesNext(status("running", 0, { opens, waits: [hours] })), later);
  assert.match(comesNext(status("running", 0, { opens, waits: [hours] })), /when every rule is proven/);
  assert.doesNotMatch(comesNext(status("running", 0, { opens, waits: [hours], ...soaked })), /proven|now/);
  assert.match(comesNext(status("idle", null, { opens })), /initial, 5 %.* not before Mon/);
  const ill = { kind: "health", name: "backend new", reason: "no answer" };
  assert.match(comesNext(status("running", 0, { waits: [ill] })), /when this is mended: no answer/);
  assert.equal(format.openingAt({ at: opens.at, tz: "UTC" }), "Mon 2026-10-26 08:00 UTC");
  assert.equal(format.openingAt({ at: opens.at, tz: "Mars/Base" }), "Mon 2026-10-26 08:00 UTC");
});

test("while the data's gate holds, the command that opens it is said before what it keeps from being", () => {
  const data = { complete: false, gated: true, mend: "phasegate copy --migration phase6", task: null };
  const first = /^No phase begins before “phasegate copy --migration phase6” is done\. /;
  for (const given of [status("idle", null, { data }), status("running", 0, { data }), status("aborted", null, { data })]) {
    assert.match(comesNext(given), first, given.state);
  }
  const copying = { ...data, task: { kind: "copy", done: 3 } };
  assert.match(comesNext(status("idle", null, { data: copying })), /^No phase begins before the copy under way is done/);
  const lower = { data, checkpoint: { resume_phase: "initial" } };
  for (const given of [status("rolled_back", 1, lower), status("rolling_back", 1, { data })]) {
    assert.doesNotMatch(comesNext(given), /No phase begins/, given.state);
  }
  assert.doesNotMatch(comesNext(status("idle", null, { data: { ...data, gated: false } })), /No phase begins/);
});

test("figures keep three digits and never say more than is known", () => {
  const cases = [
    [format.ms(0.0523), "0.052 ms"],
    [format.ms(37.26), "37.3 ms"],
    [format.ms(1005.4), "1,005 ms"],
    [format.ms(12_500), "12.5 s"],
    [format.ms(null), "–"],
    [format.share(0), "0.00 %"],
    [format.share(0.0005), "0.050 %"],
    [format.share(0.268), "26.8 %"],
    [format.weight(5), "5 %"],
    [format.weight(33.333), "33.33 %"],
    [format.span(0.85), "850 ms"],
    [format.span(65), "1 min 05 s"],
    [format.span(600), "10 min"],
    [format.span(7380), "2 h 03 min"],
    [format.difference(2, 5), "+3.00 ms (×2.50)"],
    [format.difference(5, 2), "−3.00 ms (×0.40)"],
    [format.difference(null, 5), "–"],
    [format.points(0.01, 0.03), "+2.00 pp"],
    [format.sentence("rolled_back"), "Rolled back"],
  ];
  for (const [found, expected] of cases) assert.equal(found, expected);
  assert.equal(format.unix("2026-01-01T00:00:00.500Z"), 1_767_225_600.5);
  assert.equal(format.unix("no time"), null);
});

const arm = (requests, errors = 0, heat = []) => ({ requests, errors, p50_ms: 1, p95_ms: requests ? 2 : null, p99_ms: 3, heat });
const sample = (at, weight, source = 75, target = 25) => ({ at, span_s: 1, weight, source: arm(source), target: arm(target, 1) });

test("samples are kept in order, each once, however the history and the events cross", () => {
  const first = [1, 2, 3].map((at) => sample(at, 5));
  const merged = merge(merge([], first), [2, 3, 4].map((at) => sample(at, 5)));
  assert.deepEqual(merged.map((each) => each.at), [1, 2, 3, 4]);
  assert.equal(merge(first, []), first);
  let many = [];
  for (let at = 0; at < 1200; at += 1) many = merge(many, [sample(at, 5)]);
  assert.deepEqual([many.length, many[0].at], [1000, 200]);
});

test("a change of weight is marked where the step began in which it was seen", () => {
  const found = marks([sample(1, 5), sample(2, 25), sample(3, 25), sample(4, 5)]);
  assert.deepEqual(found, [
    { at: 1, from: 5, to: 25, kind: "raise" },
    { at: 3, from: 25, to: 5, kind: "rollback" },
  ]);
});

test("nothing is drawn over time in which nobody looked", () => {
  const table = rows([1, 2, 3, 9, 10].map((at) => sample(at, 25)), 1, 0, 20);
  assert.deepEqual(table.map((row) => [row.at, row.empty ?? false]), [[1, false], [2, false], [3, false], [4, true], [9, false], [10, false]]);
  const { rates, split } = columns(table, "p95_ms");
  assert.deepEqual(rates[1], [75, 75, 75, null, 75, 75]);
  assert.deepEqual(split[2], [0.25, 0.25, 0.25, null, 0.25, 0.25]);
});

test("rates are of the step's own length, and no requests are no error rate and no latency", () => {
  const table = rows([{ ...sample(10, 0, 200, 0), span_s: 10 }], 10, 0, 20);
  const { rates, errors, latency } = columns(table, "p95_ms");
  assert.deepEqual([rates[1][0], rates[2][0]], [20, 0]);
  assert.deepEqual([errors[1][0], errors[2][0]], [0, null]);
  assert.deepEqual([latency[1][0], latency[2][0]], [2, null]);
});

test("the measured split begins anew with the weight", () => {
  const table = rows([sample(1, 5, 95, 5), sample(2, 5, 95, 5), sample(3, 50, 50, 50)], 1, 0, 9);
  assert.deepEqual(columns(table, "p50_ms").split[2], [0.05, 0.05, 0.5]);
});

test("heat cells count every request once and lie between their bucket's edges", () => {
  const bounds = [1, 10, 100];
  const table = [1, 2, 3, 4].map((at) => ({ ...sample(at, 5), source: arm(3, 0, [1, 0, 2]), target: arm(1, 0, [0, 1]) }));
  const found = cells(table, "source", 2, 1);
  assert.equal(found.reduce((n, cell) => n + cell.count, 0), 12);
  assert.ok(found.every((cell) => cell.to - cell.from === 2));
  assert.deepEqual([edges(bounds, 0), edges(bounds, 2), edges(bounds, 3)], [[0.1, 1], [10, 100], [100, 1000]]);
  assert.deepEqual(latencyRange(table, bounds), [0.1, 100]);
  assert.deepEqual(latencyRange([], bounds), [1, 1000]);
});

test("a rollback's steps add up, against the limit of the phase that was left", () => {
  const last = { from_weight: 50, to_weight: 5, decided_ms: 1, seen_ms: 9, drained_ms: 90, total_ms: 100 };
  const clock = clockOf(last, PHASES);
  assert.deepEqual(clock.steps.map((step) => step.at), [1, 10, 100]);
  assert.deepEqual([clock.total, clock.limit], [100, 20_000]);
  assert.equal(clockOf({ ...last, from_weight: 33 }, PHASES).limit, null);
  assert.deepEqual([along(0.2, 1000), along(1000, 1000), along(5000, 1000)], [0, 1, 1]);
  assert.ok(Math.abs(along(10, 1000) - 1 / 3) < 1e-9);
  assert.deepEqual(ticks(20_000), [1, 10, 100, 1000, 10_000]);
});
