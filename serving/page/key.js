// The API key: kept for this tab only, sent as a bearer token, never part of an address.

const KEY = "hamlet.key";

/** @returns {string} the key; empty when there is none */
export function apiKey() {
  return sessionStorage.getItem(KEY) ?? "";
}

/** @param {string} key the key to send from now on; empty to send none */
export function setApiKey(key) {
  if (key) sessionStorage.setItem(KEY, key);
  else sessionStorage.removeItem(KEY);
  dispatchEvent(new Event("keychange"));
}

/** @returns {Record<string, string>} the headers that identify the caller */
export function keyHeaders() {
  const key = apiKey();
  return key ? { authorization: `Bearer ${key}` } : {};
}
