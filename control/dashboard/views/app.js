// The whole page: signs the user in, and chooses the migration.

import { html, useEffect, useState } from "../vendor/htm-preact.js";
import { Failure, migrations, signOut, whoami } from "../api.js";
import { Board } from "./board.js";
import { SignIn } from "./signin.js";

const RETRY_MS = 1000;

export function App() {
  const [identity, setIdentity] = useState(undefined); // undefined: not known yet; null: signed out
  const [names, setNames] = useState([]);
  const [name, setName] = useState(null);
  const [expired, setExpired] = useState(false);

  useEffect(() => {
    let timer = null;
    async function ask() {
      try {
        setIdentity(await whoami());
      } catch (error) {
        if (error instanceof Failure && error.status === 401) setIdentity(null);
        else timer = setTimeout(ask, RETRY_MS);
      }
    }
    ask();
    return () => clearTimeout(timer);
  }, []);

  useEffect(() => {
    if (!identity || names.length > 0) return undefined;
    let timer = null;
    async function ask() {
      try {
        const all = await migrations();
        setNames(all);
        setName(all.includes(location.hash.slice(1)) ? location.hash.slice(1) : all[0]);
      } catch (error) {
        if (error instanceof Failure && error.status === 401) setIdentity(null);
        else timer = setTimeout(ask, RETRY_MS);
      }
    }
    ask();
    return () => clearTimeout(timer);
  }, [identity]);

  function signedIn(newIdentity) {
    setExpired(false);
    setIdentity(newIdentity);
  }

  async function leave() {
    await signOut().catch(() => {}); // even if the call fails, this page forgets the session
    setNames([]);
    setIdentity(null);
  }

  function choose(chosen) {
    history.replaceState(null, "", `#${chosen}`);
    setName(chosen);
  }

  if (identity === undefined || (identity && name === null)) {
    return html`<p class="waiting" role="status">Waiting for the control plane …</p>`;
  }
  if (identity === null) return html`<${SignIn} expired=${expired} done=${signedIn} />`;
  return html`<${Board}
    key=${name}
    name=${name}
    names=${names}
    choose=${choose}
    identity=${identity}
    leave=${identity.csrf ? leave : null}
    signedOut=${() => {
      setExpired(true);
      setIdentity(null);
    }}
  />`;
}
