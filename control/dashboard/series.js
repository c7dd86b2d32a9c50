// Turns samples into the data of the plots. Pure.
//
// A sample has both arms' figures in one step of time: {at, span_s, weight, source, target}. `at` is in Unix seconds;
// an arm is {requests, errors, p50_ms, p95_ms, p99_ms, heat}; `heat` counts requests by latency bucket.

export const QUANTILES = ["p50_ms", "p95_ms", "p99_ms"];
export const WINDOWS = [
  { name: "5 min", seconds: 300, step: 1 },
  { name: "15 min", seconds: 900, step: 1 },
  { name: "1 h", seconds: 3600, step: 10 },
  { name: "6 h", seconds: 21_600, step: 60 },
];
const SAMPLES_MAX = 1000; // per step length: more than any window shows
const SHARE_OVER_S = 10; // the measured share is over so many seconds
const GAP_STEPS = 2.5; // samples further apart than so many steps have a gap between them

/** Samples with newer ones added: ordered by time, without duplicates, at most `SAMPLES_MAX`. */
export function merge(samples, more) {
  if (more.length === 0) return samples;
  const first = more[0].at;
  const older = samples.filter((sample) => sample.at < first - 1e-3);
  return [...older, ...more].slice(-SAMPLES_MAX);
}

/** Where the weight changed: {at, from, to, kind: "raise" | "rollback"}. */
export function marks(samples) {
  const changes = [];
  for (let i = 1; i < samples.length; i += 1) {
    const [before, after] = [samples[i - 1], samples[i]];
    if (after.weight !== before.weight) {
      const kind = after.weight > before.weight ? "raise" : "rollback";
      changes.push({ at: after.at - after.span_s, from: before.weight, to: after.weight, kind });
    }
  }
  return changes;
}

/** The samples in [from, to], with an empty row in every gap, so that no line is drawn across it. */
export function rows(samples, step, from, to) {
  const table = [];
  for (const sample of samples) {
    if (sample.at < from - step || sample.at > to + step) continue;
    const last = table.at(-1);
    if (last && sample.at - last.at > GAP_STEPS * step) table.push({ at: last.at + step, empty: true });
    table.push(sample);
  }
  return table;
}

const column = (table, value) => table.map((row) => (row.empty ? null : value(row)));
const rate = (arm) => (row) => row[arm].requests / row.span_s;
const failed = (arm) => (row) => (row[arm].requests ? row[arm].errors / row[arm].requests : null);

/** The data of each plot, in uPlot's form. */
export function columns(table, quantile) {
  const at = table.map((row) => row.at);
  const both = (value) => [at, column(table, value("source")), column(table, value("target"))];
  return {
    rates: both(rate),
    errors: both(failed),
    latency: both((arm) => (row) => row[arm][quantile] || null),
    split: [at, column(table, (row) => row.weight / 100), shares(table)],
    heat: [at, at.map(() => null)],
  };
}

/** For each row: the target's share of the requests in the last `SHARE_OVER_S` seconds at the row's weight. */
function shares(table) {
  const values = [];
  let [first, source, target] = [0, 0, 0];
  for (let i = 0; i < table.length; i += 1) {
    const row = table[i];
    if (row.empty) {
      [first, source, target] = [i + 1, 0, 0];
      values.push(null);
      continue;
    }
    source += row.source.requests;
    target += row.target.requests;
    while (first < i && (table[first].at <= row.at - SHARE_OVER_S || table[first].weight !== row.weight)) {
      source -= table[first].source.requests;
      target -= table[first].target.requests;
      first += 1;
    }
    values.push(source + target ? target / (source + target) : null);
  }
  return values;
}

/** A latency bucket's lower and upper bound, in ms. */
export function edges(bounds, bucket) {
  const factor = bounds[1] / bounds[0];
  return [bounds[bucket - 1] ?? bounds[0] / factor, bounds[bucket] ?? bounds.at(-1) * factor];
}

/** From the fastest to the slowest request of both arms, so that the plots of both have the same axis. */
export function latencyRange(table, bounds) {
  let [first, last] = [Infinity, -Infinity];
  for (const row of table) {
    if (row.empty) continue;
    for (const { heat } of [row.source, row.target]) {
      const fastest = heat.findIndex((count) => count > 0);
      if (fastest < 0) continue;
      first = Math.min(first, fastest);
      last = Math.max(last, heat.length - 1); // rows after the last count are left out
    }
  }
  return last < 0 ? [1, 1000] : [edges(bounds, first)[0], edges(bounds, last)[1]];
}

/** Heat map cells of an arm: {from, to, bucket, count}. Rows are merged until a cell is at least `least` seconds wide. */
export function cells(table, arm, least, step) {
  const width = step * Math.max(1, Math.ceil(least / step));
  const byKey = new Map();
  for (const row of table) {
    if (row.empty) continue;
    const start = Math.floor((row.at - step / 2) / width) * width;
    row[arm].heat.forEach((count, bucket) => {
      if (!count) return;
      const key = `${start} ${bucket}`;
      const cell = byKey.get(key) ?? { from: start, to: start + width, bucket, count: 0 };
      cell.count += count;
      byKey.set(key, cell);
    });
  }
  return [...byKey.values()];
}

/** The figures of the row at index `i`, or of the last row. */
export const at = (data, i) => data.slice(1).map((values) => values[i ?? values.length - 1] ?? null);
