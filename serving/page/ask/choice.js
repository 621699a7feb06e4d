// What the reader chose for the next question: ways and options; kept in this browser.
import { createStore } from "../store.js";

const KEY = "hamlet.ask";

/**
 * @typedef {object} Choice
 * @property {string} tuned name of the tuned model; empty: the first there is
 * @property {string[]} off models of the usual ways that are not asked
 * @property {import("./ways.js").Way[]} extra ways that were added
 * @property {number} maxTokens
 * @property {number} temperature
 * @property {string} collection
 * @property {string} functions JSON, as it was typed
 * @property {boolean} keepRoute `auto` takes the route that it took before in the conversation
 * @property {number} pricePerHour dollars that the machine costs; 0: not told
 */

/** @type {Choice} */
const DEFAULTS = { tuned: "", off: [], extra: [], maxTokens: 200, temperature: 0, collection: "", functions: "", keepRoute: false, pricePerHour: 0 };

export const choice = createStore(read());

/** @param {Partial<Choice>} change */
export function choose(change) {
  choice.update((before) => ({ ...before, ...change }));
  localStorage.setItem(KEY, JSON.stringify(choice.get()));
}

function read() {
  try {
    return { ...DEFAULTS, ...JSON.parse(localStorage.getItem(KEY) ?? "{}") };
  } catch {
    return DEFAULTS;
  }
}
