// Where a question is written, and the ways chosen that answer it.
import { html, useRef } from "../vendor/preact-htm.js";
import { Icon } from "../icon.js";
import { createStore, useStore } from "../store.js";
import { isRunning } from "./answer.js";
import { choose } from "./choice.js";
import { ask, stopAll } from "./conversation.js";
import { Options } from "./options.js";
import { KINDS, tunedModels, usualWays } from "./ways.js";

/** The question that is being written; it outlives a look at another part. */
const draft = createStore("");
addEventListener("readerchange", () => draft.update(() => ""));

/**
 * @param {{models: any[], ways: import("./ways.js").Way[], choice: import("./choice.js").Choice,
 *          stores: any[], isBusy: boolean, isReady: boolean}} props `isReady`: the models are known
 */
export function Composer({ models, ways, choice, stores, isBusy, isReady }) {
  const question = useStore(draft);
  const form = useRef(null);
  const asked = ways.filter((way) => !choice.off.includes(way.model));
  // Before the models are known, `auto` alone would be asked.
  const canSend = isReady && question.trim() && asked.length > 0 && !isBusy;
  const send = (event) => {
    event.preventDefault();
    if (!canSend || !isSound(form.current)) return;
    ask(question.trim(), asked, choice);
    draft.update(() => "");
  };
  const onKey = (event) => {
    if (isComposing(event)) return;
    if (event.key === "Enter" && !event.shiftKey) send(event);
    if (event.key === "Escape") stopAll();
  };
  return html`<form class="composer" aria-label="Composer" ref=${form} noValidate onSubmit=${send}>
    <fieldset class="ways">
      <legend class="unseen">Ways to answer</legend>
      ${ways.map((way) => html`<${WayToggle} key=${way.model} way=${way} choice=${choice} />`)}
    </fieldset>
    <div class="row question">
      <label class="unseen" for="question">Question</label>
      <textarea id="question" rows="2" placeholder="Ask a question. Enter sends it to every way that is on." value=${question}
        onInput=${(event) => draft.update(() => event.target.value)} onKeyDown=${onKey}></textarea>
      ${isBusy
        ? html`<button type="button" onClick=${(event) => isSecondClick(event) || stopAll()}><${Icon} name="stop" />Stop all</button>`
        : html`<button class="primary" disabled=${!canSend}><${Icon} name="send" />Ask</button>`}
    </div>
    <${Options} models=${models} choice=${choice} stores=${stores} />
  </form>`;
}

/** Whether a key belongs to an input method. In Safari the Enter that ends a composition comes after it, as key 229. */
function isComposing(event) {
  return event.isComposing || event.keyCode === 229;
}

/** Whether a click ends a double click: the first of it asked, and "Stop all" has taken the button's place since. */
function isSecondClick(event) {
  return event.detail > 1;
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
