// Where the API key is entered.
import { html, useState } from "./vendor/preact-htm.js";
import { Dialog } from "./dialog.js";
import { apiKey, setApiKey } from "./key.js";

export function KeyDialog({ onClose }) {
  const [key, setKey] = useState(apiKey());
  const save = (event) => {
    event.preventDefault();
    setApiKey(key.trim());
    onClose();
  };
  return html`<${Dialog} title="API key" onClose=${onClose}>
    <form class="stack" onSubmit=${save}>
      <p class="muted">Needed where the service asks for keys. It stays in this tab and is forgotten when the tab closes.
        Make one with <code>python -m cluster keys create</code>.</p>
      <label class="field">Key
        <input type="password" pattern="\\s*[!-~]*\\s*" title="A key has letters, digits and signs of ASCII, and no space in it." autocomplete="off" spellcheck="false" value=${key} onInput=${(e) => setKey(e.target.value)} />
      </label>
      <div class="row end">
        <button type="button" onClick=${() => setKey("")}>Clear</button>
        <button class="primary">Use</button>
      </div>
    </form>
  <//>`;
}
