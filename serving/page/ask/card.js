// One answer as it is shown: text with its citations, where the time went, and what can be done with it.
import { html } from "../vendor/preact-htm.js";
import { url } from "../api.js";
import { CopyButton } from "../copy.js";
import { count, dollars, milliseconds, plural } from "../format.js";
import { Icon } from "../icon.js";
import { apiKey } from "../key.js";
import { ErrorNote } from "../notice.js";
import { isRunning } from "./answer.js";
import { CallsBefore, Calls, ResultForm } from "./call-list.js";
import { awaitsResults } from "./calls.js";
import { pieces } from "./citations.js";
import { retry, stop } from "./conversation.js";
import { asCurl, asPython } from "./snippets.js";
import { Stages } from "./stages.js";
import { KINDS } from "./ways.js";

/**
 * @param {{turnId: number, answer: import("./answer.js").Answer, pricePerHour: number,
 *          onPassage: (passage: any) => void}} props
 */
export function AnswerCard({ turnId, answer, pricePerHour, onPassage }) {
  const runs = isRunning(answer);
  const again = () => retry(turnId, answer);
  return html`<article class="card answer" aria-busy=${runs} aria-label=${`Answer of ${answer.model}`}>
    <header class="row">
      <h3 class="grow wrap" title=${KINDS[answer.kind]}>${answer.model}</h3>
      <${RouteBadge} answer=${answer} />
    </header>
    <${CallsBefore} answer=${answer} />
    <div class="answer-text"><${Text} answer=${answer} onPassage=${onPassage} />${runs && html`<span class="caret" aria-hidden="true"></span>`}</div>
    ${awaitsResults(answer)
      ? html`<${ResultForm} turnId=${turnId} answer=${answer} />`
      : answer.calls.length > 0 && html`<${Calls} calls=${answer.calls} />`}
    <${ErrorNote} error=${answer.error} retry=${again} />
    ${answer.status === "stopped" && html`<p class="muted">Stopped.</p>`}
    ${answer.finishReason === "length" && html`<p class="muted">Cut at ${plural(answer.request.max_tokens, "token")}: raise the answer length to read on.</p>`}
    <footer class="stack tight">
      <${Reason} hamlet=${answer.hamlet} kind=${answer.kind} />
      ${answer.hamlet && html`<${Stages} ms=${answer.hamlet.stage_ms ?? {}} />`}
      <${Sources} hits=${answer.hamlet?.hits ?? []} onPassage=${(hit) => onPassage({ ...hit, said: answer.text })} />
      <div class="row wide-gap">
        <span class="muted figures grow">${figures(answer, pricePerHour).join(" · ")}</span>
        <${Actions} turnId=${turnId} answer=${answer} runs=${runs} again=${again} />
      </div>
    </footer>
  </article>`;
}

function Text({ answer, onPassage }) {
  if (!answer.text) return isRunning(answer) ? html`<span class="muted">${waiting(answer)}</span>` : null;
  return pieces(answer.text, answer.annotations).map((piece) =>
    piece.citation ? html`<${Citation} of=${piece.citation} onOpen=${() => onPassage(passageOf(piece.citation, answer))} />` : piece.text,
  );
}

function Citation({ of, onOpen }) {
  const name = placeOf(of.file_citation);
  return html`<button class="citation" title=${name} aria-label=${`Source ${of.index}: ${name}`} onClick=${onOpen}>${of.index}</button>`;
}

/** A passage's file, and its page where the format has pages. */
function placeOf({ filename, page }) {
  return page ? `${filename}, page ${page}` : filename;
}

function RouteBadge({ answer }) {
  const route = answer.hamlet?.route;
  const isKept = route && answer.request.hamlet?.route === route;
  if (!route) return html`<span class=${`badge ${routeClass(answer.kind)}`}>${answer.kind}</span>`;
  return html`${answer.hamlet.degraded && html`<span class="badge warn">degraded</span>`}
    <span class=${`badge ${routeClass(route)}`}>${answer.kind === "auto" ? `auto → ${route}` : route}${isKept ? ", kept" : ""}</span>`;
}

function Reason({ hamlet, kind }) {
  const isWorthTelling = hamlet && (kind === "auto" || hamlet.degraded || hamlet.reason.includes(";"));
  return isWorthTelling ? html`<p class="muted reason wrap">${hamlet.reason}</p>` : null;
}

function Sources({ hits, onPassage }) {
  if (!hits.length) return null;
  return html`<details class="sources">
    <summary>${plural(hits.length, "passage")} read</summary>
    <ol>
      ${hits.map((hit) => html`<li value=${hit.index}>
        <button class="link wrap" onClick=${() => onPassage(hit)}>${placeOf(hit)}</button>
        <span class="muted"> similarity ${hit.score.toFixed(2)}</span>
      </li>`)}
    </ol>
  </details>`;
}

function Actions({ turnId, answer, runs, again }) {
  const base = url("v1").href;
  return html`<span class="row tight">
    ${runs
      ? html`<button class="small" aria-label=${`Stop ${answer.model}`} onClick=${() => stop(turnId, answer.model)}><${Icon} name="stop" />Stop</button>`
      : html`<button class="small plain" aria-label=${`Ask ${answer.model} again`} title="Ask again" onClick=${again}><${Icon} name="retry" /></button>`}
    <${CopyButton} label=${`Copy as curl for ${answer.model}`} text=${() => asCurl(answer.request, base, Boolean(apiKey()))}>curl<//>
    <${CopyButton} label=${`Copy as Python for ${answer.model}`} text=${() => asPython(answer.request, base, Boolean(apiKey()))}>Python<//>
  </span>`;
}

function waiting(answer) {
  return answer.kind === "plain" || answer.kind === "tuned" ? "Thinking…" : "Searching and reading…";
}

function passageOf(citation, answer) {
  const { file_citation: source, index } = citation;
  const hit = (answer.hamlet?.hits ?? []).find((one) => one.index === index);
  return { ...source, index, text: source.quote, score: hit?.score, said: answer.text };
}

/** What is told of an answer in figures. */
function figures({ usage, firstTokenMs, totalMs, status }, pricePerHour) {
  if (status === "waiting" || !totalMs) return [];
  const told = [];
  if (usage) told.push(`${count(usage.prompt_tokens)} + ${plural(usage.completion_tokens, "token")}`);
  if (firstTokenMs) told.push(`first after ${milliseconds(firstTokenMs)}`);
  told.push(milliseconds(totalMs));
  if (pricePerHour) told.push(dollars((totalMs / 3_600_000) * pricePerHour));
  return told;
}

function routeClass(kind) {
  return `route-${kind.replace("+", "-")}`;
}
