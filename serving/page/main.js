// Starts the page.
import { html, render } from "./vendor/preact-htm.js";
import { App } from "./app.js";
import { keepFocus } from "./focus.js";
import { applyTheme } from "./theme.js";

applyTheme();
const root = document.getElementById("app");
root.replaceChildren();
keepFocus(root);
render(html`<${App} />`, root);
