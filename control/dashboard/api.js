// The control API as functions. Every call throws `Failure` where the answer is an error, and `Lost` without an answer.

const CALL_WITHIN_MS = 10_000;
const ACT_WITHIN_MS = 90_000; // a rollback answers when it is complete

export class Failure extends Error {
  constructor(status, error) {
    super(error?.message ?? `The control plane answered ${status}.`);
    this.status = status;
    this.code = error?.code ?? String(status);
    this.hint = error?.hint ?? "";
  }
}

export class Lost extends Error {
  constructor() {
    super("The control plane did not answer.");
    this.hint = "Traffic goes on without it. This page tries again by itself.";
  }
}

let csrf = null; // the session's CSRF token, sent with every change

async function call(method, path, body, within = CALL_WITHIN_MS, headers = {}) {
  if (body !== undefined) headers["content-type"] = "application/json";
  if (csrf !== null && method !== "GET") headers["x-csrf-token"] = csrf;
  let answer;
  let text;
  try {
    answer = await fetch(path, {
      method,
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      signal: AbortSignal.timeout(within),
      cache: "no-store",
    });
    text = await answer.text();
  } catch {
    throw new Lost();
  }
  let value = null;
  try {
    value = text === "" ? null : JSON.parse(text);
  } catch {
    value = null; // not JSON: a proxy between this page and the control plane answered
  }
  if (!answer.ok) throw new Failure(answer.status, value?.error);
  return value;
}

const SESSION = "/api/session";
const base = (migration) => `/api/migration/${encodeURIComponent(migration)}`;

function remember(identity) {
  csrf = identity.csrf ?? null;
  return identity;
}

/** Who this browser is signed in as: {name, role}. */
export const whoami = async () => remember(await call("GET", SESSION));

/** Exchange a token for a session. */
export const signIn = async (token) =>
  remember(await call("POST", SESSION, undefined, CALL_WITHIN_MS, { authorization: `Bearer ${token}` }));

/** End the session. */
export const signOut = () => call("DELETE", SESSION);

/** The names of the migrations. */
export async function migrations() {
  const answer = await call("GET", "/api/migration");
  return answer.migrations.map((each) => each.name);
}

/** The newest audit entries, or those before `cursor`: {entries, next_cursor}. */
export const audit = (migration, cursor) =>
  call("GET", `${base(migration)}/audit?limit=100${cursor ? `&cursor=${encodeURIComponent(cursor)}` : ""}`);

/** Samples in steps of `step` seconds: {step_s, heat_bounds_ms, samples}. */
export const history = (migration, step) => call("GET", `${base(migration)}/history?step=${step}`);

/** Carry out an action; answers with the status after it. */
export const act = (migration, action, fields) =>
  action === "reset"
    ? call("DELETE", `${base(migration)}?${new URLSearchParams(fields)}`, undefined, ACT_WITHIN_MS)
    : call("POST", base(migration), { action, ...fields }, ACT_WITHIN_MS);

/** Begin a task on the data, or stop the one under way: {task, data}. */
export const actOnData = (migration, action, fields = {}) => call("POST", `${base(migration)}/data`, { action, ...fields });

/** A task on the data, under way or ended. */
export const dataTask = (migration, task) => call("GET", `${base(migration)}/data/tasks/${encodeURIComponent(task)}`);

/** A page of what the newest compare left different: {items, next_cursor}. */
export const differences = (migration, limit, cursor) =>
  call("GET", `${base(migration)}/data/differences?limit=${limit}${cursor ? `&cursor=${encodeURIComponent(cursor)}` : ""}`);

/** The address of the stream of events. */
export const events = (migration) => `${base(migration)}/events`;
