// The buttons for the actions that the state allows. Taking traffic back is one click; putting it on the target asks.

import { html, useEffect, useRef, useState } from "../vendor/htm-preact.js";
import { Lost, act } from "../api.js";
import { allowed } from "../actions.js";
import { ms, weight } from "../format.js";
import { Dialog } from "./dialog.js";

export function Actions({ status, identity, link, take }) {
  const [reason, setReason] = useState("");
  const [busy, setBusy] = useState(null); // id of the action under way
  const [result, setResult] = useState(null); // {good, text} of the last action
  const [open, setOpen] = useState(null); // {action, revision}: the action whose dialog is open, and since which revision
  const more = useRef(null);

  useEffect(() => {
    const close = (event) => {
      if (event.type === "keydown" ? event.key === "Escape" : !more.current?.contains(event.target)) {
        more.current?.removeAttribute("open");
      }
    };
    document.addEventListener("click", close);
    document.addEventListener("keydown", close);
    return () => {
      document.removeEventListener("click", close);
      document.removeEventListener("keydown", close);
    };
  }, []);

  if (identity.role !== "operator") {
    return html`<p class="actions soft">You are signed in as a viewer. Actions need the role operator.</p>`;
  }

  async function carryOut(action, fields) {
    setOpen(null);
    setBusy(action.id);
    setResult(null);
    try {
      const after = await act(status.migration, action.action, { ...action.fields, ...fields });
      take("status", after);
      setResult({ good: true, text: outcome(action, after) });
      setReason("");
    } catch (error) {
      const text = error instanceof Lost ? "No answer from the control plane." : `${error.message}. ${error.hint}`;
      setResult({ good: false, text: `${action.label}: ${text}` });
    } finally {
      setBusy(null);
    }
  }

  function choose(action) {
    more.current?.removeAttribute("open");
    if (action.ask) setOpen({ action, revision: status.revision });
    else carryOut(action, reason.trim() ? { reason: reason.trim() } : {});
  }

  const actions = allowed(status);
  const [main, rest] = [actions.filter((a) => a.place === "main"), actions.filter((a) => a.place === "more")];
  const button = (action) =>
    html`<button
      key=${action.id}
      class=${action.look}
      aria-busy=${busy === action.id}
      disabled=${busy !== null && (busy === action.id || action.look !== "danger") || (link === "lost" && action.raises)}
      onClick=${() => choose(action)}
    >
      ${action.label}${action.ask ? " …" : ""}
    </button>`;

  return html`<div class="actions">
    <div class="buttons">
      ${main.map(button)}
      ${rest.length > 0 &&
      html`<details class="more" ref=${more}>
        <summary>More</summary>
        <div class="menu">${rest.map(button)}</div>
      </details>`}
    </div>
    <label class="reason">
      <span>Reason</span>
      <input
        value=${reason}
        maxlength="500"
        placeholder="for the audit trail, if there is time"
        onInput=${(event) => setReason(event.target.value)}
      />
    </label>
    <p class=${`said ${result ? (result.good ? "good" : "bad") : ""}`} role="status">${result?.text ?? ""}</p>
    ${open &&
    html`<${Dialog}
      ask=${open.action.ask}
      migration=${status.migration}
      reason=${reason}
      cancel=${() => setOpen(null)}
      confirm=${(text) =>
        carryOut(open.action, {
          ...(text ? { reason: text } : {}),
          // A raise is refused if the status has changed since the dialog was opened. A rollback is never refused.
          ...(open.action.raises ? { expected_revision: open.revision } : {}),
        })}
    />`}
  </div>`;
}

function outcome(action, after) {
  const last = after.last_rollback;
  if (["rollback", "abort", "reset"].includes(action.action) && last && after.state !== "rolling_back") {
    const further = action.action === "rollback" && after.weight > 0 ? " “Roll back to 0 %” goes all the way." : "";
    return `${action.label}: done, ${weight(after.weight)} on the target; took ${ms(last.total_ms)}.${further}`;
  }
  return `${action.label}: done, ${weight(after.weight)} on the target.`;
}
