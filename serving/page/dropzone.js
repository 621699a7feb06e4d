// A place to drop files on, which is also a button that opens the file chooser.
import { html, useState } from "./vendor/preact-htm.js";
import { Icon } from "./icon.js";
import { createStore, useStore } from "./store.js";

/** Whether files are being dragged over the page: then each dropzone shows that it takes them. */
const isDragging = createStore(false);

// Beside a dropzone the browser would leave the page for the file, and what is written on it would be lost.
addEventListener("dragover", (event) => {
  if (!event.dataTransfer.types.includes("Files")) return;
  isDragging.update(() => true);
  if (event.defaultPrevented) return;
  event.preventDefault();
  event.dataTransfer.dropEffect = "none";
});
addEventListener("dragleave", (event) => event.relatedTarget || isDragging.update(() => false));
addEventListener("drop", () => isDragging.update(() => false));

/**
 * @param {{label: string, hint?: string, accept?: string, multiple?: boolean, disabled?: boolean,
 *          onFiles: (files: File[]) => void}} props
 */
export function Dropzone({ label, hint, accept, multiple = false, disabled = false, onFiles }) {
  const [isOver, setIsOver] = useState(false);
  const isWanted = useStore(isDragging) && !disabled;
  const take = (list) => {
    const files = Array.from(list);
    if (files.length && !disabled) onFiles(multiple ? files : files.slice(0, 1));
  };
  const over = (event) => {
    event.preventDefault();
    setIsOver(!disabled);
  };
  const drop = (event) => {
    event.preventDefault();
    setIsOver(false);
    take(event.dataTransfer.files);
  };
  const chosen = (event) => {
    take(event.target.files);
    event.target.value = ""; // so that the same file can be chosen again
  };
  return html`<label class=${`dropzone ${isOver ? "over" : isWanted ? "wanted" : ""}`} onDragOver=${over} onDragLeave=${() => setIsOver(false)} onDrop=${drop}>
    <input type="file" accept=${accept} multiple=${multiple} disabled=${disabled} onChange=${chosen} />
    <${Icon} name="upload" /><span class="grow"><strong>${label}</strong>${hint && html`<br /><span class="muted small-text">${hint}</span>`}</span>
  </label>`;
}
