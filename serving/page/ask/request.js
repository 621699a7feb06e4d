// What is sent for a question: each way's own history, and the options as the API takes them. Pure.
import { lastTurn } from "./calls.js";
import { readFunctions } from "./functions.js";
import { ROUTES } from "./ways.js";

/**
 * @typedef {object} Options
 * @property {number} maxTokens
 * @property {number} temperature
 * @property {string} collection empty: the service's default
 * @property {string} functions JSON of the functions that may be called; empty: none
 * @property {boolean} keepRoute `auto` takes the route that it took before
 */

/**
 * The body of a chat request: each way is told its own answers of the turns before.
 * @param {import("./conversation.js").Turn[]} before
 * @param {Options} options
 */
export function requestBody(question, model, before, options) {
  const history = before.flatMap((turn) => {
    // One whose calls were not answered is no answer.
    const own = turn.answers.find((answer) => answer.model === model && answer.text && !answer.calls.length);
    return own ? [...lastTurn(own.request.messages), { role: "assistant", content: own.text }] : [];
  });
  const body = {
    model,
    messages: [...history, { role: "user", content: question }],
    max_tokens: options.maxTokens,
    temperature: options.temperature,
    stream: true,
    stream_options: { include_usage: true },
  };
  const tools = toolsOf(model, options);
  const hamlet = extensionOf(model, before, options);
  return { ...body, ...(tools.length ? { tools } : {}), ...(Object.keys(hamlet).length ? { hamlet } : {}) };
}

/** A search in the chosen vector store, else the functions: they do not go into one request. */
function toolsOf(model, { collection, functions }) {
  // The tool makes any model retrieve; the ways without documents stay without.
  const searches = isVectorStore(collection) && (model === "auto" || model.endsWith("+rag"));
  return searches ? [{ type: "file_search", vector_store_ids: [collection] }] : readFunctions(functions).tools;
}

/** The route to keep, and a collection of the command line, which no tool names. */
function extensionOf(model, before, { collection, keepRoute }) {
  const route = model === "auto" && keepRoute ? routeTaken(before) : undefined;
  return { ...(collection && !isVectorStore(collection) ? { collection } : {}), ...(route ? { route } : {}) };
}

/** The newest route of `auto` that can be asked for; one that stands in for a part that is down is not kept. */
function routeTaken(before) {
  const taken = before.flatMap((turn) => turn.answers).filter(({ model, hamlet }) => model === "auto" && hamlet && !hamlet.degraded);
  return taken.map(({ hamlet }) => hamlet.route).findLast((route) => ROUTES.includes(route));
}

/** The vector store that a request reads; empty when it reads none. */
export function storeOf({ tools = [] }) {
  return tools.find(({ type }) => type === "file_search")?.vector_store_ids[0] ?? "";
}

function isVectorStore(collection) {
  return collection.startsWith("vs_");
}
