// The page: sign in, then one migration.

import { html, render } from "./vendor/htm-preact.js";
import { App } from "./views/app.js";

const root = document.getElementById("app");
root.replaceChildren();
render(html`<${App} />`, root);
