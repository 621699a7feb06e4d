// Files on their way into a collection: sent, indexed, and what became of each.
import { announce } from "../announce.js";
import { call, upload } from "../api.js";
import { createStore } from "../store.js";

const POLL_MS = 700;
// After this long the file's own row in the list goes on telling.
const INDEXING_LIMIT_MS = 10 * 60 * 1000;

/**
 * @typedef {object} Sending
 * @property {number} id
 * @property {string} storeId
 * @property {File} file
 * @property {"waiting" | "sending" | "indexing" | "done" | "failed"} status
 * @property {number} share of the bytes that was sent, 0 to 1
 * @property {Error | null} error
 * @property {AbortController} stopping
 */

export const uploads = createStore(/** @type {Sending[]} */ ([]));

let lastId = 0;
let sent = Promise.resolve();
// Files are read in the order in which they came: only the first that is not read yet is asked after.
let read = Promise.resolve();

/** Put files into a collection: sent one after the other, and read while the next are sent. */
export function addFiles(storeId, files) {
  const added = files.map((file) => ({ id: (lastId += 1), storeId, file, status: "waiting", share: 0, error: null, stopping: new AbortController() }));
  uploads.update((all) => [...all, ...added]);
  added.forEach(queue);
}

export function retryUpload(sending) {
  change(sending.id, { status: "waiting", share: 0, error: null });
  queue(sending);
}

/** Stop a file that is on its way, and forget it. */
export function takeAway(sending) {
  sending.stopping.abort();
  uploads.update((all) => all.filter((one) => one.id !== sending.id));
}

/** Stop whatever is on its way into a collection that was deleted. */
export function abandon(storeId) {
  uploads.get().filter((one) => one.storeId === storeId).forEach(takeAway);
}

export function clearUploads(storeId) {
  uploads.update((all) => all.filter((one) => one.storeId !== storeId || !isEnded(one)));
}

export function isEnded({ status }) {
  return status === "done" || status === "failed";
}

/** Whether a file is not yet with the service: it would be lost with the page. */
export function isOnItsWay({ status }) {
  return status === "waiting" || status === "sending";
}

// What one reader sends does not go on with the key of another.
addEventListener("readerchange", () => uploads.get().forEach(takeAway));

addEventListener("beforeunload", (event) => {
  if (uploads.get().some(isOnItsWay)) event.preventDefault();
});

function queue(sending) {
  sent = sent.then(() => unlessStopped(sending, send));
}

async function send(sending) {
  const { id, storeId, file, stopping: { signal } } = sending;
  change(id, { status: "sending" });
  const { id: fileId } = await upload(file, "assistants", (share) => change(id, { share }), signal);
  const files = `v1/vector_stores/${storeId}/files`;
  await call(files, { method: "POST", json: { file_id: fileId }, signal, timeoutMs: 120_000 });
  change(id, { status: "indexing" });
  const seeRead = async () => {
    await indexed(`${files}/${fileId}`, signal);
    change(id, { status: "done" });
    announce(`${file.name} is indexed`);
  };
  read = read.then(() => unlessStopped(sending, seeRead));
}

/** Do a step of a file on its way, and tell where it fails. */
async function unlessStopped(sending, step) {
  const { id, file, stopping: { signal } } = sending;
  if (signal.aborted) return;
  try {
    await step(sending);
  } catch (error) {
    if (signal.aborted) return;
    change(id, { status: "failed", error });
    announce(`${file.name} was not taken: ${error.message}`);
  }
}

async function indexed(path, signal) {
  const deadline = Date.now() + INDEXING_LIMIT_MS;
  while (Date.now() < deadline) {
    const { status, last_error: reason } = await look(path, signal);
    if (status === "completed") return;
    if (status !== "in_progress") throw new Error(reason?.message ?? `It was ${status}.`);
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
  throw new Error("It is still being indexed; the list below goes on telling.");
}

/** The file as it stands. A service that does not tell now may do so the next time; the file goes on meanwhile. */
async function look(path, signal) {
  try {
    return await call(path, { signal });
  } catch (error) {
    if (signal.aborted || !error.isPassing) throw error;
    return { status: "in_progress" };
  }
}

function change(id, values) {
  uploads.update((all) => all.map((one) => (one.id === id ? { ...one, ...values } : one)));
}
