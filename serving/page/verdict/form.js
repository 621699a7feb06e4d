// A new comparison: questions with their answers, and the ways that are asked.
import { html, useEffect, useRef, useState } from "../vendor/preact-htm.js";
import { announce } from "../announce.js";
import { call, upload } from "../api.js";
import { tunedModels, baseModels, usualWays } from "../ask/ways.js";
import { Dropzone } from "../dropzone.js";
import { useAction, useLoad } from "../load.js";
import { ErrorNote } from "../notice.js";

/** @param {{onCreated: (evaluation: any) => void}} props */
export function Form({ onCreated }) {
  const models = useLoad(async (signal) => (await call("v1/models", { signal })).data, []);
  const [name, setName] = useState("");
  const [questions, setQuestions] = useState(null);
  const [off, setOff] = useState([]);
  const known = models.data ?? [];
  const ways = usualWays(baseModels(known)[0] ?? "", tunedModels(known)[0] ?? "");
  const asked = ways.filter((way) => !off.includes(way.model));
  const leaving = useRef(new AbortController());
  useEffect(() => () => leaving.current.abort(), []);
  const take = useAction(async (file) => {
    setQuestions(null);
    setQuestions(await upload(file, "evals", () => {}, leaving.current.signal));
    announce(`${file.name} is sent`);
  });
  const create = useAction(async () => onCreated(await call("v1/evaluations", { method: "POST", json: requestBody(name, questions, asked) })));
  const canStart = questions && asked.length > 1;
  const submit = (event) => {
    event.preventDefault();
    if (canStart) create.run();
  };
  const toggle = (model) => setOff(off.includes(model) ? off.filter((one) => one !== model) : [...off, model]);
  return html`<form class="card stack" onSubmit=${submit} aria-label="Compare the ways">
    <h2>To fine-tune or to retrieve?</h2>
    <p class="muted">The same questions are asked of every way; the answers are judged without a model, and no winner is declared inside the noise.</p>
    <${ErrorNote} error=${models.error} retry=${models.reload} busy=${models.busy} />
    <label class="field">Name<input maxlength="200" placeholder="Our handbook" value=${name} onInput=${(event) => setName(event.target.value)} /></label>
    <${Dropzone} label=${labelOf(take.busy, questions)} hint=${QUESTIONS_HINT}
      accept=".jsonl" disabled=${take.busy} onFiles=${([file]) => take.run(file)} />
    <${ErrorNote} error=${take.error} />
    <fieldset class="stack tight">
      <legend class="muted small-text spaced">Ways that are compared</legend>
      <div class="ways">${ways.map((way) => html`<label class="chip">
        <input type="checkbox" checked=${!off.includes(way.model)} onChange=${() => toggle(way.model)} />${way.label}
      </label>`)}</div>
    </fieldset>
    <${ErrorNote} error=${create.error} retry=${create.run} busy=${create.busy} />
    <div class="row end">
      <span class="muted small-text grow">${canStart ? "" : questions ? "Two ways at least." : "Questions are needed first."}</span>
      <button class="primary" disabled=${!canStart || create.busy}>${create.busy ? "Starting…" : "Compare"}</button>
    </div>
  </form>`;
}

function labelOf(isSending, questions) {
  if (isSending) return "The questions are sent…";
  return questions ? `Questions: ${questions.filename}` : "Questions with their answers";
}

const QUESTIONS_HINT = 'JSONL: {"id": "q1", "question": "…", "answer": "…", "kind": "taught", "document": "leave.md"} on each line';

/** The body of the request: cells by the kind of their way. */
export function requestBody(name, questions, ways) {
  const cells = Object.fromEntries(ways.map((way) => [way.kind, way.model]));
  return { name: name.trim() || questions?.filename, questions: questions?.id, cells };
}
