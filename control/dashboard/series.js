// Samples → what plots draw. Pure.
//
// A sample is what both arms did in one step of time: {at, span_s, weight, source, target}, `at` in Unix seconds, and
// an arm {requests, errors, p50_ms, p95_ms, p99_ms, heat}; `heat` counts requests by latency bucket.

export const QUANTILES = ["p50_ms", "p95_ms", "p99_ms"];
export const WINDOWS = [
  { name: "5 min", seconds: 300, step: 1 },
  { name: "15 min", seconds: 900, step: 1 },
  { name: "1 h", seconds: 3600, step: 10 },
  { name: "6 h", seconds: 21_600, step: 60 },
];
const KEPT = 1000;
const SHARE_OVER_S = 10;

/** Samples with newer ones added: in order of time, none twice, at most `KEPT`. */
export function merge(samples, more) {
  if (more.length === 0) return samples;
  const first = more[0].at;
  const older = samples.filter((sample) => sample.at < first - 1e-3);
  return [...older, ...more].slice(-KEPT);
}

/** Where the weight changed: {at, from, to, kind: "raise" | "rollback"}. */
export function marks(samples) {
  const found = [];
  for (let i = 1; i < samples.length; i += 1) {
    const [before, after] = [samples[i - 1], samples[i]];
    if (after.weight !== before.weight) {
      const kind = after.weight > before.weight ? "raise" : "rollback";
      found.push({ at: after.at - after.span_s, from: before.weight, to: after.weight, kind });
    }
  }
  return found;
}

/** Rows in [from, to], with one empty row wherever time is missing, so that no line is drawn across a gap. */
export function rows(samples, step, from, to) {
  const found = [];
  for (const sample of samples) {
    if (sample.at < from - step || sample.at > to + step) continue;
    const last = found.at(-1);
    if (last && sample.at - last.at > 2.5 * step) found.push({ at: last.at + step, empty: true });
    found.push(sample);
  }
  return found;
}

const column = (table, value) => table.map((row) => (row.empty ? null : value(row)));
const rate = (arm) => (row) => row[arm].requests / row.span_s;
const failed = (arm) => (row) => (row[arm].requests ? row[arm].errors / row[arm].requests : null);

/** uPlot's data of each plot. */
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

/** The target's share of the requests in the seconds before each row. */
function shares(table) {
  const found = [];
  let [first, source, target] = [0, 0, 0];
  for (let i = 0; i < table.length; i += 1) {
    const row = table[i];
    if (row.empty) {
      [first, source, target] = [i + 1, 0, 0];
      found.push(null);
      continue;
    }
    source += row.source.requests;
    target += row.target.requests;
    while (first < i && (table[first].at <= row.at - SHARE_OVER_S || table[first].weight !== row.weight)) {
      source -= table[first].source.requests;
      target -= table[first].target.requests;
      first += 1;
    }
    found.push(source + target ? target / (source + target) : null);
  }
  return found;
}

/** The latencies, in ms, between which a bucket's requests lie. */
export function edges(bounds, bucket) {
  const factor = bounds[1] / bounds[0];
  return [bounds[bucket - 1] ?? bounds[0] / factor, bounds[bucket] ?? bounds.at(-1) * factor];
}

/** From the fastest to the slowest request of either arm, so that what stands side by side can be compared. */
export function latencyRange(table, bounds) {
  let [first, last] = [Infinity, -Infinity];
  for (const row of table) {
    if (row.empty) continue;
    for (const { heat } of [row.source, row.target]) {
      const found = heat.findIndex((count) => count > 0);
      if (found < 0) continue;
      first = Math.min(first, found);
      last = Math.max(last, heat.length - 1); // rows after the last count are left out
    }
  }
  return last < 0 ? [1, 1000] : [edges(bounds, first)[0], edges(bounds, last)[1]];
}

/** Heat cells of an arm: {from, to, bucket, count}; so many rows are put together that a cell is `least` seconds wide. */
export function cells(table, arm, least, step) {
  const width = step * Math.max(1, Math.ceil(least / step));
  const found = new Map();
  for (const row of table) {
    if (row.empty) continue;
    const start = Math.floor((row.at - step / 2) / width) * width;
    row[arm].heat.forEach((count, bucket) => {
      if (!count) return;
      const key = `${start} ${bucket}`;
      const cell = found.get(key) ?? { from: start, to: start + width, bucket, count: 0 };
      cell.count += count;
      found.set(key, cell);
    });
  }
  return [...found.values()];
}

/** The last row's figures, or those of the row at index `i`. */
export const at = (data, i) => data.slice(1).map((values) => values[i ?? values.length - 1] ?? null);
