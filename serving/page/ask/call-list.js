// Calls of functions as they are shown: always text, with a field for each result that is still awaited.
import { html } from "../vendor/preact-htm.js";
import { stepsBefore } from "./calls.js";
import { goOn, typeResult } from "./conversation.js";

/** What was called before this answer, with the results that were given. */
export function CallsBefore({ answer }) {
  return stepsBefore(answer.request.messages).map(({ text, calls }) => html`
    ${text && html`<p class="wrap">${text}</p>`}
    <ul class="calls" aria-label="Calls before">${calls.map((call) => html`<li key=${call.id}>
      <${Call} of=${call} />
      <p class="call-result">${call.result}</p>
    </li>`)}</ul>
  `);
}

/** The calls of an answer that does not wait for results: it is being written, was stopped, or was cut. */
export function Calls({ calls }) {
  return html`<ul class="calls" aria-label="Calls">${calls.map((call) => html`<li key=${call.id}><${Call} of=${call} /></li>`)}</ul>`;
}

/** The calls of an answer, each with a field for its result. */
export function ResultForm({ turnId, answer }) {
  const submit = (event) => {
    event.preventDefault();
    goOn(turnId, answer);
  };
  return html`<form class="stack tight" onSubmit=${submit}>
    <ul class="calls" aria-label="Calls">${answer.calls.map((call) => html`<li key=${call.id}>
      <${Call} of=${call} />
      <label class="field">Result of ${call.name}
        <textarea rows="2" required spellcheck="false" value=${call.result}
          onInput=${(event) => typeResult(turnId, answer, call.id, event.target.value)}></textarea>
      </label>
    </li>`)}</ul>
    <div class="row"><p class="muted small-text grow">Nothing is called from here: say what the function would return.</p>
      <button class="primary small">Go on</button></div>
  </form>`;
}

function Call({ of: call }) {
  return html`<pre class="call"><code><b>${call.name}</b> ${call.arguments}</code></pre>`;
}
