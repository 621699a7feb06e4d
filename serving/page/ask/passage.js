// A cited passage in its document, the words that the answer shares with it marked.
import { html, useEffect, useRef } from "../vendor/preact-htm.js";
import { call } from "../api.js";
import { Dialog } from "../dialog.js";
import { useLoad } from "../load.js";
import { joined, located, marked } from "./citations.js";

/**
 * @param {{passage: {filename: string, file_id: string, text: string, score?: number, index: number, said: string},
 *          question: string, storeId: string, onClose: () => void}} props
 */
export function PassageDialog({ passage, question, storeId, onClose }) {
  const { data: place } = useLoad((signal) => inDocument(passage, storeId, signal), [passage, storeId]);
  // A passage is read with its headings before it; in the document it stands below them already.
  const words = marked(place?.passage ?? passage.text, `${question} ${passage.said}`);
  return html`<${Dialog} title=${`[${passage.index}] ${passage.filename}`} wide onClose=${onClose}>
    <p class="muted">
      ${passage.score !== undefined && html`Similarity to the question ${passage.score.toFixed(2)} · `}
      ${place ? "shown in its document" : "the passage as it was read"} · words of question and answer are marked
    </p>
    <div class="document-text" tabindex="0" role="region" aria-label="Document">
      ${place?.before}<${Marked} words=${words} scroll=${Boolean(place)} />${place?.after}
    </div>
  <//>`;
}

function Marked({ words, scroll }) {
  const element = useRef(null);
  useEffect(() => {
    if (scroll) element.current.scrollIntoView({ block: "center" });
  }, [scroll]);
  return html`<span class="passage" ref=${element}>
    ${words.map((word) => (word.isMarked ? html`<mark>${word.text}</mark>` : word.text))}
  </span>`;
}

/** Where a passage stands in its file of a vector store; null where it is in none, or not any more. */
async function inDocument({ file_id: fileId, chunk_id: chunkId }, storeId, signal) {
  if (!storeId) return null;
  try {
    const file = `v1/vector_stores/${encodeURIComponent(storeId)}/files/${encodeURIComponent(fileId)}`;
    const { data: chunks } = await call(`${file}/content`, { signal });
    const chunk = chunks.find((one) => one.hamlet.chunk_id === chunkId);
    return chunk ? located(joined(chunks), chunk.text) : null;
  } catch {
    return null; // the passage itself is shown
  }
}
