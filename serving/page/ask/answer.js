// One answer on its way: what each chunk of its stream adds. Pure but for `streamAnswer`.
import { stream } from "../api.js";
import { withPieces } from "./calls.js";

/**
 * @typedef {object} Answer
 * @property {string} model
 * @property {string} kind as in ways.js
 * @property {"waiting" | "streaming" | "done" | "stopped" | "failed"} status
 * @property {string} text
 * @property {import("./calls.js").Call[]} calls
 * @property {any[]} annotations file citations
 * @property {any} hamlet route, reason, stages, hits
 * @property {{prompt_tokens: number, completion_tokens: number} | null} usage
 * @property {Error | null} error
 * @property {string} finishReason
 * @property {number} firstTokenMs 0 until there is one
 * @property {number} totalMs
 * @property {any} request the body that was sent
 */

/** @returns {Answer} */
export function newAnswer(way, request) {
  return {
    model: way.model,
    kind: way.kind,
    status: "waiting",
    text: "",
    calls: [],
    annotations: [],
    hamlet: null,
    usage: null,
    error: null,
    finishReason: "",
    firstTokenMs: 0,
    totalMs: 0,
    request,
  };
}

/** Whether an answer is still being written. */
export function isRunning({ status }) {
  return status === "waiting" || status === "streaming";
}

/**
 * @param {Answer} answer
 * @param {any} chunk a `chat.completion.chunk`
 * @param {number} elapsedMs since the request was sent
 * @returns {Answer}
 */
export function withChunk(answer, chunk, elapsedMs) {
  const choice = chunk.choices?.[0];
  const added = choice?.delta?.content ?? "";
  const pieces = choice?.delta?.tool_calls;
  return {
    ...answer,
    status: "streaming",
    text: answer.text + added,
    calls: withPieces(answer.calls, pieces),
    annotations: choice?.delta?.annotations ?? answer.annotations,
    finishReason: choice?.finish_reason ?? answer.finishReason,
    hamlet: chunk.hamlet ?? answer.hamlet,
    usage: chunk.usage ?? answer.usage,
    firstTokenMs: answer.firstTokenMs || (added || pieces ? elapsedMs : 0),
    totalMs: elapsedMs,
  };
}

/**
 * Ask, and tell each state of the answer; never throws.
 * @param {Answer} answer
 * @param {AbortSignal} signal
 * @param {(answer: Answer) => void} onChange
 */
export async function streamAnswer(answer, signal, onChange) {
  const started = performance.now();
  const elapsed = () => performance.now() - started;
  let current = answer;
  const tell = (next) => onChange((current = next));
  try {
    for await (const chunk of stream("v1/chat/completions", answer.request, signal)) {
      tell(withChunk(current, chunk, elapsed()));
    }
    tell({ ...current, status: "done", totalMs: elapsed() });
  } catch (error) {
    const stopped = error.code === "cancelled";
    tell({ ...current, status: stopped ? "stopped" : "failed", error: stopped ? null : error, totalMs: elapsed() });
  }
}
