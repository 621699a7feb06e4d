// What stands where content would: it is loading, it failed and what to do, or there is none yet and how to begin.
import { html } from "./vendor/preact-htm.js";
import { Icon } from "./icon.js";

/** @param {{error: any, retry?: () => void, busy?: boolean}} props */
export function ErrorNote({ error, retry, busy = false }) {
  if (!error || error.code === "cancelled") return null;
  return html`<div class="note bad" role="alert">
    <${Icon} name="alert" />
    <div class="grow">
      <p class="wrap">${error.message}${error.param && html` <code>${error.param}</code>`}</p>
      ${error.remedy && html`<p class="muted">${error.remedy}</p>`}
    </div>
    ${retry && html`<button class="small" disabled=${busy} onClick=${retry}>Retry</button>`}
  </div>`;
}

/** @param {{title: string, children: any}} props */
export function Empty({ title, children }) {
  return html`<div class="empty"><h2>${title}</h2>${children}</div>`;
}

export function Loading({ what = "" }) {
  return html`<p class="muted loading" role="status">Loading ${what}…</p>`;
}

/**
 * What was loaded, or why it is not there.
 * @param {{of: import("./load.js").Loaded<any>, what?: string, children: (data: any) => any}} props
 */
export function Shown({ of: { data, error, busy, reload }, what, children }) {
  return html`
    <${ErrorNote} error=${error} retry=${reload} busy=${busy} />
    ${data === null ? !error && html`<${Loading} what=${what} />` : children(data)}
  `;
}
