// The audit trail, newest first, with a filter.

import { html, useState } from "../vendor/htm-preact.js";
import { audit } from "../api.js";
import { moment, ms, sentence, share, span, unix, weight, words } from "../format.js";

const DOWN = new Set(["rollback", "abort", "reset", "lease_lost", "rollback_complete"]);
const UP = new Set(["start", "advance", "resume", "complete"]);
const SHORT = 180; // characters of a detail that are shown without unfolding it
const GROUPS = [
  ["all", () => true],
  ["rollbacks", (entry) => DOWN.has(entry.kind)],
  ["by people", (entry) => entry.actor !== "phasegate"],
];

/** An entry's detail in words. */
export function detailOf({ kind, detail }) {
  const known = new Set(["revision"]);
  const take = (key) => {
    known.add(key);
    return detail[key];
  };
  const parts = [];
  if (detail.from_weight !== undefined) parts.push(`${weight(take("from_weight"))} → ${weight(take("to_weight"))}`);
  else if (detail.weight !== undefined) parts.push(weight(take("weight")));
  if (kind === "phase_left") {
    parts.unshift(take("name"));
    parts.push(`soaked ${span(take("soaked_s"))}`);
    if (detail.target_share !== null && detail.target_share !== undefined) parts.push(`${share(take("target_share"))} on the target`);
    const target = take("arms")?.target;
    if (target) parts.push(`${target.requests} target requests, ${target.errors} errors`);
    if (target && target.p95_ms !== null) parts.push(`p95 ${ms(target.p95_ms)}`);
    ["entered_at", "left_at", "verdict", "adapters", "validations", "validations_failed"].forEach(take);
  }
  if (kind === "rollback_complete") {
    parts.push(`${ms(take("total_ms"))}, ${take("within_deadline") ? "within its limit" : "later than its limit"}`);
    ["decided_ms", "seen_ms", "drained_ms"].forEach(take);
  }
  if (detail.phase) parts.push(`to ${take("phase")}`);
  if (detail.trigger) parts.push(`by ${words(take("trigger"))}`);
  if (detail.reason) parts.push(`“${take("reason")}”`);
  for (const [key, value] of Object.entries(detail)) {
    if (known.has(key) || value === null || value === "") continue;
    parts.push(`${words(key)}: ${typeof value === "object" ? JSON.stringify(value) : value}`);
  }
  return parts.join(", ");
}

export function Audit({ name, entries, cursor, take }) {
  const [text, setText] = useState("");
  const [group, setGroup] = useState("all");
  const [busy, setBusy] = useState(false);
  const belongs = GROUPS.find(([each]) => each === group)[1];
  const worded = entries.map((entry) => ({ ...entry, what: sentence(entry.kind), says: detailOf(entry) }));
  const filter = text.trim().toLowerCase();
  const shown = worded.filter(
    (entry) => belongs(entry) && `${entry.what} ${entry.actor} ${entry.says} ${entry.kind}`.toLowerCase().includes(filter),
  );

  async function older() {
    setBusy(true);
    await audit(name, cursor).then((page) => take("older", page), () => {});
    setBusy(false);
  }

  return html`<section class="card audit" aria-labelledby="audit-title">
    <header>
      <h2 id="audit-title">Audit trail</h2>
      <span class="soft">
        ${shown.length === entries.length ? "" : `${shown.length} of `}${entries.length} ${entries.length === 1 ? "entry" : "entries"}
      </span>
      <div class="choice" role="group" aria-label="Entries shown">
        ${GROUPS.map(([each]) => html`<button aria-pressed=${each === group} onClick=${() => setGroup(each)}>${each}</button>`)}
      </div>
      <label class="filter">
        <span class="hidden">Filter the entries</span>
        <input type="search" placeholder="Filter" value=${text} onInput=${(event) => setText(event.target.value)} />
      </label>
    </header>
    <div class="scroll" tabindex="0" role="region" aria-labelledby="audit-title">
      <table>
        <thead>
          <tr>
            <th scope="col" class="text">Time</th>
            <th scope="col" class="text">What</th>
            <th scope="col" class="text">Who</th>
            <th scope="col" class="text">Detail</th>
          </tr>
        </thead>
        <tbody>
          ${shown.map(
            (entry) => html`<tr key=${entry.seq} class=${DOWN.has(entry.kind) ? "down" : UP.has(entry.kind) ? "up" : ""}>
              <td class="text time" title=${`${new Date((unix(entry.at) ?? 0) * 1000).toISOString()}, entry ${entry.seq}, ${entry.hash}`}>
                ${moment(entry.at)}
              </td>
              <td class="text what">${entry.what}</td>
              <td class="text actor">${entry.actor}</td>
              <td class="text says"><${Says} text=${entry.says} /></td>
            </tr>`,
          )}
        </tbody>
      </table>
      ${shown.length === 0 && html`<p class="soft">${entries.length ? "No entry matches." : "No entries yet."}</p>`}
    </div>
    ${cursor && html`<button disabled=${busy} onClick=${older}>${busy ? "Loading …" : "Load older entries"}</button>`}
  </section>`;
}

/** A detail; a long one shows its beginning and can be unfolded. */
function Says({ text }) {
  if (text.length <= SHORT) return text;
  const cut = text.lastIndexOf(" ", SHORT - 20);
  return html`<details>
    <summary>${text.slice(0, cut)} …</summary>
    ${text.slice(cut + 1)}
  </details>`;
}
