// Fine-tune: jobs on the left; a new one, or the chosen one, beside them.
import { html } from "../vendor/preact-htm.js";
import { callAll } from "../api.js";
import { day, plural } from "../format.js";
import { Icon } from "../icon.js";
import { useLoad } from "../load.js";
import { Shown } from "../notice.js";
import { goTo, linkTo } from "../route.js";
import { Form } from "./form.js";
import { Job } from "./job.js";
import { StatusBadge, isActive } from "./status.js";

const EVERY_MS = 5000;
const NEW = "new";

export function FineTune({ route }) {
  const jobs = useLoad((signal) => callAll("v1/fine_tuning/jobs", { signal, most: 200 }), [], { everyMs: EVERY_MS });
  const created = (job) => {
    jobs.reload();
    goTo("fine-tune", job.id);
  };
  const isNew = !route.id || route.id === NEW;
  return html`
    <div class="row"><h1 class="grow">Fine-tune</h1><a class="button" href=${linkTo("fine-tune", NEW)}><${Icon} name="plus" />New model</a></div>
    <div class=${`beside ${route.id ? "has-choice" : ""}`}>
      <nav class="choices choices-column" aria-label="Jobs">
        <${Shown} of=${jobs} what="jobs">${(list) => html`<${List} jobs=${list} chosenId=${route.id} />`}<//>
      </nav>
      <div class="chosen">
        ${route.id && html`<a class="button small back" href=${linkTo("fine-tune")}>All jobs</a>`}
        ${isNew ? html`<${Form} onCreated=${created} />` : html`<${Job} key=${route.id} id=${route.id} onChange=${jobs.reload} />`}
      </div>
    </div>
  `;
}

function List({ jobs, chosenId }) {
  if (!jobs.length) {
    return html`<p class="muted small-text">Jobs appear here. A job takes a base model and a file of chats, and makes a model of your own.</p>`;
  }
  const numActive = jobs.filter(isActive).length;
  return html`
    <p class="muted small-text">${plural(jobs.length, "job")}${numActive ? `, ${numActive} not ended` : ""}</p>
    ${jobs.map((job) => html`<a key=${job.id} href=${linkTo("fine-tune", job.id)} aria-current=${job.id === chosenId ? "true" : undefined}>
      <span class="row"><span class="grow wrap">${titleOf(job)}</span><${StatusBadge} job=${job} /></span>
      <span class="muted">${day(job.created_at)}${progress(job)}</span>
    </a>`)}
  `;
}

function titleOf(job) {
  return job.fine_tuned_model ?? `${job.model}, ${job.id.slice(-8)}`;
}

function progress({ hamlet, status }) {
  return status === "running" && hamlet?.total_steps ? ` · step ${hamlet.step} of ${hamlet.total_steps}` : "";
}
