// What is wrong with a training file, each fault beside its line.
import { html, useEffect, useState } from "../vendor/preact-htm.js";
import { plural } from "../format.js";

const MOST_SHOWN = 100;
// A line is shown from some characters before the fault on, and not whole: it may be long.
const BEFORE = 60;
const AFTER = 160;
// Larger files are not read a second time for their lines; faults are then shown by number.
const MOST_READ_BYTES = 32 * 1024 * 1024;

/**
 * @typedef {{line: number | null, column: number | null, message_index: number | null, reason: string, remedy?: string}} Fault
 * @param {{file: File, faults: Fault[], total?: number, tone?: "bad" | "warn"}} props
 */
export function Faults({ file, faults, total = faults.length, tone = "bad" }) {
  const [lines, setLines] = useState([]);
  useEffect(() => {
    let isCurrent = true;
    const show = (text) => isCurrent && setLines(text.split("\n"));
    if (file.size <= MOST_READ_BYTES) file.text().then(show, () => {});
    return () => (isCurrent = false);
  }, [file]);
  const what = tone === "bad" ? "fault" : "warning";
  return html`<section class="stack tight" aria-label=${`${what}s of ${file.name}`}>
    <p class=${tone === "bad" ? "bad-text" : "muted"}>
      ${plural(total, what)}${tone === "bad" && ". Correct them and choose the file again; nothing was started."}
    </p>
    <div class="faults" tabindex="0" role="region" aria-label="Lines"><ol>${faults.slice(0, MOST_SHOWN).map((fault, index) => html`<li key=${index}>
      <span class="line-number">${fault.line ?? "–"}</span>
      <div class="grow">
        <${Line} text=${lines[fault.line - 1]} column=${fault.column} />
        <p class="wrap"><strong>${place(fault)}${fault.reason}</strong>${fault.remedy && html` <span class="muted">${fault.remedy}</span>`}</p>
      </div>
    </li>`)}</ol></div>
    ${total > MOST_SHOWN && html`<p class="muted small-text">The first ${MOST_SHOWN} are shown.</p>`}
  </section>`;
}

function place({ column, message_index: message }) {
  const told = [message !== null && message !== undefined && `message ${message}`, column && `column ${column}`].filter(Boolean);
  return told.length ? `${told.join(", ")}: ` : "";
}

function Line({ text, column }) {
  if (text === undefined) return null;
  const at = Math.min((column ?? 1) - 1, text.length);
  const from = Math.max(0, at - BEFORE);
  const cut = (left, right) => html`${left}<mark>${text.slice(at, at + 1) || " "}</mark>${right}`;
  const body = column
    ? cut(text.slice(from, at), text.slice(at + 1, at + AFTER))
    : text.slice(0, AFTER);
  return html`<pre class="line"><code>${from > 0 && "…"}${body}${text.length > at + AFTER && "…"}</code></pre>`;
}
