// The data: whether the target has what the source has, the task under way, what differs, and what can be done.

import { html, useEffect, useRef, useState } from "../vendor/htm-preact.js";
import { Failure, Lost, actOnData, dataTask } from "../api.js";
import { WAYS, dataActions, deleting, facts, lastEnded, priced, progress, repairAsk, standing } from "../data.js";
import { Dialog } from "./dialog.js";
import { Differences } from "./differences.js";

const LOOK_MS = 500; // between two looks at a task that says what a copy costs

export function Data({ status, entries, identity, link, take }) {
  const { migration, data, arms } = status;
  const [error, setError] = useState(null); // why the last action was not carried out
  const stand = standing(data);
  const last = lastEnded(entries);
  const ended = data.task === null ? last : null;
  const said = error ?? ended?.text ?? "";
  return html`<section class="card data" aria-labelledby="data-title">
    <header>
      <h2 id="data-title">Data</h2>
      <span class="soft">${arms.source.backend} → ${arms.target.backend}</span>
      ${identity.role === "operator" &&
      html`<${DataActions} migration=${migration} data=${data} link=${link} take=${take} failed=${setError} />`}
    </header>
    <p class=${`outcome ${stand.look}`}><span class="mark" aria-hidden="true">${stand.mark}</span>${stand.says}</p>
    ${stand.why && html`<p class="why">${stand.why}${stand.mend && html` <span>Mended by <code>${stand.mend}</code></span>`}</p>`}
    ${data.task && html`<${Progress} task=${data.task} />`}
    <dl class="facts">
      ${facts(data).map(
        ({ name, value, note, look = "" }) => html`<div key=${name}>
          <dt>${name}</dt>
          <dd class=${look}>${value}<small>${note}</small></dd>
        </div>`,
      )}
    </dl>
    <p class=${`ended ${error || ended?.bad ? "bad" : "soft"}`} role="status">${said}</p>
    <${Differences} migration=${migration} data=${data} since=${last?.seq ?? 0} />
  </section>`;
}

function Progress({ task }) {
  const { name, far, done, pace } = progress(task);
  return html`<div class="progress">
    <p><b>${name}</b> <span>${far}</span> <span class="soft">${pace.join(", ")}</span></p>
    <div
      class=${`track ${done === null ? "unknown" : ""}`}
      role="progressbar"
      aria-label=${name}
      aria-valuemin="0"
      aria-valuemax="100"
      aria-valuenow=${done === null ? null : Math.floor(100 * done)}
      aria-valuetext=${[far, ...pace].join(", ")}
    >
      <span class="fill" style=${{ width: `${100 * (done ?? 0)}%` }}></span>
    </div>
  </div>`;
}

function DataActions({ migration, data, link, take, failed }) {
  const [busy, setBusy] = useState(null); // id of the action that was sent
  const [open, setOpen] = useState(null); // the action whose dialog is open
  const buttons = useRef(null);
  const acted = useRef(false);

  // The button that was pressed is gone once its task is under way: the keyboard goes on with the one in its place.
  useEffect(() => {
    if (acted.current && document.activeElement === document.body) buttons.current?.querySelector("button")?.focus();
    acted.current = false;
  }, [data.task?.kind]);

  async function carryOut(action, fields) {
    setOpen(null);
    setBusy(action.id);
    failed(null);
    try {
      const answer = await actOnData(migration, action.id, fields);
      acted.current = true;
      take("data", answer.data);
    } catch (error) {
      failed(`${action.label}: ${why(error)}`);
    } finally {
      setBusy(null);
    }
  }

  const dialog = { migration, cancel: () => setOpen(null), confirm: (fields) => carryOut(open, fields) };
  return html`<div class="buttons" ref=${buttons}>
    ${dataActions(data).map(
      (action) => html`<button
        key=${action.id}
        class=${action.look}
        aria-busy=${busy === action.id}
        disabled=${busy !== null || (link === "lost" && action.id !== "stop")}
        onClick=${() => (action.ask ? setOpen(action) : carryOut(action, {}))}
      >
        ${action.label}${action.ask ? " …" : ""}
      </button>`,
    )}
    ${open?.ask === "repair" && html`<${RepairDialog} ...${dialog} />`}
    ${open?.ask?.cost &&
    html`<${Dialog} ask=${open.ask} reason=${null} ...${dialog} confirm=${() => dialog.confirm({})}>
      <${Cost} migration=${migration} />
    <//>`}
  </div>`;
}

const why = (error) => (error instanceof Lost ? "no answer from the control plane." : `${error.message}. ${error.hint ?? ""}`);

function RepairDialog({ migration, cancel, confirm }) {
  const [choice, setChoice] = useState({ from: null, delete: false });
  const box = deleting(choice.from);
  const fields = { ...(choice.from ? { from: choice.from } : {}), ...(choice.delete ? { delete: true } : {}) };
  return html`<${Dialog} ask=${repairAsk(migration, choice)} reason=${null} cancel=${cancel} confirm=${() => confirm(fields)}>
    <fieldset class="ways">
      <legend>Which document is right</legend>
      ${WAYS.map(
        ({ from, label, note }) => html`<label key=${label}>
          <input type="radio" name="from" checked=${choice.from === from} onChange=${() => setChoice({ from, delete: false })} />
          <span>${label}<small>${note}</small></span>
        </label>`,
      )}
    </fieldset>
    ${box &&
    html`<label class="tick">
      <input
        type="checkbox"
        checked=${choice.delete}
        onChange=${(event) => setChoice({ ...choice, delete: event.target.checked })}
      />
      <span>${box}</span>
    </label>`}
  <//>`;
}

/** Says what a copy would read and write, by a task that only counts. */
function Cost({ migration }) {
  const [cost, setCost] = useState(null); // null: not asked for; "busy"; or {bad, text}
  const shown = useRef(true);
  useEffect(() => () => (shown.current = false), []);

  async function ask() {
    setCost("busy");
    try {
      const { task } = await actOnData(migration, "copy", { dry_run: true });
      let counted = await dataTask(migration, task);
      while (counted.ended_at === null && shown.current) {
        await new Promise((done) => setTimeout(done, LOOK_MS));
        counted = await dataTask(migration, task);
      }
      if (counted.failure !== null || counted.cost === null) throw new Failure(200, { message: counted.message });
      setCost({ bad: false, text: priced(counted.cost) });
    } catch (error) {
      setCost({ bad: true, text: `This cannot be said now: ${why(error)}` });
    }
  }

  if (cost === null || cost === "busy") {
    return html`<button type="button" disabled=${cost === "busy"} onClick=${ask}>
      ${cost === "busy" ? "Counting …" : "What does it cost?"}
    </button>`;
  }
  return html`<p class=${cost.bad ? "bad" : "good"} role="status">${cost.text}</p>`;
}
