// The state of the page: a migration's status, samples and audit entries, and whether the connection is live.

import { useEffect, useReducer, useRef } from "./vendor/htm-preact.js";
import { audit, history } from "./api.js";
import { follow } from "./connection.js";
import { merge } from "./series.js";

const ENTRIES_MAX = 2000; // audit entries that the page keeps

const NOTHING = { status: null, seenAt: null, link: "connecting", samples: {}, bounds: [], entries: [], cursor: null };

/** Both lists of entries as one, newest first, without duplicates. */
function joined(entries, more) {
  const bySeq = new Map([...entries, ...more].map((entry) => [entry.seq, entry]));
  return [...bySeq.values()].sort((a, b) => b.seq - a.seq).slice(0, ENTRIES_MAX);
}

function reduce(view, [kind, value]) {
  switch (kind) {
    case "status":
      // The answer to an action and an event may arrive in either order: the higher revision is the newer status.
      if (view.status && value.revision < view.status.revision && view.link === "live") return view;
      return { ...view, status: value, seenAt: Date.now() / 1000, link: "live" };
    case "data": // the answer to an action on the data, before the next status has it
      return view.status ? { ...view, status: { ...view.status, data: value } } : view;
    case "sample":
      return { ...view, samples: { ...view.samples, 1: merge(view.samples[1] ?? [], [value]) } };
    case "history":
      return {
        ...view,
        bounds: value.heat_bounds_ms,
        samples: { ...view.samples, [value.step_s]: merge(view.samples[value.step_s] ?? [], value.samples) },
      };
    case "audit":
      return { ...view, entries: joined(view.entries, [value]) };
    case "newest": // the newest page of entries
      return { ...view, entries: joined(view.entries, value.entries), cursor: view.cursor ?? value.next_cursor };
    case "older":
      return { ...view, entries: joined(view.entries, value.entries), cursor: value.next_cursor };
    case "lost":
      return { ...view, link: "lost" };
    case "other":
      return NOTHING;
    default:
      return view;
  }
}

/** Follow migration `name`, with samples in steps of `step` seconds. Returns the view, and `take(kind, value)` to update it. */
export function useMigration(name, step, signedOut) {
  const [view, dispatch] = useReducer(reduce, NOTHING);
  const steps = useRef(step);
  steps.current = step;
  const take = (kind, value) => dispatch([kind, value]);
  // A failure is ignored: the connection is lost then, and the request is repeated when it is back.
  const fetchHistory = () => history(name, steps.current).then((document) => take("history", document), () => {});

  useEffect(() => {
    take("other");
    return follow(name, {
      event: take,
      open() {
        fetchHistory();
        if (steps.current !== 1) history(name, 1).then((document) => take("history", document), () => {});
        audit(name).then((page) => take("newest", page), () => {});
      },
      lost: () => take("lost"),
      signedOut,
    });
  }, [name]);

  useEffect(() => {
    fetchHistory();
    if (step === 1) return undefined; // samples of one second arrive with the events
    const timer = setInterval(fetchHistory, step * 1000);
    return () => clearInterval(timer);
  }, [name, step]);

  return [view, take];
}
