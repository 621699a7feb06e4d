// What was asked and answered in this tab: turns, each with one answer for every way that was chosen.
import { announce } from "../announce.js";
import { createStore } from "../store.js";
import { newAnswer, streamAnswer } from "./answer.js";

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
    const own = turn.answers.find((answer) => answer.model === model && answer.text);
    return own ? [{ role: "user", content: turn.question }, { role: "assistant", content: own.text }] : [];
  });
  const body = {
    model,
    messages: [...history, { role: "user", content: question }],
    max_tokens: options.maxTokens,
    temperature: options.temperature,
    stream: true,
    stream_options: { include_usage: true },
  };
  return { ...body, ...where(model, options.collection) };
}

/** Where a way looks answers up: in a vector store by OpenAI's tool, in a collection of the command line by name. */
function where(model, collection) {
  if (!collection) return {};
  if (!collection.startsWith("vs_")) return { hamlet: { collection } };
  // The tool makes any model retrieve; the ways without documents stay without.
  return model === "auto" || model.endsWith("+rag") ? { tools: [{ type: "file_search", vector_store_ids: [collection] }] } : {};
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
  announce(`${answer.model}: ${last.error ? last.error.message : last.text}`);
}

function replace(turnId, answer) {
  const swap = (old) => (old.model === answer.model ? answer : old);
  turns.update((all) => all.map((turn) => (turn.id === turnId ? { ...turn, answers: turn.answers.map(swap) } : turn)));
}
