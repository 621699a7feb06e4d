// Which part of the page is shown: `#/<part>/<id>?<query>`.
import { useEffect, useState } from "./vendor/preact-htm.js";

/**
 * @typedef {object} Route
 * @property {string} part
 * @property {string} id as it may stand in an address of the API, whatever was typed; empty for a part's front
 * @property {URLSearchParams} query
 */

/** @returns {Route} */
export function readRoute(hash = location.hash) {
  const [path, query = ""] = hash.replace(/^#\/?/, "").split("?");
  const [part = "", ...rest] = path.split("/");
  return { part: part || "ask", id: encodeURIComponent(decoded(rest.join("/"))), query: new URLSearchParams(query) };
}

/** An address may be typed, or cut where it was pasted. */
function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** The address of a part, for `href`. */
export function linkTo(part, id = "", query = {}) {
  const tail = new URLSearchParams(query).toString();
  return `#/${part}${id ? `/${id}` : ""}${tail ? `?${tail}` : ""}`;
}

export function goTo(part, id = "", query = {}) {
  location.hash = linkTo(part, id, query);
}

/** The current route, followed. */
export function useRoute() {
  const [route, setRoute] = useState(readRoute());
  useEffect(() => {
    const follow = () => setRoute(readRoute());
    addEventListener("hashchange", follow);
    return () => removeEventListener("hashchange", follow);
  }, []);
  return route;
}
