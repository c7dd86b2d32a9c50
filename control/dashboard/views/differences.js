// What the newest compare left different: each document's path, how it differs, and in which fields.

import { html, useEffect, useRef, useState } from "../vendor/htm-preact.js";
import { Failure, differences } from "../api.js";
import { KINDS, outdated } from "../data.js";
import { count, words } from "../format.js";

const PAGE = 50;
const SHOWN_MAX = 1000; // rows that the page keeps; a report has all

/** `since` changes when a task has ended, which may have written another list. */
export function Differences({ migration, data, since }) {
  const { compare } = data;
  const [list, setList] = useState({ items: [], cursor: null });
  const [busy, setBusy] = useState(false);
  const [failed, setFailed] = useState(false);
  const asked = useRef(0); // an answer to an older question is dropped
  const any = compare !== null && compare.differences > 0;

  async function load(cursor, before) {
    const question = (asked.current += 1);
    setBusy(true);
    setFailed(false);
    try {
      const page = await differences(migration, PAGE, cursor);
      if (question === asked.current) setList({ items: [...before, ...page.items], cursor: page.next_cursor });
    } catch (error) {
      if (question !== asked.current) return;
      // Another compare has replaced the list: it is read from its beginning.
      if (error instanceof Failure && error.code === "stale_cursor") await load(null, []);
      else setFailed(true);
    } finally {
      if (question === asked.current) setBusy(false);
    }
  }

  useEffect(() => {
    if (any) load(null, []);
    else setList({ items: [], cursor: null });
  }, [migration, any, compare?.at, since]);

  if (!any || (list.items.length === 0 && !failed)) return null;
  const full = list.cursor !== null && list.items.length >= SHOWN_MAX;
  return html`<div class="differences">
    <header>
      <h3 id="differences-title">What differs</h3>
      <span class="soft">${count(list.items.length)}${list.cursor ? ` of ${count(compare.differences)}` : ""}</span>
    </header>
    ${outdated(data) && html`<p class="soft">As the last compare found it. A copy has been made since: compare again.</p>`}
    <div class="scroll" tabindex="0" role="region" aria-labelledby="differences-title">
      <table>
        <thead>
          <tr>
            <th scope="col" class="text">Document</th>
            <th scope="col" class="text">How</th>
            <th scope="col" class="text">Fields</th>
          </tr>
        </thead>
        <tbody>
          ${list.items.map(
            ({ path, kind, fields }) => html`<tr key=${path}>
              <th scope="row" class="text path">${path}</th>
              <td class="text how">${KINDS[kind] ?? words(kind)}</td>
              <td class="text soft fields">${fields.join(", ")}</td>
            </tr>`,
          )}
        </tbody>
      </table>
    </div>
    ${failed && html`<p class="bad" role="alert">The list could not be read.</p>`}
    ${full && html`<p class="soft">More are not shown here. <code>phasegate compare --report FILE</code> writes all to a file.</p>`}
    ${(failed || (list.cursor !== null && !full)) &&
    html`<button disabled=${busy} onClick=${() => load(list.cursor, list.items)}>
      ${busy ? "Loading …" : failed ? "Try again" : "Load more"}
    </button>`}
  </div>`;
}
