// The sign-in form: exchanges a token for a session.

import { html, useState } from "../vendor/htm-preact.js";
import { signIn } from "../api.js";

export function SignIn({ expired, done }) {
  const [token, setToken] = useState("");
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState(null);

  async function submit(event) {
    event.preventDefault();
    setBusy(true);
    setError(null);
    try {
      done(await signIn(token.trim()));
    } catch (failure) {
      setError(failure);
      setBusy(false);
    }
  }

  return html`<main class="signin">
    <h1 class="brand">phasegate</h1>
    <p class="soft">Sign in to see this proxy's migrations, and to control them.</p>
    <form class="card" onSubmit=${submit}>
      ${expired && html`<p role="status">The session has ended. Sign in again to go on.</p>`}
      <label for="token">Token</label>
      <input
        id="token"
        type="password"
        autocomplete="current-password"
        required
        autofocus
        value=${token}
        aria-invalid=${error !== null}
        aria-describedby="token-help"
        onInput=${(event) => setToken(event.target.value)}
      />
      ${error && html`<p class="error" role="alert">${error.message} ${error.hint}</p>`}
      <button class="primary" disabled=${busy}>${busy ? "Signing in …" : "Sign in"}</button>
      <p id="token-help" class="soft">
        A static token from the configuration, or a Firebase ID token of an admin. It is exchanged for a session of
        this browser and is not stored. <code>phasegate token</code> makes a static one.
      </p>
    </form>
  </main>`;
}
