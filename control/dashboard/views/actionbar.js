// What may be asked for now. Taking traffic back is one click; putting it on asks first.

import { html, useEffect, useRef, useState } from "../vendor/htm-preact.js";
import { Lost, act } from "../api.js";
import { allowed } from "../actions.js";
import { ms, weight } from "../format.js";
import { Dialog } from "./dialog.js";

export function Actions({ status, identity, link, take }) {
  const [reason, setReason] = useState("");
  const [busy, setBusy] = useState(null); // the action under way
  const [said, setSaid] = useState(null);
  const [asked, setAsked] = useState(null); // the action whose dialog is open, with the revision at which it was opened
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

  async function carryOut(wanted, fields) {
    setAsked(null);
    setBusy(wanted.id);
    setSaid(null);
    try {
      const after = await act(status.migration, wanted.action, { ...wanted.fields, ...fields });
      take("status", after);
      setSaid({ good: true, text: told(wanted, after) });
      setReason("");
    } catch (error) {
      const text = error instanceof Lost ? "No answer from the control plane." : `${error.message}. ${error.hint}`;
      setSaid({ good: false, text: `${wanted.label}: ${text}` });
    } finally {
      setBusy(null);
    }
  }

  function choose(wanted) {
    more.current?.removeAttribute("open");
    if (wanted.ask) setAsked({ wanted, revision: status.revision });
    else carryOut(wanted, reason.trim() ? { reason: reason.trim() } : {});
  }

  const found = allowed(status);
  const [main, rest] = [found.filter((a) => a.place === "main"), found.filter((a) => a.place === "more")];
  const button = (wanted) =>
    html`<button
      key=${wanted.id}
      class=${wanted.look}
      aria-busy=${busy === wanted.id}
      disabled=${busy !== null && (busy === wanted.id || wanted.look !== "danger") || (link === "lost" && wanted.raises)}
      onClick=${() => choose(wanted)}
    >
      ${wanted.label}${wanted.ask ? " …" : ""}
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
    <p class=${`said ${said ? (said.good ? "good" : "bad") : ""}`} role="status">${said?.text ?? ""}</p>
    ${asked &&
    html`<${Dialog}
      ask=${asked.wanted.ask}
      migration=${status.migration}
      reason=${reason}
      cancel=${() => setAsked(null)}
      confirm=${(given) =>
        carryOut(asked.wanted, {
          ...(given ? { reason: given } : {}),
          // A raise is refused if the status has changed since the dialog was opened; taking traffic back never is.
          ...(asked.wanted.raises ? { expected_revision: asked.revision } : {}),
        })}
    />`}
  </div>`;
}

function told(wanted, after) {
  const last = after.last_rollback;
  if (["rollback", "abort", "reset"].includes(wanted.action) && last && after.state !== "rolling_back") {
    const further = wanted.action === "rollback" && after.weight > 0 ? " “Roll back to 0 %” goes all the way." : "";
    return `${wanted.label}: done, ${weight(after.weight)} on the target; took ${ms(last.total_ms)}.${further}`;
  }
  return `${wanted.label}: done, ${weight(after.weight)} on the target.`;
}
