// Documents: collections on the left, the chosen one beside them.
import { html, useState } from "../vendor/preact-htm.js";
import { call, callAll } from "../api.js";
import { Dialog } from "../dialog.js";
import { plural } from "../format.js";
import { Icon } from "../icon.js";
import { useAction, useLoad } from "../load.js";
import { Empty, ErrorNote, Shown } from "../notice.js";
import { goTo, linkTo } from "../route.js";
import { Collection } from "./collection.js";

const EVERY_MS = 10_000;

export function Documents({ route }) {
  const stores = useLoad((signal) => callAll("v1/vector_stores", { signal }), [], { everyMs: EVERY_MS });
  const [isMaking, setIsMaking] = useState(false);
  const made = (store) => {
    setIsMaking(false);
    stores.reload();
    goTo("documents", store.id);
  };
  const isGone = route.id && stores.data && !stores.busy && !stores.data.some((store) => store.id === route.id);
  return html`
    <div class="row">
      <h1 class="grow">Documents</h1>
      <button class="primary" onClick=${() => setIsMaking(true)}><${Icon} name="plus" />New collection</button>
    </div>
    ${isGone && html`<p class="note warn wrap" role="status">There is no collection ${route.id}, or not any more.</p>`}
    <${Shown} of=${stores} what="collections">${(list) => list.length
      ? html`<${Beside} stores=${list} chosenId=${route.id} onChange=${stores.reload} />`
      : html`<${Introduction} />`}<//>
    ${isMaking && html`<${NewCollection} onMade=${made} onClose=${() => setIsMaking(false)} />`}
  `;
}

function Introduction() {
  return html`<${Empty} title="No collections yet">
    <p>A collection is a set of documents that answers are looked up in. Make one, drop your files on it, and ask: every answer then cites the passages that it rests on.</p>
    <p class="muted">From a shell the same is done with <code>python -m retrieval ingest FOLDER --collection NAME</code>.</p>
  <//>`;
}

function Beside({ stores, chosenId, onChange }) {
  const chosen = stores.find((store) => store.id === chosenId);
  return html`<div class=${`beside ${chosen ? "has-choice" : ""}`}>
    <nav class="choices choices-column" aria-label="Collections">
      ${stores.map((store) => html`<a key=${store.id} href=${linkTo("documents", store.id)} aria-current=${store === chosen ? "true" : undefined}>
        <span class="wrap">${store.name || store.id}</span>
        <span class="muted">${plural(store.file_counts.total, "file")}${problems(store)}</span>
      </a>`)}
    </nav>
    <div class="chosen is-optional">${chosen
      ? html`<${Collection} key=${chosen.id} store=${chosen} onChange=${onChange} />`
      : html`<p class="muted">Choose a collection to add files, see their chunks and search them.</p>`}</div>
  </div>`;
}

function problems({ file_counts: counts }) {
  const told = [counts.in_progress && `${counts.in_progress} being indexed`, counts.failed && `${counts.failed} failed`].filter(Boolean);
  return told.length ? ` · ${told.join(" · ")}` : "";
}

function NewCollection({ onMade, onClose }) {
  const [name, setName] = useState("");
  const create = useAction(async () => onMade(await call("v1/vector_stores", { method: "POST", json: { name: name.trim() } })));
  const submit = (event) => {
    event.preventDefault();
    if (name.trim()) create.run();
  };
  return html`<${Dialog} title="New collection" onClose=${onClose}>
    <form class="stack" onSubmit=${submit}>
      <label class="field">Name<input value=${name} maxlength="256" onInput=${(event) => setName(event.target.value)} /></label>
      <${ErrorNote} error=${create.error} />
      <div class="row end"><button class="primary" disabled=${create.busy || !name.trim()}>Make it</button></div>
    </form>
  <//>`;
}
