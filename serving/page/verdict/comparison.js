// One comparison: how far it is, what it found, and its report.
import { html, useEffect } from "../vendor/preact-htm.js";
import { announce } from "../announce.js";
import { call, callText, url } from "../api.js";
import { seconds } from "../format.js";
import { Icon } from "../icon.js";
import { apiKey } from "../key.js";
import { useAction, useLoad } from "../load.js";
import { ErrorNote, Shown } from "../notice.js";

const EVERY_MS = 2000;
const TONES = { succeeded: "good", failed: "bad", cancelled: "warn", running: "busy", queued: "busy" };

export function StatusBadge({ status }) {
  return html`<span class=${`badge ${TONES[status] ?? ""}`}>${status}</span>`;
}

/** @param {{id: string}} props */
export function Comparison({ id }) {
  const pace = (one) => (one && !isRunning(one) ? null : EVERY_MS);
  const evaluation = useLoad((signal) => call(`v1/evaluations/${id}`, { signal }), [id], { everyMs: pace });
  const status = evaluation.data?.status;
  useEffect(() => {
    if (status) announce(`The comparison is ${status}`);
  }, [status]);
  return html`<${Shown} of=${evaluation} what="the comparison">${(one) => html`<section class="card stack" aria-label="Comparison">
    <div class="row wide-gap"><h2 class="grow wrap">${one.name}</h2><${StatusBadge} status=${one.status} /></div>
    ${isRunning(one) && html`<p role="status">${one.stage || "It waits for room on the cluster."}</p><progress aria-label="Progress"></progress>`}
    ${one.error && html`<div class="note bad" role="alert"><${Icon} name="alert" /><p class="wrap">${one.error}</p></div>`}
    ${one.verdict && html`<p class="verdict wrap">${one.verdict}</p>`}
    <p class="muted small-text"><code>${one.id}</code>${one.finished_at > one.created_at && html` · took ${seconds(one.finished_at - one.created_at)}`}</p>
    ${one.status === "succeeded" && html`<${Report} id=${one.id} />`}
  </section>`}<//>`;
}

function isRunning({ status }) {
  return status === "running" || status === "queued";
}

/** The report's own page. A link sends no key, so where there is one the page is fetched and saved. */
function Report({ id }) {
  const save = useAction(async () => {
    const page = new Blob([await callText(`reports/${id}`)], { type: "text/html" });
    const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(page), download: `${id}.html` });
    link.click();
    URL.revokeObjectURL(link.href);
  });
  return html`<div class="row wide-gap">
    ${apiKey()
      ? html`<button class="primary" disabled=${save.busy} onClick=${() => save.run()}>Save the report</button>`
      : html`<a class="button primary" href=${url(`reports/${id}`).href} target="_blank" rel="noopener">Read the report <${Icon} name="out" /></a>`}
    <span class="muted small-text">every question, every answer, charts and method, on one page</span>
    <${ErrorNote} error=${save.error} retry=${() => save.run()} />
  </div>`;
}
