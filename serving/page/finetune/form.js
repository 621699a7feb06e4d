// A new model: base, files, hyperparameters, what it will take, and the start.
import { html, useState } from "../vendor/preact-htm.js";
import { call } from "../api.js";
import { baseModels } from "../ask/ways.js";
import { useAction, useLoad } from "../load.js";
import { ErrorNote } from "../notice.js";
import { Plan } from "./plan.js";
import { TrainingFile } from "./training-file.js";

const PLAN_TIMEOUT_MS = 180_000;

const TRAINING_HINT =
  'JSONL: one chat a line, {"messages": [{"role": "user", …}, {"role": "assistant", …}]}, or one preference, ' +
  '{"input": {"messages": […]}, "preferred_output": […], "non_preferred_output": […]}';

const NUMBERS = [
  { name: "n_epochs", label: "Epochs", hint: "how often each row is shown, 1 to 50", step: "1", min: "1", max: "50" },
  { name: "batch_size", label: "Batch size", hint: "rows per step, 1 to 256", step: "1", min: "1", max: "256" },
  { name: "learning_rate_multiplier", label: "Learning rate multiplier", hint: "times the usual rate, above 0", step: "any", min: "0.01" },
];

/** @param {{onCreated: (job: any) => void}} props */
export function Form({ onCreated }) {
  const models = useLoad(async (signal) => baseModels((await call("v1/models", { signal })).data), []);
  const [model, setModel] = useState("");
  const [training, setTraining] = useState(null);
  const [validation, setValidation] = useState(null);
  const [fields, setFields] = useState({ suffix: "", seed: "" });
  const body = requestBody(model || models.data?.[0], training, validation, fields);
  const create = useAction(async () => onCreated(await call("v1/fine_tuning/jobs", { method: "POST", json: body })));
  const set = (name) => (event) => setFields({ ...fields, [name]: event.target.value });
  const submit = (event) => {
    event.preventDefault();
    if (training) create.run();
  };
  return html`<form class="card stack" onSubmit=${submit} aria-label="Create a fine-tuned model">
    <h2>Create a fine-tuned model</h2>
    <${ErrorNote} error=${models.error} retry=${models.reload} busy=${models.busy} />
    <div class="fields">
      <label class="field">Base model
        <select value=${model || models.data?.[0]} onChange=${(event) => setModel(event.target.value)}>
          ${(models.data ?? []).map((name) => html`<option value=${name}>${name}</option>`)}
        </select>
      </label>
      <label class="field">Suffix
        <input maxlength="64" placeholder="my-handbook" value=${fields.suffix} onInput=${set("suffix")} />
        <span class="hint">part of the new model's name; may be left out</span>
      </label>
    </div>
    <${TrainingFile} label="Training data" hint=${TRAINING_HINT} onReady=${setTraining} />
    <${TrainingFile} label="Validation data" onReady=${setValidation}
      hint="The same form, other rows. Optional, but only it shows whether the model learned or memorised." />
    <fieldset class="stack tight">
      <legend class="muted small-text spaced">Hyperparameters; what is empty is chosen by the number of rows</legend>
      <div class="fields">
        ${NUMBERS.map(({ name, label, hint, ...limits }) => html`<label class="field">${label}
          <input type="number" placeholder="auto" value=${fields[name] ?? ""} onInput=${set(name)} ...${limits} /><span class="hint">${hint}</span>
        </label>`)}
        <label class="field">Seed
          <input type="number" min="0" step="1" placeholder="random" value=${fields.seed} onInput=${set("seed")} /><span class="hint">the same seed, the same run</span>
        </label>
      </div>
    </fieldset>
    ${training && html`<${Forecast} body=${body} />`}
    <${ErrorNote} error=${create.error} retry=${create.run} busy=${create.busy} />
    <div class="row end">
      <span class="muted small-text grow">${training ? "" : "Training data is needed first."}</span>
      <button class="primary" disabled=${!training || create.busy}>${create.busy ? "Creating…" : "Create"}</button>
    </div>
  </form>`;
}

/** The plan for what the form says. It takes some real steps of training, so it is asked for and not made at every key. */
function Forecast({ body }) {
  const key = JSON.stringify(body);
  const [made, setMade] = useState(null);
  const work = useAction(async () => {
    const answer = await call("v1/fine_tuning/plans", { method: "POST", json: body, timeoutMs: PLAN_TIMEOUT_MS });
    setMade({ key, answer });
  });
  return html`<section class="plan stack tight" aria-label="Plan" aria-busy=${work.busy}>
    <h3>Plan</h3>
    <${ErrorNote} error=${work.error} retry=${() => work.run()} busy=${work.busy} />
    ${made?.key === key
      ? html`<${Plan} ...${made.answer} />`
      : html`<div class="row wide-gap">
          <p class="grow">What this would take: tokens, time, memory, cost. Nothing is started.</p>
          <button type="button" disabled=${work.busy} onClick=${() => work.run()}>${work.busy ? "Trying some steps…" : "Work it out"}</button>
        </div>`}
  </section>`;
}

/** The body of the request; what is empty is left out, which means `auto`. The training file tells the method. */
export function requestBody(model, training, validation, fields) {
  const numbers = NUMBERS.map(({ name }) => name).filter((name) => (fields[name] ?? "") !== "");
  const method = training?.hamlet?.task === "dpo" ? "dpo" : "supervised";
  const hyperparameters = Object.fromEntries(numbers.map((name) => [name, Number(fields[name])]));
  return {
    model,
    training_file: training?.id,
    validation_file: validation?.id,
    suffix: fields.suffix.trim() || undefined,
    seed: fields.seed === "" ? undefined : Number(fields.seed),
    method: { type: method, [method]: { hyperparameters } },
  };
}
