// What the page says of a migration's data, and what can be done with it. Pure.
//
// What reads is one click. What writes asks first. What may replace or delete something newer needs a word to be typed.

import { clock, count, figure, moment, sentence, share, span, unix } from "./format.js";

const documents = (n) => `${count(n)} ${n === 1 ? "document" : "documents"}`;
const changes = (n) => `${count(n)} ${n === 1 ? "change" : "changes"}`;

/** Whether the target has what the source has: {look, mark, says}, why not, and the command that mends it, or null. */
export function standing(data) {
  if (data.complete) {
    return { look: "complete", mark: "✓", says: "The target is not known to lack anything.", why: null, mend: null };
  }
  const says = data.gated ? "Incomplete: no phase begins." : "Incomplete. The gate is off: phases begin all the same.";
  // Beside the task that mends it, the command would only be begun a second time.
  const mending = data.task !== null && data.task.kind !== "compare";
  return { look: "lacking", mark: "•", says, why: `${sentence(data.lacks)}.`, mend: mending ? null : data.mend };
}

/** The figures: [{name, value, note, look}]. */
export function facts({ copied_at, behind, lost, compare }) {
  return [
    { name: "Last copy", value: copied_at === null ? "never" : moment(copied_at), note: "of all documents" },
    {
      name: "On their way",
      value: changes(behind.changes),
      note: behind.oldest_s > 0 ? `to the other side, the oldest for ${span(behind.oldest_s)}` : "to the other side",
    },
    { name: "Lost", value: changes(lost), note: "that one side alone has", look: lost ? "bad" : "" },
    compared(compare),
  ];
}

function compared(compare) {
  const name = "Last compare";
  if (compare === null) return { name, value: "never", note: "of all documents" };
  const note = `of ${documents(compare.documents)}, ${moment(compare.at)}`;
  if (compare.equal) return { name, value: "equal", note, look: "good" };
  // Not equal without a difference: documents were still on their way when it ended.
  if (compare.differences === 0) return { name, value: "not settled", note };
  return { name, value: `${count(compare.differences)} ${compare.differences === 1 ? "difference" : "differences"}`, note, look: "bad" };
}

const DOING = { copy: "Copying", compare: "Comparing", repair: "Repairing" };

/** The task under way: {name, far, pace: [text], done: 0 to 1 or null where it is not known yet}. */
export function progress(task) {
  const known = task.of !== null;
  return {
    name: DOING[task.kind] ?? sentence(task.kind),
    far: known ? `${count(task.done)} of ${documents(task.of)}` : `${documents(task.done)} so far`,
    done: known ? (task.of > 0 ? Math.min(1, task.done / task.of) : 1) : null,
    pace: [
      ...(known && task.of > 0 ? [share(Math.min(1, task.done / task.of))] : []),
      ...(task.rate === null ? [] : [`${figure(task.rate)} a second`]),
      ...(task.left_s === null ? [] : [`about ${span(task.left_s)} left`]),
    ],
  };
}

// What each entry of the audit trail that ends a task says.
const ENDINGS = {
  copied: ({ copied = 0, skipped_newer = 0 }) =>
    `Copy done: ${documents(copied)} copied${skipped_newer ? `, ${count(skipped_newer)} left as they are on the target` : ""}.`,
  compared: (detail) => `Compare done: ${left(detail)}.`,
  repaired: (detail) => `Repair done: ${count(detail.repaired ?? 0)} repaired, ${left(detail)}.`,
  data_task_failed: ({ kind, failure, reason }) =>
    failure === "stopped" ? `${sentence(kind)} stopped.` : `${sentence(kind)} was not done: ${reason}.`,
};

const left = ({ differences = 0, documents: of = 0 }) =>
  differences ? `${count(differences)} of ${documents(of)} differ` : `no difference in ${documents(of)}`;

/** The newest task that has ended, by the audit trail: {seq, bad, text}; null where none is known. `entries`: newest first. */
export function lastEnded(entries) {
  const entry = entries.find((each) => each.kind in ENDINGS);
  if (!entry) return null;
  const bad = entry.kind === "data_task_failed" && entry.detail.failure !== "stopped";
  return { seq: entry.seq, bad, text: `${clock(entry.at)} ${ENDINGS[entry.kind](entry.detail)}` };
}

/** How a difference's kind is written. */
export const KINDS = { missing_on_target: "missing on the target", missing_on_source: "missing on the source", different: "different" };

/** Whether the list of differences is older than the last copy, which may have mended some. */
export const outdated = ({ copied_at, compare }) => compare !== null && copied_at !== null && unix(copied_at) > unix(compare.at);

// The three ways to repair. `from` is the API's: the side that is right.
export const WAYS = [
  { from: null, label: "The newer document wins", note: "What no rule decides stays as it is, and stays listed." },
  { from: "source", label: "Make the target like the source", note: "What is newer on the target is lost." },
  { from: "target", label: "Make the source like the target", note: "What is newer on the source is lost." },
];

const other = (side) => (side === "source" ? "target" : "source");

/** What the box for deleting says; null where there is no side to follow, and nothing is ever deleted. */
export const deleting = (from) => (from === null ? null : `Also delete what only the ${other(from)} has`);

/** A repair's dialog: `choice` is {from, delete}. */
export function repairAsk(migration, choice) {
  const loses = choice.from !== null;
  return {
    title: "Compare and repair",
    says: [
      "All documents are compared, and those that differ are written. Traffic may go on meanwhile.",
      ...(loses ? [`The ${other(choice.from)} is made like the ${choice.from}${choice.delete ? ", and what only it has is deleted" : ""}.`] : []),
    ],
    confirm: "Repair",
    type: loses ? migration : null,
  };
}

const COPY = {
  title: "Copy the data",
  says: [
    "Every document that the target lacks is written there. Nothing newer on the target is replaced, and nothing is deleted.",
    "Traffic may go on meanwhile. A copy that is stopped goes on from there when it is begun again.",
  ],
  confirm: "Copy",
  cost: true,
};

/** What can be done now: [{id, label, look, ask}]. `ask`: a dialog's content, "repair" for the one with choices, or null. */
export function dataActions(data) {
  if (data.task !== null) return [{ id: "stop", label: `Stop the ${data.task.kind}`, look: "plain", ask: null }];
  const mends = /^phasegate copy\b/.test(data.mend ?? "") ? "copy" : data.mend ? "repair" : null;
  return [
    { id: "copy", label: "Copy", ask: COPY },
    { id: "compare", label: "Compare", ask: null },
    { id: "repair", label: "Repair", ask: "repair" },
  ].map((each) => ({ ...each, look: each.id === mends ? "primary" : "plain" }));
}

/** A price of reads and writes. */
export function priced({ reads, writes, usd }) {
  const dollars = usd === null ? "" : `, about $${usd.toFixed(2)}`;
  return `It reads ${documents(reads)} and writes ${count(writes)}${dollars}.`;
}
