// Writes figures and times for a person. Pure; an unknown value is written as an en dash.

export const NONE = "–";

const known = (value) => typeof value === "number" && Number.isFinite(value);

/** An API's name as words: rolled_back → rolled back. */
export const words = (name) => String(name ?? NONE).replaceAll("_", " ");

/** The same with a capital letter. */
export function sentence(name) {
  const text = words(name);
  return text.charAt(0).toUpperCase() + text.slice(1);
}

/** A whole number with thousands separators. */
export const count = (value) => (known(value) ? Math.round(value).toLocaleString("en") : NONE);

/** A number with about three significant digits. */
export function figure(value) {
  if (!known(value)) return NONE;
  const size = Math.abs(value);
  if (size >= 100 || size === 0) return Math.round(value).toLocaleString("en");
  return value.toFixed(size >= 10 ? 1 : size >= 0.1 ? 2 : 3);
}

/** Milliseconds; from 10 s on written as seconds. */
export function ms(value) {
  if (!known(value)) return NONE;
  return Math.abs(value) >= 10_000 ? `${figure(value / 1000)} s` : `${figure(value)} ms`;
}

/** A weight, given in percent. */
export const weight = (value) => (known(value) ? `${Number(value.toFixed(2))} %` : NONE);

/** A share of 1, in percent. */
export function share(value) {
  if (!known(value)) return NONE;
  const percent = 100 * value;
  return `${percent.toFixed(percent !== 0 && percent < 0.1 ? 3 : percent < 10 ? 2 : 1)} %`;
}

/** A length of time: 850 ms, 4.2 s, 1 min 05 s, 10 min, 2 h 03 min. */
export function span(seconds) {
  if (!known(seconds)) return NONE;
  if (seconds < 1 && seconds > 0) return ms(seconds * 1000);
  if (seconds < 60) return `${Number(seconds.toFixed(seconds < 10 ? 1 : 0))} s`;
  const whole = Math.round(seconds);
  const [large, per, small] = whole < 3600 ? ["min", 60, "s"] : ["h", 3600, "min"];
  const rest = Math.floor((whole % per) / (per / 60));
  return `${Math.floor(whole / per)} ${large}${rest ? ` ${String(rest).padStart(2, "0")} ${small}` : ""}`;
}

/** Unix seconds of an RFC 3339 time or of Unix seconds; null for anything else. */
export function unix(value) {
  if (known(value)) return value;
  const parsed = typeof value === "string" ? Date.parse(value) / 1000 : NaN;
  return Number.isNaN(parsed) ? null : parsed;
}

/** The reader's local time of day. */
export function clock(value) {
  const at = unix(value);
  return at === null ? NONE : new Date(at * 1000).toLocaleTimeString("en-GB");
}

/** The local date and time of day; today without the date. */
export function moment(value, now = Date.now() / 1000) {
  const at = unix(value);
  if (at === null) return NONE;
  const date = new Date(at * 1000);
  const today = date.toDateString() === new Date(now * 1000).toDateString();
  return today ? clock(at) : `${date.toLocaleDateString("en-CA")} ${clock(at)}`;
}

/** When the hours open, {at, tz}, by the clocks of the window's zone and in UTC: Mon 2026-10-26 09:00 Europe/Paris (Mon 08:00 UTC). */
export function openingAt({ at, tz }) {
  const there = inZone(at, tz);
  const utc = inZone(at, "UTC");
  if (!there || (there.day === utc.day && there.time === utc.time)) return `${utc.weekday} ${utc.day} ${utc.time} UTC`;
  return `${there.weekday} ${there.day} ${there.time} ${tz} (${utc.weekday} ${utc.time} UTC)`;
}

function inZone(at, timeZone) {
  try {
    const date = new Date(at);
    const day = date.toLocaleDateString("en-CA", { timeZone });
    const time = date.toLocaleTimeString("en-GB", { timeZone, hour: "2-digit", minute: "2-digit" });
    return { weekday: date.toLocaleDateString("en", { timeZone, weekday: "short" }), day, time };
  } catch {
    return null; // this browser does not know the zone
  }
}

/** How a target's latency differs from the source's: +3.2 ms (×1.4). */
export function difference(source, target) {
  if (!known(source) || !known(target)) return NONE;
  const by = target - source;
  const sign = by > 0 ? "+" : by < 0 ? "−" : "±";
  const times = source > 0 ? target / source : null;
  const ratio = times === null ? "" : ` (×${times >= 10 ? count(times) : figure(times)})`;
  return `${sign}${ms(Math.abs(by))}${ratio}`;
}

/** How two shares differ, in percentage points. */
export function points(source, target) {
  if (!known(source) || !known(target)) return NONE;
  const by = 100 * (target - source);
  const sign = by > 0 ? "+" : by < 0 ? "−" : "±";
  return `${sign}${Math.abs(by).toFixed(2)} pp`;
}

const megabytes = (value) => (known(value) ? `${figure(value)} MB` : NONE);

/** How a rule's value and limit are written, by the row's unit. */
const UNITS = { share, ms, MB: megabytes };

/** A rule's name, and the function that writes its value and limit; an unknown unit is written as a plain number. */
export const rule = (row) => ({ name: row.label ?? sentence(row.rule), value: UNITS[row.unit] ?? figure });
