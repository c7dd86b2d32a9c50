// The phases in a line: passed, current with its soak, ahead; and a sentence on what happens next.

import { html } from "../vendor/htm-preact.js";
import { comesNext } from "../actions.js";
import { span, weight } from "../format.js";

export function Rail({ status }) {
  const current = status.phase?.index ?? -1;
  const completed = status.state === "completed";
  return html`<div class="rail">
    <ol style=${{ "--phases": status.phases.length }}>
      ${status.phases.map((phase, index) => {
        const place = completed || index < current ? "passed" : index === current ? "current" : "ahead";
        return html`<${Stop} key=${phase.name} phase=${phase} place=${place} status=${status} />`;
      })}
    </ol>
    <p class="next">${comesNext(status)}</p>
  </div>`;
}

function Stop({ phase, place, status }) {
  const soaking = place === "current" && ["running", "paused"].includes(status.state);
  const soaked = soaking ? Math.min(1, status.phase.soaked_s / Math.max(phase.min_soak_s, 1e-9)) : 0;
  const filled = place === "passed" || (place === "current" && !soaking) ? 1 : soaked;
  const seconds = Math.floor(Math.min(status.phase?.soaked_s ?? 0, 359_999));
  const says = soaking
    ? soaked < 1
      ? `${span(seconds)} of ${span(phase.min_soak_s)}`
      : `soaked ${span(seconds)}`
    : place === "passed"
      ? "passed"
      : place === "current"
        ? "held"
        : span(phase.min_soak_s);
  return html`<li class=${place} aria-current=${place === "current" ? "step" : null}>
    <span class="track"><span class="fill" style=${{ width: `${100 * filled}%` }}></span></span>
    <b>${weight(phase.weight)}</b>
    <span class="name">${phase.name}</span>
    <span class="soak"><span class="hidden">${place === "ahead" ? "soaks at least" : ""}</span>${says}</span>
    ${phase.approval && place === "ahead" && html`<span class="soak">by approval</span>`}
  </li>`;
}
