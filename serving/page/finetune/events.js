// Reading a job's events as they are added: newest first, only those that are not known yet.
import { call } from "../api.js";

const PAGE = 100;
const MOST = 5000;

/**
 * @param {string} jobId
 * @param {string | undefined} knownId the newest event that is known
 * @param {AbortSignal} signal
 * @returns {Promise<any[]>} the newer ones, newest first
 */
export async function newerEvents(jobId, knownId, signal) {
  const found = [];
  let after;
  do {
    const page = await call(`v1/fine_tuning/jobs/${jobId}/events`, { signal, query: { limit: PAGE, after } });
    const at = page.data.findIndex((event) => event.id === knownId);
    found.push(...(at < 0 ? page.data : page.data.slice(0, at)));
    after = at < 0 && page.has_more ? page.data.at(-1).id : null;
  } while (after && found.length < MOST);
  return found;
}
