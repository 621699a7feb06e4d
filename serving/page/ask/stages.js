// Where the time of an answer went: a bar with one stretch for each stage.
import { html } from "../vendor/preact-htm.js";
import { milliseconds } from "../format.js";

/** @param {{ms: Record<string, number>}} props stage -> milliseconds, in the order in which they ran */
export function Stages({ ms }) {
  const stages = Object.entries(ms);
  const total = stages.reduce((sum, [, value]) => sum + value, 0);
  if (!total) return null;
  const label = stages.map(([stage, value]) => `${stage} ${milliseconds(value)}`).join(", ");
  return html`<div class="stages">
    <div class="stage-bar" role="img" aria-label=${`Time by stage: ${label}`}>
      ${stages.map(([stage, value]) => html`<span class=${`stage-${stage}`} style=${{ flexGrow: value / total }}></span>`)}
    </div>
    <ul class="legend" aria-hidden="true">
      ${stages.map(([stage, value]) => html`<li><i class=${`stage-${stage}`}></i>${stage} ${milliseconds(value)}</li>`)}
    </ul>
  </div>`;
}
