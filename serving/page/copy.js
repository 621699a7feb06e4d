// A button that copies a text and says that it did.
import { html, useState } from "./vendor/preact-htm.js";
import { announce } from "./announce.js";
import { Icon } from "./icon.js";

const SHOWN_MS = 1500;

/** @param {{text: () => string, label: string}} props `label` as in "Copy as curl for prod", its name among others */
export function CopyButton({ text, label, children }) {
  const [state, setState] = useState("");
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text());
      setState("Copied");
      announce(`${label}: copied`);
    } catch {
      // Browsers offer the clipboard to secure pages only: https, or 127.0.0.1.
      setState("No access");
      announce("The browser refused access to the clipboard");
    }
    setTimeout(() => setState(""), SHOWN_MS);
  };
  return html`<button class="small plain" aria-label=${label} title=${label} onClick=${copy}>
    <${Icon} name=${state === "Copied" ? "check" : "copy"} />${state || children}
  </button>`;
}
