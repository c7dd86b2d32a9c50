// Follows the stream of events, and connects again when it breaks. Calls back with each event, and when the connection
// is lost or open again.
//
// EventSource reconnects after some errors only, and does not notice a server that hangs. So a stream that failed, or
// was silent for `SILENT_MS`, is closed, and a new one is opened.

import { Failure, events, whoami } from "./api.js";

const SILENT_MS = 4000; // a status comes at least once a second
const RETRY_MS = [250, 500, 1000, 2000];

/** Follow a migration until the returned function is called. `on`: {event(kind, data), open(), lost(), signedOut()}. */
export function follow(migration, on) {
  let source = null;
  let timer = null;
  let attempts = 0;
  let ended = false;

  function open() {
    source = new EventSource(events(migration));
    for (const kind of ["status", "sample", "audit"]) {
      source.addEventListener(kind, (event) => heard(kind, JSON.parse(event.data)));
    }
    source.addEventListener("open", () => on.open());
    source.addEventListener("error", broke);
    wait(SILENT_MS, broke);
  }

  function heard(kind, data) {
    attempts = 0;
    wait(SILENT_MS, broke);
    on.event(kind, data);
  }

  function broke() {
    source?.close();
    source = null;
    on.lost();
    const delay = RETRY_MS[Math.min(attempts, RETRY_MS.length - 1)];
    attempts += 1;
    wait(delay, again);
  }

  /** EventSource does not report why it failed, so first check whether the session is still valid. */
  async function again() {
    try {
      await whoami();
    } catch (error) {
      if (ended) return;
      if (error instanceof Failure && error.status === 401) on.signedOut();
      else broke();
      return;
    }
    if (!ended) open();
  }

  function wait(delay, then) {
    clearTimeout(timer);
    timer = ended ? null : setTimeout(then, delay);
  }

  open();
  return () => {
    ended = true;
    clearTimeout(timer);
    source?.close();
  };
}
