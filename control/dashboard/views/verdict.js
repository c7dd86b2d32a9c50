// The verdict in words, and each rule with its value, limit, samples and reason.

import { html } from "../vendor/htm-preact.js";
import { clock, count, rule as ruleOf, weight } from "../format.js";

const over = (status) => status.state === "completed";
const OUTCOMES = {
  promote: {
    mark: "✓",
    says: (status) => (over(status) ? "The target keeps its limits." : "Promote: the evidence allows the next phase."),
  },
  hold: {
    mark: "•",
    says: (status) => (over(status) ? "Complete: no verdict is needed." : `Hold: stays at ${weight(status.weight)}.`),
  },
  roll_back: {
    mark: "✕",
    // A completed migration is never rolled back automatically.
    says: (status) =>
      over(status)
        ? "The target breaks its limits: decide whether to roll back."
        : "Roll back: the target broke its limits.",
  },
  no_data: {
    mark: "–",
    says: (status) =>
      status.weight > 0 ? "No data: no target requests to judge yet." : "Nothing to judge: the source answers everything.",
  },
};
const WIDE = matchMedia("(min-width: 1161px)").matches; // a wide window shows the evidence unfolded
const OF_A_RULE = { promote: "kept", hold: "not yet", roll_back: "broken", no_data: "no data" };

/** A rule's outcome in a word or two; where a proof is needed, how much of it there is. */
function inShort(rule) {
  if (rule.outcome === "hold" && rule.value > rule.limit) return "above";
  if (rule.proof === null || rule.proof === undefined) return OF_A_RULE[rule.outcome] ?? rule.outcome;
  return rule.proof >= 1 ? "proven" : `${Math.floor(100 * rule.proof)} % proven`;
}

export function Verdict({ status }) {
  const { verdict } = status;
  const outcome = OUTCOMES[verdict.outcome] ?? OUTCOMES.no_data;
  const promoting = verdict.rules.filter((each) => each.outcome === "promote"); // other rules show their reason in the table
  const empty = verdict.rules.length === 0;
  return html`<section class=${`card verdict ${empty ? "empty" : ""}`} aria-labelledby="verdict-title">
    <header>
      <h2 id="verdict-title">Verdict</h2>
      ${verdict.checked_at && html`<span class="soft">judged ${clock(verdict.checked_at)}</span>`}
    </header>
    <p class=${`outcome ${verdict.outcome}`}><span class="mark" aria-hidden="true">${outcome.mark}</span>${outcome.says(status)}</p>
    ${status.weight > 0 && verdict.summary.map((reason) => html`<p class="why">${reason.charAt(0).toUpperCase() + reason.slice(1)}.</p>`)}
    ${verdict.rules.length > 0 &&
    html`<table>
      <thead>
        <tr>
          <th scope="col">Rule</th>
          <th scope="col">Target</th>
          <th scope="col">Limit</th>
          <th scope="col" class="meter"><span class="hidden">Share of the limit</span></th>
          <th scope="col">Samples</th>
          <th scope="col" class="text">Outcome</th>
        </tr>
      </thead>
      <tbody>
        ${verdict.rules.map(
          (each) =>
            html`<${Rule} key=${each.rule} rule=${each} why=${each.outcome === "promote" ? null : each.reason} />`,
        )}
      </tbody>
    </table>`}
    ${promoting.length > 0 &&
    html`<details open=${WIDE}>
      <summary>Evidence</summary>
      <dl>
        ${promoting.map((each) => html`<dt>${ruleOf(each).name}</dt><dd>${each.reason}</dd>`)}
      </dl>
    </details>`}
  </section>`;
}

function Rule({ rule, why }) {
  const { name, value } = ruleOf(rule);
  const used = rule.value === null ? 0 : Math.min(1, rule.value / rule.limit);
  return html`<tr class=${rule.outcome}>
      <th scope="row">${name}</th>
      <td>${value(rule.value)}</td>
      <td class="soft limit">${value(rule.limit)}</td>
      <td class="meter" aria-hidden="true">
        <span class="track"><span class="fill" style=${{ width: `${100 * used}%` }}></span></span>
      </td>
      <td class="samples">${count(rule.samples)}</td>
      <td class="text">
        <span class="mark" aria-hidden="true">${OUTCOMES[rule.outcome]?.mark}</span> ${inShort(rule)}
      </td>
    </tr>
    ${why &&
    html`<tr class="why">
      <td colspan="6">${why}</td>
    </tr>`}`;
}
