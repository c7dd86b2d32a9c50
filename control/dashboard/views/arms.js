// Source and target side by side, and how they differ.

import { html } from "../vendor/htm-preact.js";
import { NONE, count, difference, figure, ms, points, share } from "../format.js";

const RECENT_S = 10; // rates and the measured split are over so many seconds

/** Requests a second of an arm over the last seconds. */
function rate(samples, arm) {
  const last = samples.at(-1);
  if (!last) return null;
  const recent = samples.filter((sample) => sample.at > last.at - RECENT_S);
  const [requests, seconds] = recent.reduce(([n, s], each) => [n + each[arm].requests, s + each.span_s], [0, 0]);
  return seconds ? requests / seconds : null;
}

/** An arm's error rate; null without requests. */
const failing = (arm) => (arm.requests ? arm.error_rate : null);

/** Where the source answers every write: those that were not split, and what became of the target's copies. */
function apart({ unsplit = 0, copies = [] }) {
  const [made, failed] = copies.reduce(([n, bad], each) => [n + each.copies, bad + each.faults], [0, 0]);
  const copied = failed ? `${count(made)}, ${count(failed)} failed` : count(made);
  return [
    ...(unsplit ? [["Not split", count(unsplit), NONE, ""]] : []),
    ...(made ? [["Copies", NONE, copied, ""]] : []),
  ];
}

export function Arms({ status, samples }) {
  const { source, target } = status.arms;
  const [sourceRate, targetRate] = [rate(samples, "source"), rate(samples, "target")];
  const total = (sourceRate ?? 0) + (targetRate ?? 0);
  const actual = total ? targetRate / total : null;
  const perSecond = (value) => (value === null ? NONE : `${figure(value)}/s`);
  const rows = [
    ["Requests/s", perSecond(sourceRate), perSecond(targetRate), ""],
    ["Requests", count(source.requests), count(target.requests), ""],
    ["Errors", count(source.errors), count(target.errors), ""],
    ["Error rate", share(failing(source)), share(failing(target)), points(failing(source), failing(target))],
    ...["p50_ms", "p95_ms", "p99_ms"].map((key) => [
      key.slice(0, 3),
      ms(source[key]),
      ms(target[key]),
      difference(source[key], target[key]),
    ]),
    ["In flight", count(source.inflight), count(target.inflight), ""],
    ...apart(status),
  ];
  return html`<section class="card arms" aria-labelledby="arms-title">
    <header>
      <h2 id="arms-title">Source and target</h2>
      <span class="soft">since the weight changed</span>
    </header>
    <${Split} configured=${status.weight / 100} actual=${actual} />
    <table>
      <thead>
        <tr>
          <td></td>
          <th scope="col"><span class="key source"></span>Source<small>${source.backend}</small></th>
          <th scope="col"><span class="key target"></span>Target<small>${target.backend}</small></th>
          <th scope="col">Difference<small>of the target</small></th>
        </tr>
      </thead>
      <tbody>
        ${rows.map(
          ([name, ...cells]) => html`<tr key=${name}>
            <th scope="row">${name}</th>
            ${cells.map((cell, i) => html`<td class=${i === 2 ? "soft" : ""}>${cell}</td>`)}
          </tr>`,
        )}
      </tbody>
    </table>
  </section>`;
}

/** The measured split, with a mark at the configured weight. */
function Split({ configured, actual }) {
  const now = actual === null ? "no requests in the last 10 s" : `${share(actual)} of the last 10 s`;
  return html`<div class="split">
    <div class="both" aria-hidden="true">
      <span class="target" style=${{ width: `${100 * (actual ?? 0)}%` }}></span>
      <span class="mark" style=${{ left: `${100 * configured}%` }}></span>
    </div>
    <p>On the target: <b>${now}</b>, configured <b>${share(configured)}</b></p>
  </div>`;
}
