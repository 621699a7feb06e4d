// The conversation over a reload: in this tab's session storage, like the API key, and gone when the tab closes.
import { ApiError } from "../api.js";
import { isRunning, newAnswer } from "./answer.js";

const KEY = "hamlet.turns";
// Browsers give an origin about five million characters in a tab.
const MOST_CHARACTERS = 2_000_000;

/**
 * Keep the newest turns that fit, in place of those that were kept.
 * @param {import("./conversation.js").Turn[]} turns
 */
export function keepTurns(turns, most = MOST_CHARACTERS) {
  sessionStorage.removeItem(KEY);
  const fitting = newest(turns.map((turn) => JSON.stringify({ ...turn, answers: turn.answers.map(plain) })), most);
  if (!fitting.length) return;
  try {
    sessionStorage.setItem(KEY, `[${fitting.join()}]`);
  } catch {
    // The storage is full of something else: the conversation goes on, and is lost with the page.
  }
}

/**
 * @returns {import("./conversation.js").Turn[]} numbered from 1; none where what is kept cannot be read, and
 *   without those turns that have another form
 */
export function keptTurns() {
  try {
    const turns = JSON.parse(sessionStorage.getItem(KEY)).filter(isTurn);
    return turns.map(({ question, answers }, index) => ({ id: index + 1, question, answers: answers.map(revived) }));
  } catch {
    return [];
  }
}

/** The longest end of a list of texts that has `most` characters or fewer, commas and brackets included. */
function newest(texts, most) {
  let size = 1;
  return texts.slice(texts.findLastIndex((text) => (size += text.length + 1) > most) + 1);
}

/** An answer that JSON can carry: it leaves an error's message out. The body of a refusal is not shown in Ask. */
function plain(answer) {
  const { error } = answer;
  return { ...answer, error: error && { ...error, message: error.message, body: null } };
}

/** An answer as it is shown again; one that was being written is stopped. */
function revived(answer) {
  const { error } = answer;
  const whole = { ...newAnswer(answer, answer.request), ...answer };
  // A browser cuts the streams of a page that goes before it tells the page: they look like a service that went away.
  if (isRunning(answer) || error?.code === "unreachable") return { ...whole, status: "stopped", error: null };
  return { ...whole, error: error && new ApiError(error.message, error) };
}

/** Whether a value has what is read of every turn: what is kept may be another version's. */
function isTurn(value) {
  return typeof value?.question === "string" && Array.isArray(value.answers) && value.answers.every(isAnswer);
}

function isAnswer(value) {
  const texts = [value?.model, value?.kind, value?.status, value?.text];
  const lists = [value?.calls, value?.annotations, value?.request?.messages];
  return texts.every((text) => typeof text === "string") && lists.every(Array.isArray);
}
