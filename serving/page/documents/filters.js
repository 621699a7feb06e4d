// Filters over attributes, in the form of OpenAI's vector stores. Pure.

/** @typedef {{key: string, type: string, value: string}} Row one line of the form */

/** What a comparison is called, and how it is sent. */
export const COMPARISONS = { eq: "is", ne: "is not", gt: "above", gte: "at least", lt: "below", lte: "at most" };

/**
 * @param {Row[]} rows
 * @returns {any} the filter; undefined when no row is filled in
 */
export function filterOf(rows) {
  const filters = rows.filter((row) => row.key.trim()).map(({ key, type, value }) => ({ key: key.trim(), type, value: typed(value) }));
  if (filters.length < 2) return filters[0];
  return { type: "and", filters };
}

/** `12` is a number, `true` a truth value, `"12"` and all else a text. */
export function typed(value) {
  const text = value.trim();
  if (text === "true" || text === "false") return text === "true";
  if (/^".*"$/.test(text)) return text.slice(1, -1);
  return text !== "" && Number.isFinite(Number(text)) ? Number(text) : text;
}
