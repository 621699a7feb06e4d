// Verdict: comparisons on the left; a new one, or the chosen one, beside them.
import { html } from "../vendor/preact-htm.js";
import { call } from "../api.js";
import { day } from "../format.js";
import { Icon } from "../icon.js";
import { useLoad } from "../load.js";
import { Shown } from "../notice.js";
import { goTo, linkTo } from "../route.js";
import { Comparison, StatusBadge } from "./comparison.js";
import { Form } from "./form.js";

const EVERY_MS = 5000;
const NEW = "new";

export function Verdict({ route }) {
  const evaluations = useLoad(async (signal) => (await call("v1/evaluations", { signal })).data, [], { everyMs: EVERY_MS });
  const created = (evaluation) => {
    evaluations.reload();
    goTo("verdict", evaluation.id);
  };
  const isNew = !route.id || route.id === NEW;
  return html`
    <div class="row"><h1 class="grow">Verdict</h1><a class="button" href=${linkTo("verdict", NEW)}><${Icon} name="plus" />New comparison</a></div>
    <div class=${`beside ${route.id ? "has-choice" : ""}`}>
      <nav class="choices choices-column" aria-label="Comparisons">
        <${Shown} of=${evaluations} what="comparisons">${(list) => html`<${List} evaluations=${list} chosenId=${route.id} />`}<//>
      </nav>
      <div class="chosen">
        ${route.id && html`<a class="button small back" href=${linkTo("verdict")}>All comparisons</a>`}
        ${isNew ? html`<${Form} onCreated=${created} />` : html`<${Comparison} key=${route.id} id=${route.id} />`}
      </div>
    </div>
  `;
}

function List({ evaluations, chosenId }) {
  if (!evaluations.length) {
    return html`<p class="muted small-text">
      Comparisons appear here. Each asks the same questions of every way and says which answers best, with how much confidence.
    </p>`;
  }
  return evaluations.map((one) => html`<a key=${one.id} href=${linkTo("verdict", one.id)} aria-current=${one.id === chosenId ? "true" : undefined}>
    <span class="row"><span class="grow wrap">${one.name}</span><${StatusBadge} status=${one.status} /></span>
    <span class="muted wrap">${one.verdict ?? one.stage ?? ""}</span>
    <span class="muted">${day(one.created_at)}</span>
  </a>`);
}
