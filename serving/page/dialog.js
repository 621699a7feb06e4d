// A modal dialog: the browser's own, which keeps the focus inside and closes on Escape.
import { html, useEffect, useRef } from "./vendor/preact-htm.js";
import { Icon } from "./icon.js";

/** @param {{title: string, onClose: () => void, wide?: boolean, children: any}} props */
export function Dialog({ title, onClose, wide = false, children }) {
  const element = useRef(null);
  useEffect(() => {
    element.current.showModal();
    // A form begins at its first field, not at the button that closes it.
    element.current.querySelector("input")?.focus();
  }, []);
  // A click on the backdrop has the dialog itself as its target.
  const onBackdrop = (event) => event.target === element.current && element.current.close();
  return html`<dialog ref=${element} class=${wide ? "wide" : ""} aria-label=${title} onClose=${onClose} onClick=${onBackdrop}>
    <div class="dialog-body">
      <header class="row">
        <h2 class="grow wrap">${title}</h2>
        <button class="plain" aria-label="Close" onClick=${() => element.current.close()}><${Icon} name="close" /></button>
      </header>
      ${children}
    </div>
  </dialog>`;
}

/** A question before something that cannot be undone. */
export function Confirm({ title, children, action, onYes, onClose }) {
  return html`<${Dialog} title=${title} onClose=${onClose}>
    <div class="stack">
      ${children}
      <div class="row end">
        <button onClick=${onClose}>Keep</button>
        <button class="danger" onClick=${onYes}>${action}</button>
      </div>
    </div>
  <//>`;
}
