// The actions that each state allows, and how each one is confirmed. Pure.
//
// An action that takes traffic off the target is one click. One that puts traffic on the target opens a dialog. One
// that discards a run, or goes against the evidence, needs a word to be typed.

import { openingAt, span, weight } from "./format.js";

const top = (status) => status.phases.at(-1);
const next = (status) => status.phases.find((phase) => phase.weight > status.weight);
const below = (status) => status.phases.filter((phase) => phase.weight < status.weight).at(-1)?.weight ?? 0;
const resumable = (status) => status.checkpoint?.resume_phase ?? null;
const held = (status) => status.weight > 0;

/** Per action: action and fields for the API, where it is shown, its label, and `ask`: the dialog's content, or null. */
const ACTIONS = [
  {
    id: "start",
    states: ["idle", "rolled_back", "aborted"],
    label: (s) => (s.state === "idle" ? "Start" : "Start anew"),
    place: (s) => (s.state === "idle" || !resumable(s) ? "main" : "more"),
    look: "primary",
    ask: (s) => ({
      title: "Start the migration",
      says: [`${weight(s.phases[0].weight)} of the data requests go to the target at once, phase “${s.phases[0].name}”.`],
      confirm: "Start",
      dryRun: true,
    }),
  },
  {
    id: "resume-run",
    action: "start",
    fields: { resume: true },
    states: ["aborted"],
    when: resumable,
    label: (s) => `Go on from ${resumable(s)}`,
    look: "primary",
    ask: (s) => ({ title: `Go on from ${resumable(s)}`, says: [raise(s, resumable(s))], confirm: "Go on" }),
  },
  {
    id: "resume",
    states: ["paused", "rolled_back"],
    when: (s) => s.state === "paused" || resumable(s),
    label: (s) => (s.state === "paused" ? "Resume" : `Go on from ${resumable(s)}`),
    look: "primary",
    ask: (s) =>
      s.state === "paused" && s.phase?.weight === s.weight
        ? null
        : { title: "Go on", says: [raise(s, s.state === "paused" ? s.phase?.name : resumable(s))], confirm: "Go on" },
  },
  { id: "pause", states: ["running"], label: () => "Pause", ask: () => null },
  {
    id: "advance",
    states: ["running", "completed"],
    when: (s) => s.state === "running" || next(s),
    label: (s) => (next(s) ? `Advance to ${weight(next(s).weight)}` : "Complete"),
    ask: (s) => {
      const earned = s.state === "completed" || s.verdict?.outcome === "promote";
      const to = next(s);
      const says = to
        ? `${weight(to.weight)} of the data requests go to the target at once, phase “${to.name}”.`
        : `${weight(top(s).weight)} stays on the target for good, and the migration is complete.`;
      return {
        title: to ? `Advance to ${to.name}` : "Complete the migration",
        says: earned ? [says] : [says, "The verdict is not promote: the evidence does not suffice yet."],
        confirm: to ? "Advance" : "Complete",
        reason: !earned,
        type: earned ? null : (to?.name ?? s.migration),
      };
    },
  },
  {
    id: "rollback",
    states: ["running", "paused", "rolled_back", "completed"],
    when: held,
    label: (s) => `Roll back to ${weight(below(s))}`,
    look: "danger",
    ask: (s) =>
      s.state === "completed"
        ? {
            title: `Roll back to ${weight(below(s))}`,
            says: ["The migration is complete. What was written since is on the target; the source may not have it."],
            confirm: "Roll back",
          }
        : null,
  },
  {
    id: "rollback-to-start",
    action: "rollback",
    fields: { to: "start" },
    states: ["running", "paused", "rolled_back", "rolling_back"],
    when: (s) => held(s) && (below(s) > 0 || s.state === "rolling_back"),
    place: (s) => (s.state === "rolling_back" ? "main" : "more"),
    label: () => "Roll back to 0 %",
    look: "danger",
    ask: () => null,
  },
  {
    id: "abort",
    states: ["running", "paused", "rolling_back", "rolled_back"],
    place: () => "more",
    label: () => "Abort: all traffic to the source",
    look: "danger",
    ask: () => null,
  },
  {
    id: "reset",
    states: ["running", "paused", "rolling_back", "rolled_back", "completed", "aborted"],
    place: () => "more",
    label: () => "Emergency reset",
    look: "danger",
    ask: (s) => ({
      title: "Emergency reset",
      says: [
        "All traffic goes to the source at once, and the run is discarded: it cannot be resumed.",
        ...(s.state === "completed" ? ["What was written since is on the target; the source may not have it."] : []),
      ],
      confirm: "Reset",
      reason: true,
      type: s.migration,
    }),
  },
];

function raise(status, name) {
  const phase = status.phases.find((each) => each.name === name);
  return phase
    ? `${weight(phase.weight)} of the data requests go to the target at once, phase “${phase.name}”.`
    : "The phase's weight goes to the target at once.";
}

/** The actions that the status allows. */
export function allowed(status) {
  return ACTIONS.filter((each) => each.states.includes(status.state) && (!each.when || each.when(status))).map((each) => ({
    id: each.id,
    action: each.action ?? each.id,
    fields: each.fields ?? {},
    label: each.label(status),
    look: each.look ?? "plain",
    place: each.place?.(status) ?? "main",
    ask: each.ask(status),
    raises: ["start", "resume", "advance"].includes(each.action ?? each.id),
  }));
}

/** A phase by its name and weight. */
const named = (phase) => `${phase.name}, ${weight(phase.weight)}`;

/** What `resume` does to the weight that is held. */
function resuming(status) {
  const to = status.phases.find((phase) => phase.name === resumable(status));
  if (!to) return "no phase has so little weight to go on with";
  const does = to.weight === status.weight ? "goes on with" : to.weight < status.weight ? "lowers it to" : "raises it to";
  return `until an operator resumes, which ${does} ${named(to)}`;
}

/** ", not before …" while hours or a freeze keep a phase from beginning; by the clocks of the window's zone. */
const notBefore = (status) => (status.opens ? `, not before ${openingAt(status.opens)}` : "");

/** While the data's gate holds, the command that opens it, or the task that does. */
function dataFirst(status) {
  const { gated, mend, task } = status.data ?? {};
  if (!gated) return "";
  const what = task && task.kind !== "compare" ? `the ${task.kind} under way` : `“${mend}”`;
  return `No phase begins before ${what} is done. `;
}

/** Whether what comes next raises the weight. */
function raises(status) {
  const to = status.phases.find((phase) => phase.name === resumable(status));
  switch (status.state) {
    case "rolling_back":
      return false;
    case "running":
      return Boolean(status.phase);
    case "completed":
      return Boolean(next(status));
    default:
      return !held(status) || !to || to.weight > status.weight;
  }
}

/** What happens by itself from here, in one sentence; before it, what must be done first. */
export function comesNext(status) {
  return `${raises(status) ? dataFirst(status) : ""}${follows(status)}`;
}

function follows(status) {
  const { state, phase, phases, verdict } = status;
  const to = next(status);
  switch (state) {
    case "idle":
      return `Start begins with ${named(phases[0])}, for ${span(phases[0].min_soak_s)} at least${notBefore(status)}.`;
    case "running": {
      if (!phase) return "The mode sends everything to one side, whatever the phases.";
      const what = to ? named(to) : "completion";
      const not = notBefore(status);
      if (to?.approval) return `Next: ${what}, when an operator advances it${not}.`;
      const unwell = status.waits.find((each) => ["health", "lag"].includes(each.kind));
      if (unwell) return `Next: ${what}, when this is mended: ${unwell.reason}${not}.`;
      const left = phase.min_soak_s - phase.soaked_s;
      const unproven = status.waits.some((each) => each.kind === "samples" || each.kind === "proof");
      const held = status.waits.length > 0 && !unproven && verdict?.outcome === "hold";
      const earned = verdict?.outcome === "promote" || (left <= 0 && held);
      if (not) return `Next: ${what}${not}${earned ? "" : ", when every rule is proven"}.`;
      if (left > 0) return `Next: ${what}, in ${span(Math.ceil(left))} at the earliest, when every rule is proven.`;
      return earned
        ? `Next: ${what}, now.`
        : `Next: ${what}, as soon as every rule is proven. The phase's minimum soak is over.`;
    }
    case "paused":
      return `Held at ${weight(status.weight)} ${resuming(status)}${status.weight ? "; a breach still rolls back" : ""}.`;
    case "rolling_back":
      return "Waiting for the requests that began on the target before the rollback.";
    case "rolled_back":
      if (status.weight) return `Held at ${weight(status.weight)} ${resuming(status)}; a breach rolls back further.`;
      return `The source answers everything. ${startingAnew(status)}`;
    case "completed":
      if (to) return `Held at ${weight(status.weight)} without a lease. Advance goes on to ${named(to)}${notBefore(status)}.`;
      return `${weight(status.weight)} stays on the target, without a lease. There is no automatic rollback any more.`;
    case "aborted":
      return `The source answers everything. ${startingAnew(status)}`;
    default:
      return "";
  }
}

function startingAnew(status) {
  const to = status.phases.find((phase) => phase.name === resumable(status));
  const anew = `Start begins anew with ${named(status.phases[0])}`;
  return `${to ? `Going on leads to ${named(to)}. ` : ""}${anew}${notBefore(status)}.`;
}
