// Both arms over time: requests, errors, split, latency, and a heat map of every request's latency.

import { html, useMemo, useState } from "../vendor/htm-preact.js";
import uPlot from "../vendor/uPlot.js";
import { NONE, difference, figure, ms, share } from "../format.js";
import { Plot } from "../plot.js";
import { QUANTILES, WINDOWS, at, cells, columns, edges, latencyRange, marks as marksOf, rows } from "../series.js";

const SOURCE = { colour: "source", width: 1.5 };
const TARGET = { colour: "target", width: 2 };
const BOTH = [SOURCE, TARGET];
const CELL_PX = 4; // least width of a heat map's cell
const LEAST_S = 60; // least length of the time axis
const HEADROOM = 1.12; // free space above the highest value, for the marks' labels

const upward = (least, most) => [0, Math.max(most ?? 0, 1e-9) * HEADROOM];
const round = (value) => Number(value.toPrecision(3));
const shortMs = (value) =>
  value >= 1000 ? `${round(value / 1000)} s` : value < 1 ? `${round(value * 1000)} µs` : `${round(value)} ms`;
const percent = (value) => `${Number((100 * value).toPrecision(3))} %`;

export function Charts({ status, samples, bounds, shown, show }) {
  const [quantile, setQuantile] = useState("p95_ms");
  const [pointed, setPointed] = useState(null);
  const last = samples.at(-1)?.at ?? Date.now() / 1000;
  // The axis begins at the first sample and grows until the window has its full length, so it has no empty time.
  const begun = Math.min(samples[0]?.at ?? last, last - LEAST_S);
  const range = [Math.max(last - shown.seconds, begun), last];
  const table = useMemo(() => rows(samples, shown.step, ...range), [samples, shown]);
  const data = useMemo(() => columns(table, quantile), [table, quantile]);
  const marks = useMemo(() => marksOf(samples), [samples]);
  const limits = Object.fromEntries(status.verdict.rules.map((each) => [each.rule, each.limit]));
  const common = { range, marks, pointed: setPointed };
  const latencies = useMemo(() => latencyRange(table, bounds), [table, bounds]);
  const latencyScale = { log: true, range: () => latencies, label: shortMs };

  const rates = at(data.rates, pointed);
  const errors = at(data.errors, pointed);
  const latency = at(data.latency, pointed);
  const split = at(data.split, pointed);
  const name = quantile.slice(0, 3);
  const when = pointed === null ? "now" : new Date(data.rates[0][pointed] * 1000).toLocaleTimeString("en-GB");
  const pair = (text, values) => [
    ["source", text(values[0])],
    ["target", text(values[1])],
  ];
  const perSecond = (value) => (value === null ? NONE : `${figure(value)}/s`);

  return html`<section class="card charts" aria-labelledby="charts-title">
    <header>
      <h2 id="charts-title">Over time</h2>
      <span class="soft when">${when}</span>
      <span class="keys"><span class="key source"></span>source <span class="key target"></span>target</span>
      <${Choice} label="Latency at" options=${QUANTILES.map((q) => [q, q.slice(0, 3)])} value=${quantile} choose=${setQuantile} />
      <${Choice}
        label="Time shown"
        options=${WINDOWS.map((w) => [w.seconds, w.name])}
        value=${shown.seconds}
        choose=${(seconds) => show(WINDOWS.find((w) => w.seconds === seconds))}
      />
    </header>
    <div class="grid">
      <${Figure} title="Requests a second" values=${pair(perSecond, rates)}
        ...${{ ...common, data: data.rates, series: BOTH, scale: { range: (least, most) => upward(least, Math.max(most ?? 0, 1)), label: (value) => String(round(value)) } }} />
      <${Figure} title="Error rate" values=${pair(share, errors)} note=${limits.error_rate && `limit ${share(limits.error_rate)}`}
        ...${{
          ...common,
          data: data.errors,
          series: BOTH,
          limit: limits.error_rate,
          scale: { range: (least, most) => upward(0, Math.max(most ?? 0, limits.error_rate ?? 0.01)), label: percent },
        }} />
      <${Figure} title="Split" values=${[["target", `${share(split[1])} on the target`], ["plain", `${share(split[0])} configured`]]}
        ...${{
          ...common,
          data: data.split,
          series: [{ colour: "ink", width: 1, dash: [4, 3], paths: uPlot.paths.stepped({ align: -1 }) }, TARGET],
          scale: { range: () => [0, 1.04], label: percent },
        }} />
      <${Figure} title=${`Latency, ${name}`} values=${pair(ms, latency)} note=${latency.includes(null) ? null : difference(...latency)}
        ...${{ ...common, data: data.latency, series: BOTH, limit: limits[quantile], scale: latencyScale }} />
      <${Heat} arm="source" ...${{ common, table, data: data.heat, bounds, step: shown.step, scale: latencyScale, latency: latency[0], name }} />
      <${Heat} arm="target" ...${{ common, table, data: data.heat, bounds, step: shown.step, scale: latencyScale, latency: latency[1], name }} />
    </div>
  </section>`;
}

function Choice({ label, options, value, choose }) {
  return html`<div class="choice" role="group" aria-label=${label}>
    ${options.map(
      ([each, text]) =>
        html`<button key=${each} aria-pressed=${each === value} onClick=${() => choose(each)}>${text}</button>`,
    )}
  </div>`;
}

function Figure({ title, values, note, ...plot }) {
  const label = `${title}: ${values.map(([who, text]) => `${who === "plain" ? "" : `${who} `}${text}`).join(", ")}`;
  return html`<figure>
    <figcaption>
      <span class="title">${title}</span>
      ${values.map(([who, text]) => html`<span class="value">${who !== "plain" && html`<span class=${`key ${who}`}></span>`}${text}</span>`)}
      ${note && html`<span class="soft value">${note}</span>`}
    </figcaption>
    <${Plot} ...${plot} label=${label} />
  </figure>`;
}

/** A heat map of requests by latency over time; a darker cell has more requests. */
function Heat({ arm, common, table, data, bounds, step, scale, latency, name }) {
  function paint(u, colours) {
    const { ctx } = u;
    const { left, top, width, height } = u.bbox;
    const perSecond = width / (u.scales.x.max - u.scales.x.min);
    const painted = cells(table, arm, (CELL_PX * uPlot.pxRatio) / perSecond, step);
    const most = painted.reduce((n, cell) => Math.max(n, cell.count), 1);
    const across = (at) => Math.round(u.valToPos(at, "x", true));
    const down = (value) => Math.round(u.valToPos(value, "y", true));
    ctx.save();
    ctx.beginPath();
    ctx.rect(left, top, width, height);
    ctx.clip();
    ctx.fillStyle = colours[arm];
    for (const { from, to, bucket, count } of painted) {
      const [low, high] = edges(bounds, bucket);
      ctx.globalAlpha = 0.12 + 0.88 * (Math.log1p(count) / Math.log1p(most));
      ctx.fillRect(across(from), down(high), across(to) - across(from), down(low) - down(high));
    }
    ctx.restore();
  }
  return html`<${Figure} title=${`Every request, ${arm}`} values=${[[arm, `${name} ${ms(latency)}`]]} note="the darker, the more"
    ...${{ ...common, data, series: [{ colour: arm }], paint, scale }} />`;
}
