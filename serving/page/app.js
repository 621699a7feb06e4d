// The frame of the page: its parts, the way between them, the key and the theme.
import { html, useEffect, useErrorBoundary, useRef, useState } from "./vendor/preact-htm.js";
import { Announcer } from "./announce.js";
import { Ask } from "./ask/ask.js";
import { call } from "./api.js";
import { Cluster } from "./cluster/cluster.js";
import { Documents } from "./documents/documents.js";
import { FineTune } from "./finetune/finetune.js";
import { isFocusLost } from "./focus.js";
import { Icon } from "./icon.js";
import { KeyDialog } from "./key-dialog.js";
import { apiKey } from "./key.js";
import { useLoad } from "./load.js";
import { ErrorNote } from "./notice.js";
import { linkTo, useRoute } from "./route.js";
import { toggleTheme } from "./theme.js";
import { Verdict } from "./verdict/verdict.js";

const READY_EVERY_MS = 10_000;

const PARTS = [
  { part: "ask", name: "Ask", icon: "ask", view: Ask },
  { part: "documents", name: "Documents", icon: "documents", view: Documents },
  { part: "fine-tune", name: "Fine-tune", icon: "tune", view: FineTune },
  { part: "verdict", name: "Verdict", icon: "verdict", view: Verdict },
  { part: "cluster", name: "Cluster", icon: "cluster", view: Cluster },
];

export function App() {
  const route = useRoute();
  const shown = PARTS.find(({ part }) => part === route.part) ?? PARTS[0];
  const reader = useReader();
  const main = useFocusOnChange(shown.part, route.id);
  useEffect(() => {
    document.title = `${shown.name} · Hamlet`;
  }, [shown]);
  return html`
    <a class="skip" href="#main" onClick=${(event) => skip(event, main)}>Skip to content</a>
    <${Header} />
    <nav class="parts" aria-label="Parts">
      ${PARTS.map(({ part, name, icon }) => html`<a href=${linkTo(part)} aria-current=${part === shown.part ? "page" : undefined}>
        <${Icon} name=${icon} /><span>${name}</span>
      </a>`)}
    </nav>
    <main id="main" class="part" tabindex="-1" ref=${main} aria-label=${shown.name}>
      <${Part} key=${`${shown.part} ${reader}`} of=${shown} route=${route} />
    </main>
    <${Announcer} />
  `;
}

/** The number of the reader: whoever comes with another key finds no form of the one before. */
function useReader() {
  const [reader, setReader] = useState(1);
  useEffect(() => {
    const next = () => setReader((number) => number + 1);
    addEventListener("readerchange", next);
    return () => removeEventListener("readerchange", next);
  }, []);
  return reader;
}

/** A part. What fails while it is drawn is told in its place, and leaves the way to the others. */
function Part({ of: { name, view: View }, route }) {
  const [error, forget] = useErrorBoundary();
  if (!error) return html`<${View} route=${route} />`;
  return html`<h1>${name}</h1><${ErrorNote} error=${new Error(`This cannot be shown: ${error.message}`)} retry=${forget} />`;
}

function Header() {
  const [asksKey, setAsksKey] = useState(false);
  return html`<header class="bar">
    <a class="wordmark" href=${linkTo("ask")}>Hamlet</a>
    <${Readiness} />
    <span class="grow"></span>
    <a class="button plain narrow-hidden" href="docs" target="_blank" rel="noopener">API <${Icon} name="out" /></a>
    <button class="plain" aria-label="API key" title="API key" onClick=${() => setAsksKey(true)}>
      <${Icon} name="key" />${apiKey() && html`<span class="dot good"></span>`}
    </button>
    <button class="plain" aria-label="Light or dark" title="Light or dark" onClick=${toggleTheme}><${Icon} name="theme" /></button>
    ${asksKey && html`<${KeyDialog} onClose=${() => setAsksKey(false)} />`}
  </header>`;
}

/** Whether the service is ready, in a word that leads to where it is told in full. */
function Readiness() {
  const { data, error } = useLoad(readiness, [], { everyMs: READY_EVERY_MS });
  const [tone, word] = error ? ["bad", "no answer"] : data === null ? ["", "…"] : data;
  return html`<a class="readiness" href=${linkTo("cluster")} aria-label=${`Service: ${word}`}>
    <span class=${`dot ${tone}`}></span>${word}
  </a>`;
}

async function readiness(signal) {
  try {
    await call("readyz", { signal, timeoutMs: 8000 });
    return ["good", "ready"];
  } catch (error) {
    if (error.status === 503) return ["warn", "not ready"];
    throw error;
  }
}

/**
 * A ref that takes the focus when another part is shown, so that a keyboard goes on where the eye does. For another id
 * too where the link that was followed is gone: a narrow screen shows the list, or what was chosen in it.
 */
function useFocusOnChange(part, id) {
  const element = useRef(null);
  const before = useRef({ part, id });
  useEffect(() => {
    const isElsewhere = before.current.part !== part || (before.current.id !== id && isFocusLost());
    before.current = { part, id };
    if (!isElsewhere) return;
    element.current.focus({ preventScroll: true });
    scrollTo(0, 0);
  }, [part, id]);
  return element;
}

function skip(event, main) {
  event.preventDefault();
  main.current.focus();
}
