// Where a question is written, and the ways chosen that answer it.
import { html, useEffect, useRef, useState } from "../vendor/preact-htm.js";
import { plural } from "../format.js";
import { Icon } from "../icon.js";
import { choose } from "./choice.js";
import { ask, isRunning, stopAll } from "./conversation.js";
import { readFunctions } from "./functions.js";
import { KINDS, tunedModels, usualWays, wayOf } from "./ways.js";

/**
 * @param {{models: any[], ways: import("./ways.js").Way[], choice: import("./choice.js").Choice,
 *          stores: any[], isBusy: boolean, isReady: boolean}} props `isReady`: the models are known
 */
export function Composer({ models, ways, choice, stores, isBusy, isReady }) {
  const [question, setQuestion] = useState("");
  const form = useRef(null);
  const asked = ways.filter((way) => !choice.off.includes(way.model));
  // Before the models are known, `auto` alone would be asked.
  const canSend = isReady && question.trim() && asked.length > 0 && !isBusy;
  const send = (event) => {
    event.preventDefault();
    if (!canSend || !isSound(form.current)) return;
    ask(question.trim(), asked, choice);
    setQuestion("");
  };
  const onKey = (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) send(event);
    if (event.key === "Escape") stopAll();
  };
  return html`<form class="composer" ref=${form} noValidate onSubmit=${send}>
    <fieldset class="ways">
      <legend class="unseen">Ways to answer</legend>
      ${ways.map((way) => html`<${WayToggle} key=${way.model} way=${way} choice=${choice} />`)}
    </fieldset>
    <div class="row question">
      <label class="unseen" for="question">Question</label>
      <textarea id="question" rows="2" placeholder="Ask a question. Enter sends it to every way that is on." value=${question}
        onInput=${(event) => setQuestion(event.target.value)} onKeyDown=${onKey}></textarea>
      ${isBusy
        ? html`<button type="button" onClick=${stopAll}><${Icon} name="stop" />Stop all</button>`
        : html`<button class="primary" disabled=${!canSend}><${Icon} name="send" />Ask</button>`}
    </div>
    <${Options} models=${models} choice=${choice} stores=${stores} />
  </form>`;
}

/** Whether every option can be sent; if not, the first that cannot is shown, which may be folded away. */
function isSound(form) {
  if (form.checkValidity()) return true;
  form.querySelector("details").open = true;
  return form.reportValidity();
}

function WayToggle({ way, choice }) {
  const isOn = !choice.off.includes(way.model);
  const isExtra = choice.extra.some((extra) => extra.model === way.model);
  const toggle = () => choose({ off: isOn ? [...choice.off, way.model] : choice.off.filter((model) => model !== way.model) });
  const remove = () => choose({ extra: choice.extra.filter((extra) => extra.model !== way.model) });
  return html`<span class="way">
    <label class="chip" title=${KINDS[way.kind]}><input type="checkbox" checked=${isOn} onChange=${toggle} />${way.label}</label>
    ${isExtra && html`<button type="button" class="small plain" aria-label=${`Remove ${way.model}`} onClick=${remove}><${Icon} name="close" /></button>`}
  </span>`;
}

function Options({ models, choice, stores }) {
  const tuned = tunedModels(models);
  const number = (name) => (event) => event.target.value !== "" && choose({ [name]: Number(event.target.value) });
  return html`<details class="options">
    <summary>${["Models and options", ...chosen(choice, stores)].join(" · ")}</summary>
    <div class="fields">
      <label class="field">Tuned model
        <select value=${choice.tuned || tuned[0]} disabled=${!tuned.length} onChange=${(e) => choose({ tuned: e.target.value })}>
          ${tuned.length ? tuned.map((name) => html`<option value=${name}>${name}</option>`) : html`<option>none yet</option>`}
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
      <${Functions} choice=${choice} />
      <div class="whole"><label class="chip" title="Further questions to auto go the way of its answer before, without deciding anew">
        <input type="checkbox" checked=${choice.keepRoute} onChange=${(e) => choose({ keepRoute: e.target.checked })} />Keep the route of auto for this conversation
      </label></div>
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
  const generators = [...models.filter((model) => model.kind === "generator" && !model.base_model).map((model) => model.id), ...tuned];
  const add = (event) => {
    const name = event.target.value;
    event.target.value = "";
    const way = wayOf(name, tuned.includes(name.replace(/\+rag$/, "")));
    if (name && !choice.extra.some((extra) => extra.model === name)) choose({ extra: [...choice.extra, way] });
  };
  return html`<label class="field">Ask one more
    <select value="" onChange=${add}>
      <option value="">choose a model…</option>
      ${generators.flatMap((name) => [name, `${name}+rag`]).map((name) => html`<option value=${name}>${name}</option>`)}
    </select>
  </label>`;
}

/** The ways that are offered: the usual ones for the chosen tuned model, then those that were added. */
export function offeredWays(models, base, choice) {
  const tuned = tunedModels(models);
  // A checkpoint to be tried need not be in the list of models.
  const usual = usualWays(base, choice.tuned || tuned[0] || "");
  return [...usual, ...choice.extra.filter((extra) => !usual.some((way) => way.model === extra.model))];
}

export function anyRunning(turns) {
  return turns.some((turn) => turn.answers.some(isRunning));
}
