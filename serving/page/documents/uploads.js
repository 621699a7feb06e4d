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
 */

export const uploads = createStore(/** @type {Sending[]} */ ([]));

let lastId = 0;
let line = Promise.resolve();

/** Put files into a collection, one after the other. */
export function addFiles(storeId, files) {
  const added = files.map((file) => ({ id: (lastId += 1), storeId, file, status: "waiting", share: 0, error: null }));
  uploads.update((all) => [...all, ...added]);
  added.forEach(queue);
}

export function retryUpload(sending) {
  change(sending.id, { status: "waiting", share: 0, error: null });
  queue(sending);
}

export function clearUploads(storeId) {
  uploads.update((all) => all.filter((one) => one.storeId !== storeId || !isEnded(one)));
}

export function isEnded({ status }) {
  return status === "done" || status === "failed";
}

function queue(sending) {
  line = line.then(() => send(sending));
}

async function send({ id, storeId, file }) {
  try {
    change(id, { status: "sending" });
    const { id: fileId } = await upload(file, "assistants", (share) => change(id, { share }));
    change(id, { status: "indexing", share: 1 });
    await call(`v1/vector_stores/${storeId}/files`, { method: "POST", json: { file_id: fileId }, timeoutMs: 120_000 });
    await indexed(storeId, fileId);
    change(id, { status: "done" });
    announce(`${file.name} is indexed`);
  } catch (error) {
    change(id, { status: "failed", error });
    announce(`${file.name} was not taken: ${error.message}`);
  }
}

async function indexed(storeId, fileId) {
  const deadline = Date.now() + INDEXING_LIMIT_MS;
  while (Date.now() < deadline) {
    const { status, last_error: reason } = await call(`v1/vector_stores/${storeId}/files/${fileId}`);
    if (status === "completed") return;
    if (status !== "in_progress") throw new Error(reason?.message ?? `It was ${status}.`);
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
  throw new Error("It is still being indexed; the list below goes on telling.");
}

function change(id, values) {
  uploads.update((all) => all.map((one) => (one.id === id ? { ...one, ...values } : one)));
}
