// The API key: kept for this tab only, sent as a bearer token, never part of an address.

const KEY = "hamlet.key";

/** @returns {string} the key; empty when there is none */
export function apiKey() {
  return sessionStorage.getItem(KEY) ?? "";
}

/**
 * Tells `keychange`, after `readerchange` where there was another key before: the first one opens what was refused
 * without any, the next is another reader's.
 * @param {string} key the key to send from now on; empty to send none
 */
export function setApiKey(key) {
  const before = apiKey();
  if (key) sessionStorage.setItem(KEY, key);
  else sessionStorage.removeItem(KEY);
  if (before && before !== key) dispatchEvent(new Event("readerchange"));
  dispatchEvent(new Event("keychange"));
}

/** @returns {Record<string, string>} the headers that identify the caller */
export function keyHeaders() {
  const key = apiKey();
  return key ? { authorization: `Bearer ${key}` } : {};
}
