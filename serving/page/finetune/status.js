// What a job's status means for what is shown and what can be done.
import { html } from "../vendor/preact-htm.js";

const TONES = { succeeded: "good", failed: "bad", cancelled: "warn", paused: "warn", running: "busy", queued: "busy", validating_files: "busy" };

const ENDED = ["succeeded", "failed", "cancelled"];

export function isActive({ status }) {
  return !ENDED.includes(status) && status !== "paused";
}

/** What can be asked of a job now. */
export function actionsOf({ status }) {
  if (ENDED.includes(status)) return [];
  if (status === "paused") return ["resume", "cancel"];
  return status === "validating_files" ? ["cancel"] : ["pause", "cancel"];
}

export function StatusBadge({ job: { status } }) {
  return html`<span class=${`badge ${TONES[status] ?? ""}`}>${status.replaceAll("_", " ")}</span>`;
}
