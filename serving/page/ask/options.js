// What can be chosen for a question beside its ways: models, where answers are looked up, length, functions, the route.
import { html, useEffect, useRef, useState } from "../vendor/preact-htm.js";
import { plural } from "../format.js";
import { choose } from "./choice.js";
import { readFunctions } from "./functions.js";
import { baseModels, tunedModels, wayOf } from "./ways.js";

/** @param {{models: any[], choice: import("./choice.js").Choice, stores: any[]}} props */
export function Options({ models, choice, stores }) {
  const tuned = tunedModels(models);
  // What was chosen may be a checkpoint, or deleted since.
  const offered = [...new Set([choice.tuned, ...tuned])].filter(Boolean);
  const number = (name) => (event) => event.target.value !== "" && choose({ [name]: Number(event.target.value) });
  return html`<details class="options">
    <summary>${["Models and options", ...chosen(choice, stores)].join(" · ")}</summary>
    <div class="fields">
      <label class="field">Tuned model
        <select value=${choice.tuned} onChange=${(e) => choose({ tuned: e.target.value })}>
          <option value="">${tuned.length ? `${tuned[0]}, the first` : "none yet"}</option>
          ${offered.map((name) => html`<option value=${name}>${name}</option>`)}
        </select>
      </label>
      <${ExtraWay} models=${models} choice=${choice} />
      <label class="field">Collection
        <input list="stores" placeholder="the service's default" value=${choice.collection} onChange=${(e) => choose({ collection: e.target.value.trim() })} />
        <datalist id="stores">${stores.map((store) => html`<option value=${store.id}>${store.name}</option>`)}</datalist>
      </label>
      <label class="field">Answer length in tokens
        <input type="number" min="1" max="4096" required value=${choice.maxTokens} onChange=${number("maxTokens")} />
      </label>
      <label class="field">Temperature
        <input type="number" min="0" max="2" step="0.1" required value=${choice.temperature} onChange=${number("temperature")} />
      </label>
      <label class="field">Machine's price, $ per hour
        <input type="number" min="0" step="0.01" required value=${choice.pricePerHour} onChange=${number("pricePerHour")} />
      </label>
      <div class="whole"><label class="chip" title="Further questions to auto go the way of its answer before, without deciding anew">
        <input type="checkbox" checked=${choice.keepRoute} onChange=${(e) => choose({ keepRoute: e.target.checked })} />Keep the route of auto for this conversation
      </label></div>
      <${Functions} choice=${choice} />
    </div>
  </details>`;
}

/** What is chosen beyond the usual, told while the options are folded away. */
function chosen({ collection, functions, keepRoute }, stores) {
  const { tools, fault } = readFunctions(functions);
  const found = [stores.find((store) => store.id === collection)?.name || collection, tools.length && plural(tools.length, "function")];
  return [...found, fault && "functions to be corrected", keepRoute && "route kept"].filter(Boolean);
}

function Functions({ choice }) {
  const field = useRef(null);
  const { fault } = readFunctions(choice.functions);
  useEffect(() => field.current.setCustomValidity(fault), [fault]);
  return html`<div class="field whole">
    <label for="functions">Functions that may be called</label>
    <textarea id="functions" class="code" rows="3" spellcheck="false" ref=${field} value=${choice.functions} aria-invalid=${fault !== ""} aria-describedby="functions-told"
      placeholder=${FUNCTIONS_FORM} onInput=${(event) => choose({ functions: event.target.value })}></textarea>
    <p id="functions-told" class=${fault ? "bad-text wrap" : "hint"}>${fault || FUNCTIONS_HINT}</p>
  </div>`;
}

const FUNCTIONS_FORM = '[{"type": "function", "function": {"name": "get_weather", "description": "…", "parameters": {"type": "object", …}}}]';
const FUNCTIONS_HINT = "JSON in OpenAI's form. Their results are typed in at the answer. A way that reads a vector store is asked without them.";

/** Any model of the registry as one way more. */
function ExtraWay({ models, choice }) {
  const tuned = tunedModels(models);
  const [name, setName] = useState("");
  const generators = [...baseModels(models), ...tuned];
  const add = () => {
    const way = wayOf(name, tuned.includes(name.replace(/\+rag$/, "")));
    // It is asked, whatever was chosen of it before.
    const off = choice.off.filter((model) => model !== name);
    choose({ extra: [...choice.extra.filter((extra) => extra.model !== name), way], off });
    setName("");
  };
  // With a button: the arrow keys that walk through a closed list choose what they pass.
  return html`<div class="field" role="group" aria-label="One more way"><label for="extra">Ask one more</label>
    <div class="row">
      <select id="extra" value=${name} onChange=${(event) => setName(event.target.value)}>
        <option value="">choose a model…</option>
        ${generators.flatMap((model) => [model, `${model}+rag`]).map((model) => html`<option value=${model}>${model}</option>`)}
      </select>
      <button type="button" disabled=${!name} onClick=${add}>Add</button>
    </div>
  </div>`;
}
