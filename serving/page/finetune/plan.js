// What a run would take, before anything starts.
import { html } from "../vendor/preact-htm.js";
import { bytes, count, seconds, short } from "../format.js";

/** What is told of a plan: name, where it stands in `python -m training plan`'s answer, and its unit. */
const FIGURES = [
  ["rows", (plan) => plan.rows, count],
  ["steps", (plan) => plan.steps, count],
  ["tokens, all epochs", (plan) => plan.tokens, count],
  ["tokens that carry loss", (plan) => plan.trained_tokens, count],
  ["training time", (plan) => plan.train_seconds, seconds],
  ["memory of a worker", (plan) => plan.memory?.worker_bytes, bytes],
  // In the currency of whoever configured the price.
  ["cost", (plan) => plan.cost?.workers, short],
  ["the same run took", (plan) => plan.measured?.train_seconds, seconds],
];

/** @param {{plan: any, hyperparameters: any}} props */
export function Plan({ plan, hyperparameters }) {
  const auto = Object.entries(hyperparameters ?? {}).map(([name, value]) => `${name.replaceAll("_", " ")} ${value}`);
  return html`<div class="stack tight">
    <${Figures} of=${figuresOf(plan)} />
    ${auto.length > 0 && html`<p class="muted small-text">With ${auto.join(", ")}.</p>`}
    ${(plan.notices ?? []).map((notice) => html`<p class="note warn wrap">${notice}</p>`)}
  </div>`;
}

/** @param {{of: [string, string][]}} props names with what they are */
export function Figures({ of }) {
  return html`<dl class="figures-list">${of.map(([name, value]) => html`<div><dt>${name}</dt><dd class="wrap">${value}</dd></div>`)}</dl>`;
}

/**
 * The figures that a plan has; one that was not measured or has no price is left out. Pure.
 * @returns {[string, string][]}
 */
export function figuresOf(plan) {
  const told = FIGURES.map(([name, read, show]) => [name, read(plan), show]);
  return told.filter(([, value]) => typeof value === "number").map(([name, value, show]) => [name, show(value)]);
}
