// One job: how far it is, its curves, events and checkpoints, and what can be done with it.
import { html, useEffect, useRef, useState } from "../vendor/preact-htm.js";
import { announce } from "../announce.js";
import { call, callAll } from "../api.js";
import { Confirm } from "../dialog.js";
import { clock, count, day, seconds, short } from "../format.js";
import { Icon } from "../icon.js";
import { useAction, useLoad } from "../load.js";
import { ErrorNote, Shown } from "../notice.js";
import { linkTo } from "../route.js";
import { Chart } from "./chart.js";
import { newerEvents } from "./events.js";
import { curves, only } from "./metrics.js";
import { Figures, figuresOf } from "./plan.js";
import { Promote } from "./promote.js";
import { StatusBadge, actionsOf, isActive } from "./status.js";

const ACTIVE_EVERY_MS = 2000;
const ENDED_EVERY_MS = 20_000;

/** @param {{id: string, onChange: () => void}} props */
export function Job({ id, onChange }) {
  const job = useLoad((signal) => call(`v1/fine_tuning/jobs/${id}`, { signal }), [id], { everyMs: pace });
  const status = job.data?.status;
  useEffect(() => {
    if (!status) return;
    announce(`The job is ${status.replace("_", " ")}`);
    onChange();
  }, [status]);
  const changed = () => {
    job.reload();
    onChange();
  };
  return html`<${Shown} of=${job} what="the job">${(data) => html`<div class="stack">
    <${Summary} job=${data} onChange=${changed} />
    <${Course} job=${data} />
    <${Checkpoints} job=${data} />
  </div>`}<//>`;
}

function pace(job) {
  return job && isActive(job) ? ACTIVE_EVERY_MS : ENDED_EVERY_MS;
}

function Summary({ job, onChange }) {
  const { step, total_steps: total, plan } = job.hamlet ?? {};
  return html`<section class="card stack" aria-label="Summary">
    <div class="row wide-gap">
      <h2 class="grow wrap">${job.fine_tuned_model ?? job.id}</h2>
      <${StatusBadge} job=${job} />
      <${Actions} job=${job} onChange=${onChange} />
    </div>
    ${job.error?.message && html`<${Failure} error=${job.error} />`}
    ${isActive(job) && total > 0 && html`<label class="field">
      step ${count(step ?? 0)} of ${count(total)}${remaining(job)}<progress max=${total} value=${step ?? 0}></progress>
    </label>`}
    <${Figures} of=${facts(job)} />
    ${plan && html`<details><summary class="muted small-text">What was planned</summary><${Figures} of=${figuresOf(plan)} /></details>`}
    ${job.status === "succeeded" && html`<${Made} model=${job.fine_tuned_model} />`}
  </section>`;
}

function Failure({ error: { message, code } }) {
  return html`<div class="note bad" role="alert">
    <${Icon} name="alert" /><p class="wrap">${message}${code && html` <code>${code}</code>`}</p>
  </div>`;
}

function remaining({ estimated_finish: at }) {
  const left = at ? at - Date.now() / 1000 : 0;
  return left > 0 ? `, about ${seconds(left)} to go` : "";
}

function facts(job) {
  const hyperparameters = Object.entries(job.hyperparameters ?? {}).map(([name, value]) => [name.replaceAll("_", " "), String(value)]);
  const found = [["base model", job.model], ["job", job.id], ["created", day(job.created_at)]];
  if (job.finished_at) found.push(["took", seconds(job.finished_at - job.created_at)]);
  if (job.trained_tokens) found.push(["trained tokens", count(job.trained_tokens)]);
  return [...found, ...hyperparameters, ["seed", String(job.seed)]];
}

function Made({ model }) {
  return html`<div class="row wide-gap note good">
    <span class="grow wrap">The model answers now, as <code>${model}</code>.</span>
    <a class="button small" href=${linkTo("ask", "", { model })}><${Icon} name="ask" />Try it in Ask</a>
    <${Promote} model=${model} />
  </div>`;
}

function Actions({ job, onChange }) {
  const [asks, setAsks] = useState(false);
  const act = useAction(async (verb) => {
    await call(`v1/fine_tuning/jobs/${job.id}/${verb}`, { method: "POST" });
    onChange();
  });
  const cancel = () => {
    setAsks(false);
    act.run("cancel");
  };
  const start = (verb) => (verb === "cancel" ? setAsks(true) : act.run(verb));
  return html`
    ${actionsOf(job).map((verb) => html`<button class="small" disabled=${act.busy} onClick=${() => start(verb)}>
      ${verb[0].toUpperCase() + verb.slice(1)}
    </button>`)}
    ${asks && html`<${Confirm} title="Cancel this job?" action="Cancel the job" onClose=${() => setAsks(false)} onYes=${cancel}>
      <p>A cancelled job does not go on; its checkpoints stay. Pause it to go on later.</p>
    <//>`}
    <${ErrorNote} error=${act.error} />
  `;
}

/** Curves and events: what happened, as it happens. */
function Course({ job }) {
  const [events, setEvents] = useState([]);
  const newest = useRef(undefined);
  const load = useLoad(
    async (signal) => {
      const added = await newerEvents(job.id, newest.current, signal);
      signal.throwIfAborted(); // else the next load, begun meanwhile, adds the same
      newest.current = added[0]?.id ?? newest.current;
      if (added.length) setEvents((before) => [...added, ...before]);
      return true;
    },
    [job.id, job.status],
    { everyMs: isActive(job) ? ACTIVE_EVERY_MS : null },
  );
  const all = curves(events);
  const messages = events.filter((event) => event.type !== "metrics");
  return html`
    <section class="card stack" aria-label="Curves">
      ${all.steps.length
        ? ["loss", "accuracy", "f1"].map((word) => only(all, word)).filter(({ series }) => Object.keys(series).length)
            .map((shown, index) => html`<${Chart} key=${index} title=${titleOf(shown)} curves=${shown} />`)
        : html`<h2>Curves</h2><p class="muted">Loss and accuracy appear with the first steps.</p>`}
    </section>
    <section class="card stack" aria-label="Events">
      <h2>Events</h2>
      <${ErrorNote} error=${load.error} retry=${load.reload} busy=${load.busy} />
      <div class="events" tabindex="0" role="region" aria-label="Events, newest first"><ol>
        ${messages.map((event) => html`<li key=${event.id} class=${event.level === "error" ? "bad-text" : ""}>
          <time class="muted figures" datetime=${new Date(event.created_at * 1000).toISOString()}>${clock(event.created_at)}</time>
          <span class="grow wrap">${event.message}</span>
        </li>`)}
      </ol></div>
    </section>
  `;
}

function titleOf({ series }) {
  const [first] = Object.keys(series);
  return first.includes("loss") ? "Loss" : first.includes("accuracy") ? "Accuracy" : "F1";
}

function Checkpoints({ job }) {
  const checkpoints = useLoad((signal) => callAll(`v1/fine_tuning/jobs/${job.id}/checkpoints`, { signal }), [job.id, job.status], {
    everyMs: isActive(job) ? ACTIVE_EVERY_MS * 2 : null,
  });
  return html`<section class="card flush" aria-label="Checkpoints">
    <h2 class="table-title">Checkpoints</h2>
    <${Shown} of=${checkpoints} what="checkpoints">${(list) => list.length
      ? html`<${CheckpointTable} checkpoints=${list} />`
      : html`<p class="muted padded">Each is a model of its own that can be asked at once. The first comes at the end of an epoch.</p>`}<//>
  </section>`;
}

function CheckpointTable({ checkpoints }) {
  return html`<div class="scroll-x" tabindex="0" role="region" aria-label="Checkpoints table"><table>
    <thead><tr><th class="number">Step</th><th>Metrics</th><th>Model</th><th><span class="unseen">Actions</span></th></tr></thead>
    <tbody>${checkpoints.map((checkpoint) => html`<tr key=${checkpoint.id}>
      <td class="number">${checkpoint.step_number}</td>
      <td class="small-text">${metricsOf(checkpoint).join(" · ")}</td>
      <td class="small-text"><code>${checkpoint.fine_tuned_model_checkpoint}</code></td>
      <td class="number"><a class="button small" href=${linkTo("ask", "", { model: checkpoint.fine_tuned_model_checkpoint })}
        aria-label=${`Try in Ask: ${checkpoint.fine_tuned_model_checkpoint}`}>Try in Ask</a></td>
    </tr>`)}</tbody>
  </table></div>`;
}

/** `["valid loss 0.51"]` */
function metricsOf({ metrics }) {
  const numbers = Object.entries(metrics).filter(([name, value]) => name !== "step" && typeof value === "number");
  return numbers.map(([name, value]) => `${name.replaceAll("_", " ")} ${short(value)}`);
}
