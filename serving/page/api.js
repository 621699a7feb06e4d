// The only file that talks to the service. Every call ends: with an answer, or with an ApiError that says what to do.
import { keyHeaders } from "./key.js";

const TIMEOUT_MS = 20_000;
// A stream may be silent while the model reads its prompt, but not for ever. For a generator that is started by the
// request (min_replicas: 0) the service itself waits 120 s.
const STREAM_SILENCE_MS = 150_000;
// An upload may stand still while a weak line recovers, and while the service checks a large file.
const UPLOAD_SILENCE_MS = 300_000;
// Of a list that may be of any length.
export const MOST_LISTED = 500;

/** A request that failed. `remedy` is one sentence for the reader. */
export class ApiError extends Error {
  /**
   * @param {string} message
   * @param {{status?: number, code?: string | null, param?: string | null, retryAfterS?: number,
   *          body?: any}} [facts] `status` 0: there was no answer
   */
  constructor(message, { status = 0, code = null, param = null, retryAfterS = 0, body = null } = {}) {
    super(message);
    Object.assign(this, { status, code, param, retryAfterS, body });
  }

  /** Whether the same request may succeed later. */
  get isPassing() {
    return this.status === 0 || this.status === 429 || this.status >= 500;
  }

  get remedy() {
    if (this.code === "cancelled") return "";
    if (this.status === 0) return "Check that the service runs (python -m cluster status), then retry.";
    if (this.status === 401 || this.status === 403) return "Enter an API key that allows this: the key button, top right.";
    if (this.status === 404 && this.code === "unknown_url") return "This service was deployed without that part.";
    if (this.status === 429) return `Too much at once; retry in ${this.retryAfterS || 1} s.`;
    if (this.status === 503) return `A part is down or starting; retry in ${this.retryAfterS || 5} s.`;
    if (this.status >= 500) return "The fault is the service's: its log has it under the request id.";
    return "";
  }
}

/**
 * Where a path of the API is, whatever prefix the page is served under.
 * @param {string} path such as "v1/models"
 * @param {Record<string, any>} [query] values that are null or empty are left out
 */
export function url(path, query = {}) {
  const address = new URL(path, document.baseURI);
  address.hash = "";
  for (const [name, value] of Object.entries(query)) {
    if (value !== null && value !== undefined && value !== "") address.searchParams.set(name, value);
  }
  return address;
}

/**
 * @param {string} path
 * @param {{method?: string, json?: any, query?: object, signal?: AbortSignal, timeoutMs?: number}} [options]
 * @returns {Promise<any>} the JSON of the answer
 */
export async function call(path, options = {}) {
  const text = await callText(path, options);
  return text ? told(text) : null;
}

/** @returns {Promise<string>} the answer as text */
export async function callText(path, { timeoutMs = TIMEOUT_MS, ...options } = {}) {
  const response = await send(path, timeoutMs, options);
  return reach(() => response.text(), `${timeoutMs / 1000} s`);
}

async function send(path, timeoutMs, { method = "GET", json, query, signal }) {
  const limit = AbortSignal.timeout(timeoutMs);
  const init = { method, headers: keyHeaders(), signal: signal ? AbortSignal.any([signal, limit]) : limit };
  if (json !== undefined) {
    init.headers["content-type"] = "application/json";
    init.body = JSON.stringify(json);
  }
  const response = await reach(() => fetch(url(path, query), init), `${timeoutMs / 1000} s`);
  if (!response.ok) throw await refusal(response);
  return response;
}

/** Every object of a paged list, at most `most`. */
export async function callAll(path, { query = {}, most = MOST_LISTED, ...options } = {}) {
  const found = [];
  let after;
  do {
    const page = await call(path, { ...options, query: { limit: 100, ...query, after } });
    found.push(...page.data);
    after = page.has_more && page.data.length ? page.data.at(-1).id : null;
  } while (after && found.length < most);
  return found;
}

/**
 * The JSON objects of a stream of server-sent events, as they come.
 * @param {string} path
 * @param {any} json the request's body
 * @param {AbortSignal} signal ends the stream
 */
export async function* stream(path, json, signal) {
  const watch = new AbortController();
  let timer = 0;
  const alive = () => {
    clearTimeout(timer);
    timer = setTimeout(() => watch.abort(new DOMException("silent", "TimeoutError")), STREAM_SILENCE_MS);
  };
  const headers = { ...keyHeaders(), "content-type": "application/json" };
  const init = { method: "POST", headers, body: JSON.stringify(json), signal: AbortSignal.any([signal, watch.signal]) };
  alive();
  try {
    const response = await reach(() => fetch(url(path), init), `${STREAM_SILENCE_MS / 1000} s`);
    if (!response.ok) throw await refusal(response);
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    yield* events(reader, alive);
  } finally {
    clearTimeout(timer);
    watch.abort();
  }
}

async function* events(reader, alive) {
  let rest = "";
  let isWhole = false;
  for (;;) {
    const { done, value } = await reach(() => reader.read(), `${STREAM_SILENCE_MS / 1000} s`);
    if (done && isWhole) return;
    if (done) throw new ApiError("The answer broke off: the connection was closed before its end.");
    alive();
    const blocks = (rest + value).split(/\r?\n\r?\n/);
    rest = blocks.pop();
    for (const block of blocks) {
      const data = eventData(block);
      isWhole ||= data === "[DONE]";
      if (!data || isWhole) continue;
      const body = told(data);
      if (body.error) throw fromBody(body, 503);
      yield body;
    }
  }
}

/** The data of one server-sent event; empty for a comment. */
export function eventData(block) {
  const lines = block.split(/\r?\n/).filter((line) => line.startsWith("data:"));
  return lines.map((line) => line.slice(5).replace(/^ /, "")).join("\n");
}

/**
 * Upload a file.
 * @param {File} file
 * @param {string} purpose OpenAI's `purpose`
 * @param {(share: number) => void} onProgress gets 0 to 1
 * @param {AbortSignal} [signal]
 * @returns {Promise<any>} the file object
 */
export function upload(file, purpose, onProgress, signal) {
  const form = new FormData();
  form.set("purpose", purpose);
  form.set("file", file, file.name);
  // fetch does not tell how much was sent.
  const request = new XMLHttpRequest();
  const stopped = () => new ApiError("Upload stopped.", { code: "cancelled" });
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(stopped());
    const stop = () => request.abort();
    const alive = endsSilent(request, reject);
    request.open("POST", url("v1/files"));
    for (const [name, value] of Object.entries(keyHeaders())) request.setRequestHeader(name, value);
    request.upload.onprogress = (event) => {
      alive();
      if (event.lengthComputable) onProgress(event.loaded / event.total);
    };
    request.onload = () => settle(request, resolve, reject);
    request.onerror = () => reject(new ApiError("The service did not answer."));
    request.onabort = () => reject(stopped());
    signal?.addEventListener("abort", stop);
    request.addEventListener("loadend", () => signal?.removeEventListener("abort", stop));
    request.send(form);
  });
}

/** End an upload that stands still. The function that is returned tells that it does not. */
function endsSilent(request, reject) {
  let timer = 0;
  const alive = () => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      reject(new ApiError(`Nothing was heard of the upload for ${UPLOAD_SILENCE_MS / 60_000} min.`, { code: "timeout" }));
      request.abort();
    }, UPLOAD_SILENCE_MS);
  };
  request.onloadend = () => clearTimeout(timer);
  alive();
  return alive;
}

function settle(request, resolve, reject) {
  const body = parsed(request.responseText);
  if (request.status >= 200 && request.status < 300 && body) resolve(body);
  else reject(fromBody(body, request.status, Number(request.getResponseHeader("retry-after")) || 0));
}

/** Run a step of a request; what the browser throws becomes an ApiError. */
async function reach(step, limit) {
  try {
    return await step();
  } catch (error) {
    if (error instanceof ApiError) throw error;
    if (error.name === "AbortError") throw new ApiError("Stopped.", { code: "cancelled" });
    if (error.name === "TimeoutError") throw new ApiError(`No answer within ${limit}.`, { code: "timeout" });
    throw new ApiError("The service did not answer.", { code: "unreachable" });
  }
}

async function refusal(response) {
  const body = parsed(await response.text().catch(() => ""));
  return fromBody(body, response.status, Number(response.headers.get("retry-after")) || 0);
}

function fromBody(body, status, retryAfterS = 0) {
  const { message = `The service answered ${status || "nothing"}.`, code = null, param = null } = body?.error ?? {};
  return new ApiError(message, { status, code, param, retryAfterS, body });
}

/** What an answer that was taken says. */
function told(text) {
  const body = parsed(text);
  if (body === null) throw new ApiError("The answer is no JSON.", { status: 200 });
  return body;
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
