// The calls of an answer and their results, as OpenAI's messages hold them. Pure.

/**
 * @typedef {object} Call
 * @property {string} id
 * @property {string} name
 * @property {string} arguments JSON text
 * @property {string} result what the reader typed
 */

/**
 * Calls with what a chunk of a stream adds to them.
 * @param {Call[]} calls
 * @param {any[]} [pieces] a delta's `tool_calls`; pieces of one call share an `index`
 * @returns {Call[]}
 */
export function withPieces(calls, pieces = []) {
  const merged = [...calls];
  for (const { index, id, function: piece } of pieces) {
    const call = merged[index] ?? { id: "", name: "", arguments: "", result: "" };
    merged[index] = {
      ...call,
      id: id ?? call.id,
      name: piece?.name ?? call.name,
      arguments: call.arguments + (piece?.arguments ?? ""),
    };
  }
  return merged;
}

/** Whether an answer waits for the results of its calls. One that was cut may have half a call. */
export function awaitsResults({ calls, status, finishReason }) {
  return status === "done" && calls.length > 0 && finishReason !== "length";
}

/** An answer that calls, and the results, as the messages that the model goes on from. */
export function resultMessages({ text, calls }) {
  const made = calls.map((call) => ({ id: call.id, type: "function", function: { name: call.name, arguments: call.arguments } }));
  return [
    { role: "assistant", content: text || null, tool_calls: made },
    ...calls.map((call) => ({ role: "tool", tool_call_id: call.id, content: call.result })),
  ];
}

/** The messages of a request's last turn: the question, then the calls with their results. */
export function lastTurn(messages) {
  return messages.slice(messages.findLastIndex((message) => message.role === "user"));
}

/**
 * What was called and answered before, in this turn.
 * @returns {{text: string, calls: Call[]}[]} one for each time that the model called
 */
export function stepsBefore(messages) {
  const turn = lastTurn(messages);
  const results = new Map(turn.filter(({ role }) => role === "tool").map((message) => [message.tool_call_id, message.content]));
  return turn.filter((message) => message.tool_calls).map(({ content, tool_calls: calls }) => ({
    text: content ?? "",
    calls: calls.map(({ id, function: { name, arguments: given } }) => ({ id, name, arguments: given, result: results.get(id) })),
  }));
}
