// Starts the page.
import { html, render } from "./vendor/preact-htm.js";
import { App } from "./app.js";
import { applyTheme } from "./theme.js";

applyTheme();
const root = document.getElementById("app");
root.replaceChildren();
render(html`<${App} />`, root);
