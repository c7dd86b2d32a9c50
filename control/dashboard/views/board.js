// The page of one migration, the most urgent cards first.

import { html, useEffect, useRef, useState } from "../vendor/htm-preact.js";
import { clock, sentence, weight, words } from "../format.js";
import { useMigration } from "../live.js";
import { WINDOWS } from "../series.js";
import { Actions } from "./actionbar.js";
import { Arms } from "./arms.js";
import { Audit } from "./audit.js";
import { Charts } from "./charts.js";
import { Data } from "./data.js";
import { Rail } from "./rail.js";
import { RollbackClock } from "./rollbackclock.js";
import { Verdict } from "./verdict.js";
import { Workers } from "./workers.js";

const URGENT = new Set(["rolling_back", "rolled_back", "aborted"]);

export function Board({ name, names, choose, identity, leave, signedOut }) {
  const [window_, setWindow] = useState(WINDOWS[0]);
  const [view, take] = useMigration(name, window_.step, signedOut);
  const { status, link, seenAt, samples, bounds, entries, cursor } = view;

  useEffect(() => {
    if (status) document.title = `${weight(status.weight)} ${words(status.state)} · ${name}`;
    return () => {
      document.title = "phasegate";
    };
  }, [status?.weight, status?.state, name]);

  const urgent = status && URGENT.has(status.state);
  const rollback = status && html`<${RollbackClock} status=${status} entries=${entries} />`;
  return html`
    <a class="skip" href="#main">Skip to the migration</a>
    <header class="bar">
      <strong class="brand">phasegate</strong>
      ${names.length > 1
        ? html`<label class="which">
            <span class="hidden">Migration</span>
            <select value=${name} onChange=${(event) => choose(event.target.value)}>
              ${names.map((each) => html`<option value=${each}>${each}</option>`)}
            </select>
          </label>`
        : html`<span class="which">${name}</span>`}
      <${Link} link=${link} />
      <span class="who">${identity.name === identity.role ? identity.name : `${identity.name}, ${identity.role}`}</span>
      ${leave && html`<button class="quiet" onClick=${leave}>Sign out</button>`}
    </header>
    ${link === "lost" &&
    html`<div class="lost" role="alert">
      <strong>Connection lost.</strong> ${seenAt ? `Figures from ${clock(seenAt)}.` : ""} Trying again …${" "}
      <span>Traffic goes on without this page${status?.weight && status.state !== "completed"
        ? "; if the control plane stays away, the workers return to the source by themselves"
        : ""}.</span>
    </div>`}
    <main id="main" tabindex="-1" class=${link === "lost" ? "stale" : ""}>
      ${!status
        ? html`<p class="waiting" role="status">Waiting for the first figures …</p>`
        : html`
            <section class="hero" aria-label="State">
              <${Headline} status=${status} />
              <${Actions} status=${status} identity=${identity} link=${link} take=${take} />
              <${Rail} status=${status} />
            </section>
            ${urgent && rollback}
            <div class="pair">
              <${Verdict} status=${status} />
              <${Arms} status=${status} samples=${samples[1] ?? []} />
            </div>
            ${status.data && html`<${Data} status=${status} entries=${entries} identity=${identity} link=${link} take=${take} />`}
            <${Charts}
              status=${status}
              samples=${samples[window_.step] ?? []}
              bounds=${bounds}
              shown=${window_}
              show=${setWindow}
            />
            <div class="pair">
              ${!urgent && rollback}
              <${Workers} status=${status} />
            </div>
            <${Audit} name=${name} entries=${entries} cursor=${cursor} take=${take} />
          `}
    </main>
    <${Announcer} status=${status} link=${link} />
  `;
}

function Link({ link }) {
  return html`<span class=${`link ${link}`}><span class="dot" aria-hidden="true"></span>${link}</span>`;
}

function Headline({ status }) {
  const { state, phase, phases } = status;
  const target = status.arms.target.backend;
  return html`<div class="headline">
    <h1>
      <span class="weight">${weight(status.weight)}</span>
      <span class="on">on ${target}</span>
      <span class=${`state ${state}`}>${sentence(state)}</span>
    </h1>
    <p class="soft">
      ${phase
        ? html`Phase ${phase.index + 1} of ${phases.length}, <b>${phase.name}</b>, since ${clock(phase.entered_at)}`
        : "In no phase"}
      ${" · "}revision ${status.revision}
      ${!status.checkpoint.ok && html`<br /><b class="bad">The store fails: ${status.checkpoint.error}. Rollbacks work; the weight cannot be raised.</b>`}
    </p>
  </div>`;
}

/** Announces changes of state and weight to a screen reader. */
function Announcer({ status, link }) {
  const before = useRef(null);
  const now = status && link !== "lost" ? `${sentence(status.state)}, ${weight(status.weight)} on the target.` : null;
  const announced = useRef("");
  if (now !== null && before.current !== null && now !== before.current) announced.current = now;
  if (now !== null) before.current = now;
  return html`<div class="hidden" role="status" aria-live="polite">${announced.current}</div>`;
}
