// A modal dialog: the browser's own, which keeps the focus inside and closes on Escape.
import { html, useLayoutEffect, useRef } from "./vendor/preact-htm.js";
import { Icon } from "./icon.js";

/** @param {{title: string, onClose: () => void, wide?: boolean, children: any}} props */
export function Dialog({ title, onClose, wide = false, children }) {
  const element = useRef(null);
  useLayoutEffect(() => {
    element.current.showModal();
    // A form begins at its first field, not at the button that closes it.
    element.current.querySelector("input")?.focus();
    const shown = element.current;
    // Taken away while open, it would take the focus with it; closing gives it back to what opened the dialog.
    return () => shown.close();
  }, []);
  // The backdrop is the dialog itself. A press begins there: a selection that is drawn out of a field only ends there.
  const onBackdrop = (event) => event.target === element.current && element.current.close();
  return html`<dialog ref=${element} class=${wide ? "wide" : ""} aria-label=${title} onClose=${onClose} onMouseDown=${onBackdrop}>
    <div class="dialog-body">
      <header class="row">
        <h2 class="grow wrap">${title}</h2>
        <button class="plain" aria-label="Close" onClick=${() => element.current.close()}><${Icon} name="close" /></button>
      </header>
      ${children}
    </div>
  </dialog>`;
}

/**
 * A question before something that cannot be undone.
 * @param {{title: string, action: string, busy?: boolean, onYes: () => void, onClose: () => void, children: any}} props
 */
export function Confirm({ title, action, busy = false, onYes, onClose, children }) {
  return html`<${Dialog} title=${title} onClose=${onClose}>
    <div class="stack">
      ${children}
      <div class="row end">
        <button onClick=${onClose}>Keep</button>
        <button class="danger" disabled=${busy} onClick=${onYes}>${action}</button>
      </div>
    </div>
  <//>`;
}
