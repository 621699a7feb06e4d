// The keyboard's place: what has the focus may be taken away, or be disabled while its work is done.

/** Whether nothing that can be used has the focus. */
export function isFocusLost() {
  const { activeElement, body } = document;
  return activeElement === body || activeElement.disabled || !activeElement.checkVisibility();
}

/**
 * Let what stands around a lost element have the focus, so that a keyboard goes on from there, and a screen reader
 * says where that is. What was only disabled has it again when it can be used.
 * @param {HTMLElement} root
 */
export function keepFocus(root) {
  let focused = null;
  let around = [];
  let place = null; // has the focus in place of `focused`
  root.addEventListener("focusin", ({ target }) => {
    if (target === place) return;
    focused = target;
    around = namedAround(target);
    place = null;
  });
  const look = () => {
    const isUsable = focused?.isConnected && !focused.disabled;
    if (isUsable && place && document.activeElement === place) focused.focus({ preventScroll: true });
    if (!focused || isUsable || !isFocusLost()) return;
    place = around.find((element) => element.isConnected) ?? root;
    if (place.tabIndex < 0) place.tabIndex = -1;
    place.focus({ preventScroll: true });
  };
  new MutationObserver(look).observe(root, { subtree: true, childList: true, attributeFilter: ["disabled"] });
}

/** What has a name and holds an element, from the inside out. An element that is taken away forgets where it was. */
function namedAround(element) {
  const named = element.parentElement?.closest("[aria-label], fieldset");
  return named ? [named, ...namedAround(named)] : [];
}
