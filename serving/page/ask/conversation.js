// What was asked and answered in this tab: turns, each with one answer for every way that was chosen.
import { announce } from "../announce.js";
import { createStore } from "../store.js";
import { newAnswer, streamAnswer } from "./answer.js";
import { lastTurn, resultMessages } from "./calls.js";
import { readFunctions } from "./functions.js";
import { ROUTES } from "./ways.js";

/**
 * @typedef {object} Turn
 * @property {number} id
 * @property {string} question
 * @property {import("./answer.js").Answer[]} answers
 */

/**
 * @typedef {object} Options
 * @property {number} maxTokens
 * @property {number} temperature
 * @property {string} collection empty: the service's default
 * @property {string} functions JSON of the functions that may be called; empty: none
 * @property {boolean} keepRoute `auto` takes the route that it took before
 */

export const turns = createStore(/** @type {Turn[]} */ ([]));

/** Turn and model -> what ends that answer's stream. */
const running = new Map();
let lastId = 0;

/**
 * @param {string} question
 * @param {import("./ways.js").Way[]} ways
 * @param {Options} options
 */
export function ask(question, ways, options) {
  lastId += 1;
  const before = turns.get();
  const answers = ways.map((way) => newAnswer(way, requestBody(question, way.model, before, options)));
  turns.update((all) => [...all, { id: lastId, question, answers }]);
  answers.forEach((answer) => start(lastId, answer));
}

/** Ask one way of a turn again. */
export function retry(turnId, answer) {
  stop(turnId, answer.model);
  start(turnId, newAnswer(answer, answer.request));
}

/** Keep what the reader types as the result of a call. */
export function typeResult(turnId, answer, callId, result) {
  const calls = answer.calls.map((call) => (call.id === callId ? { ...call, result } : call));
  replace(turnId, { ...answer, calls });
}

/** Send the results of an answer's calls, and let the model go on. */
export function goOn(turnId, answer) {
  const messages = [...answer.request.messages, ...resultMessages(answer)];
  start(turnId, newAnswer(answer, { ...answer.request, messages }));
}

export function stop(turnId, model) {
  running.get(`${turnId} ${model}`)?.abort();
}

export function stopAll() {
  running.forEach((controller) => controller.abort());
}

export function forget() {
  stopAll();
  turns.update(() => []);
}

/** Whether an answer is still being written. */
export function isRunning(answer) {
  return answer.status === "waiting" || answer.status === "streaming";
}

/**
 * The body of a chat request: each way is told its own answers of the turns before.
 * @param {Turn[]} before
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

function isVectorStore(collection) {
  return collection.startsWith("vs_");
}

async function start(turnId, answer) {
  const name = `${turnId} ${answer.model}`;
  const controller = new AbortController();
  running.set(name, controller);
  const change = (next) => running.get(name) === controller && replace(turnId, next);
  change(answer);
  let last = answer;
  await streamAnswer(answer, controller.signal, (next) => change((last = next)));
  if (running.get(name) === controller) running.delete(name);
  announce(`${answer.model}: ${told(last)}`);
}

function told({ error, text, calls }) {
  if (error) return error.message;
  return [text, calls.length && `calls ${calls.map(({ name }) => name).join(", ")}`].filter(Boolean).join(" ");
}

function replace(turnId, answer) {
  const swap = (old) => (old.model === answer.model ? answer : old);
  turns.update((all) => all.map((turn) => (turn.id === turnId ? { ...turn, answers: turn.answers.map(swap) } : turn)));
}
