// What was asked and answered in this tab: turns, each with one answer for every way that was chosen.
import { announce } from "../announce.js";
import { createStore } from "../store.js";
import { newAnswer, streamAnswer } from "./answer.js";
import { resultMessages } from "./calls.js";
import { keepTurns, keptTurns } from "./kept.js";
import { requestBody } from "./request.js";

/**
 * @typedef {object} Turn
 * @property {number} id
 * @property {string} question
 * @property {import("./answer.js").Answer[]} answers
 */

export const turns = createStore(/** @type {Turn[]} */ (keptTurns()));

/** Turn and model -> what ends that answer's stream. */
const running = new Map();
let lastId = turns.get().length;

/**
 * @param {string} question
 * @param {import("./ways.js").Way[]} ways
 * @param {import("./request.js").Options} options
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
  running.clear();
  turns.update(() => []);
  keep();
}

addEventListener("readerchange", forget);

function keep() {
  keepTurns(turns.get());
}

// Not with each piece of a stream, of which there are many in a second. A browser that needs the memory of a hidden
// tab, or of a phone's, takes it without a pagehide.
addEventListener("pagehide", keep);
document.addEventListener("visibilitychange", () => document.hidden && keep());

async function start(turnId, answer) {
  const name = `${turnId} ${answer.model}`;
  const controller = new AbortController();
  running.set(name, controller);
  const change = (next) => running.get(name) === controller && replace(turnId, next);
  change(answer);
  let last = answer;
  await streamAnswer(answer, controller.signal, (next) => change((last = next)));
  // It was asked again meanwhile, or forgotten.
  if (running.get(name) !== controller) return;
  running.delete(name);
  keep();
  announce(`${answer.model}: ${told(last)}`);
}

function told({ status, error, text, calls }) {
  if (error) return error.message;
  if (status === "stopped") return "stopped";
  return [text, calls.length && `calls ${calls.map(({ name }) => name).join(", ")}`].filter(Boolean).join(" ");
}

function replace(turnId, answer) {
  const swap = (old) => (old.model === answer.model ? answer : old);
  turns.update((all) => all.map((turn) => (turn.id === turnId ? { ...turn, answers: turn.answers.map(swap) } : turn)));
}
