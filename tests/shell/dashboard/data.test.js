// What the page says of the data, and what it offers to do with it.

import assert from "node:assert/strict";
import { test } from "node:test";
import * as page from "../../../control/dashboard/data.js";

const COMPARE = { at: "2026-11-30T07:02:00.000Z", equal: true, differences: 0, documents: 1234 };
const COMPLETE = {
  complete: true,
  copied_at: "2026-11-30T06:12:00.000Z",
  behind: { changes: 0, oldest_s: 0 },
  lost: 0,
  compare: COMPARE,
  task: null,
  gated: false,
  lacks: null,
  mend: null,
};
const NEVER = {
  ...COMPLETE,
  complete: false,
  copied_at: null,
  compare: null,
  gated: true,
  lacks: "the target lacks the source's data",
  mend: "phasegate copy --migration shop",
};
const DIFFERS = { ...NEVER, lost: 2, lacks: "2 changes reached one side alone", mend: "phasegate compare --migration shop --repair" };
const COPYING = { kind: "copy", done: 41_000, of: 1_000_000, rate: 498.2, left_s: 1925.7 };
const fact = (data, name) => page.facts({ ...COMPLETE, ...data }).find((each) => each.name === name);

test("whether the target is complete, why not, and what mends it", () => {
  assert.deepEqual(page.standing(COMPLETE).mark, "✓");
  assert.equal(page.standing(COMPLETE).why, null);
  const never = page.standing(NEVER);
  assert.match(never.says, /no phase begins/);
  assert.deepEqual([never.why, never.mend], ["The target lacks the source's data.", NEVER.mend]);
  assert.match(page.standing({ ...NEVER, gated: false }).says, /gate is off: phases begin all the same/);
  // The task under way is what mends it; a compare is not.
  assert.equal(page.standing({ ...NEVER, task: COPYING }).mend, null);
  assert.equal(page.standing({ ...NEVER, task: { ...COPYING, kind: "compare" } }).mend, NEVER.mend);
});

test("each figure says what is known, and nothing more", () => {
  const cases = [
    [{ copied_at: null }, "Last copy", "never"],
    [{ behind: { changes: 1, oldest_s: 0 } }, "On their way", "1 change"],
    [{ behind: { changes: 1234, oldest_s: 61 } }, "On their way", "1,234 changes"],
    [{}, "Lost", "0 changes", ""],
    [{ lost: 7 }, "Lost", "7 changes", "bad"],
    [{ compare: null }, "Last compare", "never"],
    [{}, "Last compare", "equal", "good"],
    [{ compare: { ...COMPARE, equal: false, differences: 1 } }, "Last compare", "1 difference", "bad"],
    [{ compare: { ...COMPARE, equal: false, differences: 312 } }, "Last compare", "312 differences", "bad"],
    // Neither equal nor different: documents were on their way.
    [{ compare: { ...COMPARE, equal: false } }, "Last compare", "not settled"],
  ];
  for (const [data, name, value, look] of cases) {
    const found = fact(data, name);
    assert.equal(found.value, value);
    if (look !== undefined) assert.equal(found.look ?? "", look, value);
  }
  assert.match(fact({ behind: { changes: 9, oldest_s: 61 } }, "On their way").note, /the oldest for 1 min 01 s/);
  assert.match(fact({}, "Last compare").note, /of 1,234 documents/);
});

test("how far a task is, whatever of it is known", () => {
  const known = page.progress(COPYING);
  assert.deepEqual([known.name, known.far, known.done], ["Copying", "41,000 of 1,000,000 documents", 0.041]);
  assert.deepEqual(known.pace, ["4.10 %", "498 a second", "about 32 min 06 s left"]);
  const begun = page.progress({ kind: "compare", done: 0, of: null, rate: null, left_s: null });
  assert.deepEqual([begun.far, begun.done, begun.pace], ["0 documents so far", null, []]);
  assert.equal(page.progress({ ...COPYING, done: 12, of: 10 }).done, 1); // written meanwhile: never above the whole
  assert.equal(page.progress({ ...COPYING, done: 0, of: 0 }).done, 1);
});

test("how the newest task ended, by the audit trail", () => {
  const entry = (seq, kind, detail) => ({ seq, at: "2026-11-30T07:02:00.000Z", kind, detail });
  const says = (kind, detail) => page.lastEnded([entry(9, "start", {}), entry(3, kind, detail), entry(2, "copied", {})]);
  const cases = [
    ["copied", { copied: 1, skipped_newer: 2 }, /Copy done: 1 document copied, 2 left as they are/, false],
    ["compared", { documents: 12, differences: 3 }, /Compare done: 3 of 12 documents differ/, false],
    ["compared", { documents: 12 }, /Compare done: no difference in 12 documents/, false],
    ["repaired", { repaired: 3, documents: 12, differences: 1 }, /Repair done: 3 repaired, 1 of 12 documents differ/, false],
    ["data_task_failed", { kind: "copy", failure: "stopped", reason: "told to" }, /Copy stopped\.$/, false],
    ["data_task_failed", { kind: "repair", failure: "unreachable", reason: "no answer" }, /Repair was not done: no answer\./, true],
    ["data_task_failed", { kind: "compare", reason: "control ended before it was done" }, /Compare was not done: control ended/, true],
  ];
  for (const [kind, detail, text, bad] of cases) {
    const found = says(kind, detail);
    assert.match(found.text, text);
    assert.deepEqual([found.bad, found.seq], [bad, 3], kind);
  }
  assert.equal(page.lastEnded([entry(1, "rollback", {})]), null);
});

test("a list that is older than the last copy says so", () => {
  assert.equal(page.outdated(COMPLETE), false);
  assert.equal(page.outdated({ ...COMPLETE, copied_at: "2026-11-30T08:00:00.000Z" }), true);
  assert.equal(page.outdated(NEVER), false);
});

test("what can be done: one task at a time, and first what mends it", () => {
  const looks = (data) => page.dataActions(data).map(({ id, look }) => [id, look]);
  assert.deepEqual(looks(COMPLETE), [["copy", "plain"], ["compare", "plain"], ["repair", "plain"]]);
  assert.deepEqual(looks(NEVER), [["copy", "primary"], ["compare", "plain"], ["repair", "plain"]]);
  assert.deepEqual(looks(DIFFERS), [["copy", "plain"], ["compare", "plain"], ["repair", "primary"]]);
  assert.deepEqual(looks({ ...NEVER, task: COPYING }), [["stop", "plain"]]);
});

test("what only reads asks nothing, what writes asks, and what may lose something is typed", () => {
  const asks = Object.fromEntries(page.dataActions(COMPLETE).map(({ id, ask }) => [id, ask]));
  assert.equal(asks.compare, null);
  assert.ok(asks.copy.says.length > 0);
  assert.equal(page.repairAsk("shop", { from: null, delete: false }).type, null);
  for (const from of ["source", "target"]) {
    assert.equal(page.repairAsk("shop", { from, delete: false }).type, "shop");
    assert.match(page.repairAsk("shop", { from, delete: true }).says.join(" "), /what only it has is deleted/);
  }
  assert.equal(page.deleting(null), null);
  assert.match(page.deleting("source"), /only the target has/);
  assert.match(page.deleting("target"), /only the source has/);
});

test("a price says reads, writes and dollars where there are any", () => {
  assert.equal(page.priced({ reads: 0, writes: 1_000_000, usd: 1.8 }), "It reads 0 documents and writes 1,000,000, about $1.80.");
  assert.equal(page.priced({ reads: 1, writes: 2, usd: null }), "It reads 1 document and writes 2.");
});
