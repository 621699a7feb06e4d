// A training or validation file: chosen, sent, and checked at once.
import { html, useEffect, useRef, useState } from "../vendor/preact-htm.js";
import { announce } from "../announce.js";
import { upload } from "../api.js";
import { Dropzone } from "../dropzone.js";
import { bytes, count, plural } from "../format.js";
import { Icon } from "../icon.js";
import { ErrorNote } from "../notice.js";
import { Faults } from "./faults.js";

/**
 * @param {{label: string, hint: string, onReady: (fileObject: any | null) => void}} props
 *   `onReady` gets the file object when the file is good, and null when there is none
 */
export function TrainingFile({ label, hint, onReady }) {
  const [file, setFile] = useState(null);
  const [share, setShare] = useState(0);
  const [taken, setTaken] = useState(null);
  const [error, setError] = useState(null);
  const sending = useRef(null);
  // A file on its way is of no use to a form that is gone.
  useEffect(() => () => sending.current?.abort(), []);

  /** Show this file, or none, and forget the one before, which may still be on its way. */
  function show(chosen) {
    sending.current?.abort();
    sending.current = new AbortController();
    setFile(chosen);
    setTaken(null);
    setError(null);
    setShare(0);
    onReady(null);
    return sending.current.signal;
  }
  async function send(chosen) {
    const signal = show(chosen);
    try {
      const answer = await upload(chosen, "fine-tune", setShare, signal);
      if (signal.aborted) return;
      setTaken(answer);
      onReady(answer);
      announce(`${chosen.name} is good`);
    } catch (failure) {
      if (signal.aborted) return;
      setError(failure);
      announce(`${chosen.name}: ${failure.message}`);
    }
  }
  const report = error?.body?.error?.hamlet;
  return html`<div class="stack tight" role="group" aria-label="File">
    ${file && !error
      ? html`<${Chosen} file=${file} share=${share} taken=${taken} label=${label} onDrop=${() => show(null)} />`
      : html`<${Dropzone} label=${file ? `${label}: choose it again` : label} hint=${hint} accept=".jsonl,.json" onFiles=${([chosen]) => send(chosen)} />`}
    ${report?.errors
      ? html`<${Faults} file=${file} faults=${report.errors} total=${report.num_errors} />`
      : html`<${ErrorNote} error=${error} retry=${() => send(file)} />`}
    ${taken?.hamlet?.warnings?.length > 0 && html`<${Faults} file=${file} faults=${taken.hamlet.warnings} tone="warn" />`}
  </div>`;
}

function Chosen({ file, share, taken, label, onDrop }) {
  return html`<div class="chosen-file">
    <div class="row">
      <span class="grow wrap">
        <span class="muted small-text">${label}</span><br /><strong>${file.name}</strong> <span class="muted small-text">${bytes(file.size)}</span>
      </span>
      <${Outcome} taken=${taken} share=${share} />
      <button type="button" class="small plain" aria-label=${`Take ${file.name} away`} onClick=${onDrop}><${Icon} name="close" /></button>
    </div>
    ${!taken && html`<progress max="1" value=${share} aria-label=${`Sending ${file.name}`}></progress>`}
    ${taken?.hamlet?.statistics && html`<${Statistics} of=${taken.hamlet.statistics} />`}
  </div>`;
}

function Outcome({ taken, share }) {
  if (!taken) return html`<span class="badge busy">${share < 1 ? "is sent" : "is checked"}</span>`;
  const { rows } = taken.hamlet ?? {};
  return html`<span class="badge good">good${rows ? `, ${plural(rows, "row")}` : ""}</span>`;
}

/** Plain numbers of the report; what is nested is left to the API. */
function Statistics({ of }) {
  const numbers = Object.entries(of).filter(([, value]) => typeof value === "number");
  if (!numbers.length) return null;
  return html`<p class="muted small-text">${numbers.map(([name, value]) => `${name.replaceAll("_", " ")} ${count(Math.round(value))}`).join(" · ")}</p>`;
}
