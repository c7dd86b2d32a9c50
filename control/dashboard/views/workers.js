// The workers: whether each one is alive and uses the newest generation of the weight.

import { html } from "../vendor/htm-preact.js";
import { count, ms } from "../format.js";

const SILENT_MS = 2000; // a rollback does not wait for a worker that is silent longer: its lease runs out

export function Workers({ status }) {
  const { workers } = status;
  const newest = Math.max(0, ...workers.map((worker) => worker.generation));
  return html`<section class="card workers" aria-labelledby="workers-title">
    <header>
      <h2 id="workers-title">Workers</h2>
      <span class="soft">${workers.length} alive, newest generation ${newest}</span>
    </header>
    ${workers.length === 0
      ? html`<p class="bad">No worker is alive: nothing is served.</p>`
      : html`<table>
          <thead>
            <tr>
              <th scope="col">Slot</th>
              <th scope="col">Process</th>
              <th scope="col">Generation</th>
              <th scope="col">On the target</th>
              <th scope="col">Heartbeat</th>
            </tr>
          </thead>
          <tbody>
            ${workers.map((worker) => {
              const behind = worker.generation !== newest;
              const silent = worker.heartbeat_age_ms > SILENT_MS;
              return html`<tr key=${worker.slot}>
                <th scope="row" data-head="Slot">${worker.slot}</th>
                <td data-head="Process">${worker.pid}</td>
                <td data-head="Generation" class=${behind ? "bad" : ""}>${worker.generation}${behind ? " behind" : ""}</td>
                <td data-head="On the target">${count(worker.inflight_target)} open</td>
                <td data-head="Heartbeat" class=${silent ? "bad" : ""}>${ms(worker.heartbeat_age_ms)} ago${silent ? ", silent" : ""}</td>
              </tr>`;
            })}
          </tbody>
        </table>`}
  </section>`;
}
