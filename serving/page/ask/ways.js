// The ways in which a question can be answered: which model, with or without documents. Pure.

/**
 * @typedef {object} Way
 * @property {string} model what is sent as `model`
 * @property {string} label what stands over the answer
 * @property {"plain" | "tuned" | "rag" | "tuned+rag" | "auto"} kind
 */

const RAG = "+rag";

/** Names of the base models that generate, from the objects of `/v1/models`. */
export function baseModels(models) {
  return models.filter((model) => model.kind === "generator" && !model.base_model).map((model) => model.id);
}

/** Aliases first, since people chose them; then registered generators. */
export function tunedModels(models) {
  const generators = models.filter((model) => model.kind === "generator" && model.base_model).map((model) => model.id);
  const aliases = models.filter((model) => generators.includes(model.alias_of)).map((model) => model.id);
  return [...aliases, ...generators];
}

/**
 * The four ways and `auto`.
 * @param {string} base
 * @param {string} tuned empty when there is no tuned model
 * @returns {Way[]}
 */
export function usualWays(base, tuned) {
  const ways = base ? [wayOf(base, false), wayOf(base + RAG, false)] : [];
  if (tuned) ways.push(wayOf(tuned, true), wayOf(tuned + RAG, true));
  return [...ways, wayOf("auto", false)];
}

/** @returns {Way} */
export function wayOf(model, isTuned) {
  if (model === "auto") return { model, label: "auto", kind: "auto" };
  const retrieves = model.endsWith(RAG);
  const kind = retrieves ? (isTuned ? "tuned+rag" : "rag") : isTuned ? "tuned" : "plain";
  return { model, label: model, kind };
}

/** What a way does, in a few words. */
export const KINDS = {
  plain: "the model as it is",
  rag: "the model, reading your documents",
  tuned: "your fine-tuned model",
  "tuned+rag": "your model, reading your documents",
  auto: "the router decides",
};

/** The routes that `auto` may be asked to take. */
export const ROUTES = Object.keys(KINDS).filter((kind) => kind !== "auto");
