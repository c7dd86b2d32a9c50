// The rollback clock: when each step was complete, against the limit. Pure.

const STEPS = [
  { key: "decided_ms", name: "decided", says: "detected, judged, and the lower weight published" },
  { key: "seen_ms", name: "seen", says: "every live worker shows it" },
  { key: "drained_ms", name: "drained", says: "no older request is open on the target" },
];

/**
 * {steps: [{name, took, at}], total, limit}: times in ms since detection. `limit` is null where no phase has the
 * weight that the rollback left.
 */
export function clockOf(rollback, phases) {
  let at = 0;
  const steps = STEPS.map(({ key, name, says }) => {
    at += rollback[key];
    return { name, says, took: rollback[key], at };
  });
  const from = phases.find((phase) => phase.weight === rollback.from_weight);
  return { steps, total: rollback.total_ms, limit: from ? from.rollback_within_s * 1000 : null };
}

const LEAST_MS = 1;

/** The place of a time on a logarithmic track from 1 ms to `most`, 0 to 1. */
export function along(ms, most) {
  if (ms <= LEAST_MS) return 0;
  return Math.min(1, Math.log(ms / LEAST_MS) / Math.log(most / LEAST_MS));
}

/** The powers of ten on the track. */
export function ticks(most) {
  const powers = [];
  // A tick too near to the track's end would overlap the label there.
  for (let tick = LEAST_MS; tick < most / 1.5; tick *= 10) powers.push(tick);
  return powers;
}
