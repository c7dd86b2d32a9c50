// How long a rollback took, step by step, against the time allowed.

import { html, useEffect, useState } from "../vendor/htm-preact.js";
import { moment, ms, span, unix, weight, words } from "../format.js";
import { along, clockOf, ticks } from "../rollback.js";

const REFRESH_MS = 100;

export function RollbackClock({ status, entries }) {
  const going = status.state === "rolling_back";
  const last = status.last_rollback;
  return html`<section class="card rollback" aria-labelledby="rollback-title">
    <header><h2 id="rollback-title">${going ? "Rolling back" : "Last rollback"}</h2></header>
    ${going ? html`<${Going} status=${status} entries=${entries} />` : last ? html`<${Done} last=${last} status=${status} entries=${entries} />` : html`<p class="soft">
          No rollback yet.${status.phase ? ` From here, one must be complete within ${span(status.phase.rollback_within_s)}.` : ""}
        </p>`}
  </section>`;
}

function Going({ status, entries }) {
  // The audit entry of this rollback, not of an earlier one.
  const begun = entries.find((entry) => entry.detail.revision === status.revision);
  const [seen] = useState(() => Date.now() / 1000);
  const [now, setNow] = useState(seen);
  useEffect(() => {
    const timer = setInterval(() => setNow(Date.now() / 1000), REFRESH_MS);
    return () => clearInterval(timer);
  }, []);
  const since = Math.max(0, now - Math.min(seen, unix(begun?.at) ?? seen));
  const limit = status.phases.find((phase) => phase.weight === begun?.detail.from_weight)?.rollback_within_s ?? null;
  const behind = status.workers.filter((worker) => worker.inflight_target > 0);
  return html`<p class="total">${span(since)}${limit !== null && html`<span class="soft">of ${span(limit)}</span>`}</p>
    ${limit !== null &&
    html`<div class="track going" aria-hidden="true">
      <span class="fill" style=${{ width: `${Math.min(100, (100 * since) / limit)}%` }}></span>
    </div>`}
    <p>
      The lower weight is published. ${status.arms.target.inflight} requests are open on the target${behind.length
        ? `, worker ${behind.map((worker) => worker.slot).join(", ")}`
        : ""}.
    </p>`;
}

function Done({ last, status, entries }) {
  const { steps, total, limit } = clockOf(last, status.phases);
  const most = Math.max(limit ?? 10_000, total);
  const entry = entries.find((each) => each.kind === "rollback_complete" && each.detail.total_ms === last.total_ms);
  return html`
    <p>
      ${weight(last.from_weight)} → ${weight(last.to_weight)}${entry ? ` at ${moment(entry.at)}` : ""}, by
      ${" "}${words(last.trigger)}${last.reason ? html`: <q>${last.reason}</q>` : ""}
    </p>
    <p class="total">
      ${ms(total)}
      <span class=${last.within_deadline ? "good" : "bad"}>
        ${last.within_deadline ? "✓ within" : "✕ later than"}${limit === null ? " its limit" : ` ${span(limit / 1000)}`}
      </span>
    </p>
    <div class="timeline" aria-hidden="true">
      <div class="line"><span class="fill" style=${{ width: `${100 * along(total, most)}%` }}></span></div>
      ${steps.map(({ name, at }) => html`<span key=${name} class="step" style=${{ left: `${100 * along(at, most)}%` }}></span>`)}
      ${limit !== null && html`<span class="limit" style=${{ left: `${100 * along(limit, most)}%` }}></span>`}
      ${ticks(most).map(
        (tick) => html`<span key=${tick} class="tick" style=${{ left: `${100 * along(tick, most)}%` }}>${tick < 1000 ? `${tick} ms` : `${tick / 1000} s`}</span>`,
      )}
    </div>
    <ol class="steps">
      <li><b>detected</b><span>0 ms</span></li>
      ${steps.map(
        ({ name, says, took, at }) => html`<li key=${name} title=${says}>
          <b>${name}</b><span>${ms(at)}</span><span class="soft">+${ms(took)}</span>
        </li>`,
      )}
      ${limit !== null && html`<li class="soft"><b>limit</b><span>${span(limit / 1000)}</span></li>`}
    </ol>
  `;
}
