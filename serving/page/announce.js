// What a screen reader is told beside what it reads: one polite log for the whole page.
import { html } from "./vendor/preact-htm.js";
import { createStore, useStore } from "./store.js";

// A reader takes up what is added; what stays would be read again by who walks through the page.
const TAKEN_UP_MS = 5000;

const messages = createStore(/** @type {{id: number, text: string}[]} */ ([]));
let lastId = 0;

/** @param {string} text said once, when the reader is idle */
export function announce(text) {
  const id = (lastId += 1);
  messages.update((all) => [...all, { id, text }]);
  setTimeout(() => messages.update((all) => all.filter((message) => message.id !== id)), TAKEN_UP_MS);
}

addEventListener("readerchange", () => messages.update(() => []));

/** A log and no status: that holds one message, of several answers that end at once the last, and says none twice. */
export function Announcer() {
  return html`<div class="unseen" role="log" aria-live="polite">
    ${useStore(messages).map(({ id, text }) => html`<p key=${id}>${text}</p>`)}
  </div>`;
}
