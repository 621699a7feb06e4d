// What a screen reader is told beside what it reads: one polite region for the whole page.
import { html } from "./vendor/preact-htm.js";
import { createStore, useStore } from "./store.js";

const message = createStore("");

/** @param {string} text said once, when the reader is idle */
export function announce(text) {
  message.update(() => text);
}

export function Announcer() {
  return html`<p class="unseen" role="status" aria-live="polite">${useStore(message)}</p>`;
}
