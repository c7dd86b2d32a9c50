// The dialog before an action: what will happen, choices, a reason, and for a dangerous action a word to type.

import { html, useEffect, useRef, useState } from "../vendor/htm-preact.js";
import { act } from "../api.js";

/** `reason`: what its field begins with; null: the action takes none. `children`: choices, between the text and the reason. */
export function Dialog({ ask, migration, reason: first, cancel, confirm, children }) {
  const dialog = useRef(null);
  const [reason, setReason] = useState(first);
  const [typed, setTyped] = useState("");
  useEffect(() => {
    dialog.current.showModal();
  }, []);

  const missing = (ask.reason && !reason?.trim()) || (ask.type && typed.trim() !== ask.type);
  function submit(event) {
    event.preventDefault();
    if (!missing) confirm(reason?.trim() ?? "");
  }

  return html`<dialog ref=${dialog} aria-labelledby="dialog-title" onClose=${cancel}>
    <form method="dialog" onSubmit=${submit}>
      <h2 id="dialog-title">${ask.title}</h2>
      ${ask.says.map((line) => html`<p>${line}</p>`)}
      ${ask.dryRun && html`<${DryRun} migration=${migration} />`}
      ${children}
      ${first !== null &&
      html`<label>
        Reason${ask.reason ? "" : " (optional)"}
        <input value=${reason} maxlength="500" required=${ask.reason} onInput=${(e) => setReason(e.target.value)} />
      </label>`}
      ${ask.type &&
      html`<label>
        <span>Type <b class="typed">${ask.type}</b> to confirm</span>
        <input
          value=${typed}
          autocomplete="off"
          autocapitalize="off"
          spellcheck=${false}
          onInput=${(e) => setTyped(e.target.value)}
        />
      </label>`}
      <div class="buttons">
        <button type="button" onClick=${() => dialog.current.close()}>Cancel</button>
        <button class=${ask.type ? "danger" : "primary"} disabled=${missing}>${ask.confirm}</button>
      </div>
    </form>
  </dialog>`;
}

function DryRun({ migration }) {
  const [checks, setChecks] = useState(null); // null: not asked for; "busy"; or the list
  const [refused, setRefused] = useState(null); // what the start itself would be answered
  async function check() {
    setChecks("busy");
    try {
      const answer = await act(migration, "start", { dry_run: true });
      setRefused(answer.refused ?? null);
      setChecks(answer.checks);
    } catch (error) {
      setChecks([{ name: "check", ok: false, found: error.message, mend: error.hint }]);
    }
  }
  if (!Array.isArray(checks)) {
    return html`<button type="button" disabled=${checks === "busy"} onClick=${check}>
      ${checks === "busy" ? "Checking …" : "Check first"}
    </button>`;
  }
  const failed = checks.filter((each) => each.ok === false);
  return html`<div class="checks" role="status">
    <p class=${failed.length ? "bad" : "good"}>
      ${failed.length ? `${failed.length} of ${checks.length} checks failed.` : `All ${checks.length} checks passed.`}
    </p>
    ${refused && html`<p class="bad">The start would be refused: ${refused.message}</p>`}
    <ul>
      ${checks.map(
        (each) => html`<li class=${each.ok === false ? "bad" : ""}>
          <span aria-hidden="true">${each.ok === false ? "✕" : each.ok ? "✓" : "–"}</span>
          <span><b>${each.name}</b> ${each.found}${each.ok === false && each.mend ? html`<br />${each.mend}` : ""}</span>
        </li>`,
      )}
    </ul>
  </div>`;
}
