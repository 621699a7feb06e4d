// The files of a collection: what became of each, its chunks, and taking it away.
import { html, useState } from "../vendor/preact-htm.js";
import { MOST_LISTED, call, callAll } from "../api.js";
import { Confirm, Dialog } from "../dialog.js";
import { bytes, count, day, plural } from "../format.js";
import { Icon } from "../icon.js";
import { useAction, useLoad } from "../load.js";
import { ErrorNote, Shown } from "../notice.js";

const TONES = { completed: "good", in_progress: "busy", failed: "bad", cancelled: "warn" };

/** @param {{store: any, files: any[], onChange: () => void}} props */
export function Files({ store: { id: storeId, file_counts: counts }, files, onChange }) {
  const [read, setRead] = useState(null);
  const [doomed, setDoomed] = useState(null);
  const remove = useAction(async (file) => {
    await call(`v1/vector_stores/${storeId}/files/${file.id}`, { method: "DELETE" });
    onChange();
  });
  if (!files.length) return html`<p class="muted">No files yet. Text, Markdown, HTML, PDF, Word, PowerPoint, Excel, CSV, JSON and source code are read.</p>`;
  return html`
    <${ErrorNote} error=${remove.error} />
    <div class="scroll-x" tabindex="0" role="region" aria-label="Files table"><table>
      <thead><tr><th>File</th><th>Status</th><th class="number">Size</th><th>Added</th><th><span class="unseen">Actions</span></th></tr></thead>
      <tbody>${files.map((file) => html`<tr key=${file.id}>
        <td class="wrap">${file.filename}${file.last_error && html`<p class="small-text bad-text wrap">${file.last_error.message}</p>`}</td>
        <td><span class=${`badge ${TONES[file.status] ?? ""}`}>${file.status.replace("_", " ")}</span></td>
        <td class="number small-text">${file.usage_bytes ? bytes(file.usage_bytes) : "–"}</td>
        <td class="small-text">${day(file.created_at)}</td>
        <td class="number">
          <button class="small plain" aria-label=${`Chunks of ${file.filename}`} disabled=${file.status !== "completed"} onClick=${() => setRead(file)}>Chunks</button>
          <button class="small plain" aria-label=${`Delete ${file.filename}`} title="Delete" onClick=${() => setDoomed(file)}><${Icon} name="trash" /></button>
        </td>
      </tr>`)}</tbody>
    </table></div>
    ${files.length === MOST_LISTED && counts.total > MOST_LISTED && html`<p class="muted small-text">The newest ${count(files.length)} of ${count(counts.total)} files.</p>`}
    ${read && html`<${Chunks} storeId=${storeId} file=${read} onClose=${() => setRead(null)} />`}
    ${doomed && html`<${Confirm} title="Remove this file?" action="Remove" onClose=${() => setDoomed(null)}
      onYes=${() => { remove.run(doomed); setDoomed(null); }}>
      <p class="wrap">${doomed.filename} leaves the collection with all its chunks; answers no longer cite it.</p>
    <//>`}
  `;
}

function Chunks({ storeId, file, onClose }) {
  const content = useLoad(async (signal) => (await call(`v1/vector_stores/${storeId}/files/${file.id}/content`, { signal })).data, [file.id]);
  return html`<${Dialog} title=${file.filename} wide onClose=${onClose}>
    <${Shown} of=${content} what="chunks">${(chunks) => html`
      <p class="muted">${plural(chunks.length, "chunk")}, as they are searched and cited.</p>
      <div class="chunks" tabindex="0" role="region" aria-label="Chunks"><ol>${chunks.map((chunk, index) => html`<li>
        <span class="muted small-text">${[index + 1, ...(chunk.hamlet?.headings ?? [])].join(" › ")}</span>
        <p class="hit-text">${chunk.text}</p>
      </li>`)}</ol></div>
    `}<//>
  <//>`;
}

/** The files of a collection with their names. */
export async function loadFiles(storeId, signal) {
  const files = await callAll(`v1/vector_stores/${storeId}/files`, { signal });
  return files.map((file) => ({ ...file, filename: file.hamlet?.filename ?? file.id }));
}
