// One collection: files go in, what became of them, search, and its end.
import { html, useState } from "../vendor/preact-htm.js";
import { call } from "../api.js";
import { choice, choose } from "../ask/choice.js";
import { Confirm } from "../dialog.js";
import { Dropzone } from "../dropzone.js";
import { bytes, plural } from "../format.js";
import { Icon } from "../icon.js";
import { useAction, useLoad } from "../load.js";
import { ErrorNote, Shown } from "../notice.js";
import { goTo, linkTo } from "../route.js";
import { useStore } from "../store.js";
import { Files, loadFiles } from "./files.js";
import { Search } from "./search.js";
import { abandon, addFiles, clearUploads, isEnded, isOnItsWay, retryUpload, takeAway, uploads } from "./uploads.js";

const INDEXING_EVERY_MS = 2000;
const IDLE_EVERY_MS = 15_000;

/** @param {{store: any, onChange: () => void}} props */
export function Collection({ store, onChange }) {
  return html`<div class="stack">
    <${Heading} store=${store} onDeleted=${onChange} />
    ${isFilledElsewhere(store)
      ? html`<p class="note">Filled from a shell: <code>python -m retrieval ingest FOLDER --collection ${store.name}</code>, and emptied there too.</p>`
      : html`<${Contents} store=${store} onChange=${onChange} />`}
    <${Search} storeId=${store.id} />
  </div>`;
}

/** Whether the command line owns it; such a collection can be read and searched here. */
function isFilledElsewhere(store) {
  return !store.created_at;
}

function Contents({ store, onChange }) {
  const sending = useStore(uploads).filter((one) => one.storeId === store.id);
  const numEnded = sending.filter(isEnded).length;
  const files = useLoad((signal) => loadFiles(store.id, signal), [store.id, numEnded], { everyMs: pace });
  const changed = () => {
    files.reload();
    onChange();
  };
  return html`
    <section class="card stack" aria-label="Files">
      <${Dropzone} label="Add files" multiple hint="Drop them here, or press to choose. Each is read, cut into chunks and indexed."
        onFiles=${(chosen) => addFiles(store.id, chosen)} />
      <${Sendings} storeId=${store.id} sending=${sending} />
      <${Shown} of=${files} what="files">${(list) => html`<${Files} store=${store} files=${list} onChange=${changed} />`}<//>
    </section>
  `;
}

function pace(files) {
  return files?.some((file) => file.status === "in_progress") ? INDEXING_EVERY_MS : IDLE_EVERY_MS;
}

function Heading({ store, onDeleted }) {
  const [asks, setAsks] = useState(false);
  const remove = useAction(async () => {
    await call(`v1/vector_stores/${store.id}`, { method: "DELETE" });
    abandon(store.id);
    if (choice.get().collection === store.id) choose({ collection: "" });
    goTo("documents");
    onDeleted();
  });
  const askThis = () => {
    choose({ collection: store.id });
    goTo("ask");
  };
  return html`<div class="row wide-gap">
    <a class="button small back" href=${linkTo("documents")}>All collections</a>
    <div class="grow"><h2 class="wrap">${store.name || store.id}</h2>
      <p class="muted small-text"><code>${store.id}</code> · ${plural(store.file_counts.total, "file")} · ${bytes(store.usage_bytes ?? 0)}</p></div>
    <button class="primary" onClick=${askThis}><${Icon} name="ask" />Ask these documents</button>
    ${!isFilledElsewhere(store) && html`<button class="plain" aria-label="Delete this collection" title="Delete this collection" onClick=${() => setAsks(true)}>
      <${Icon} name="trash" />
    </button>`}
    ${asks && html`<${Confirm} title="Delete this collection?" action="Delete" busy=${remove.busy} onClose=${() => setAsks(false)} onYes=${remove.run}>
      <p class="wrap">${store.name || store.id} and its index go for good. The files that were uploaded stay under /v1/files.</p>
      <${ErrorNote} error=${remove.error} />
    <//>`}
  </div>`;
}

function Sendings({ storeId, sending }) {
  if (!sending.length) return null;
  return html`<div class="stack tight">
    <ul class="sendings" aria-label="Uploads">${sending.map((one) => html`<${Sending} key=${one.id} of=${one} />`)}</ul>
    ${sending.some(isEnded) && html`<div><button class="small plain" onClick=${() => clearUploads(storeId)}>Clear what is done</button></div>`}
  </div>`;
}

const WORDS = { waiting: "waits", sending: "is sent", indexing: "is indexed", done: "done", failed: "not taken" };

function Sending({ of: { file, status, share, error }, of }) {
  const tone = { done: "good", failed: "bad" }[status] ?? "busy";
  return html`<li class="stack tight">
    <div class="row">
      <span class="grow wrap">${file.name} <span class="muted small-text">${bytes(file.size)}</span></span>
      <span class=${`badge ${tone}`}>${WORDS[status]}</span>
      ${isOnItsWay(of) && html`<button class="small plain" aria-label=${`Take ${file.name} away`} onClick=${() => takeAway(of)}><${Icon} name="close" /></button>`}
    </div>
    ${status === "sending" && html`<progress max="1" value=${share} aria-label=${`Sending ${file.name}`}></progress>`}
    <${ErrorNote} error=${error} retry=${() => retryUpload(of)} />
  </li>`;
}
