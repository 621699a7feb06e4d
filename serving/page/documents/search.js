// Search in a collection, each hit explained: what every stage thought of it.
import { html, useState } from "../vendor/preact-htm.js";
import { announce } from "../announce.js";
import { call } from "../api.js";
import { marked } from "../ask/citations.js";
import { milliseconds, plural, short } from "../format.js";
import { Icon } from "../icon.js";
import { useAction } from "../load.js";
import { ErrorNote } from "../notice.js";
import { COMPARISONS, filterOf } from "./filters.js";

const NUM_HITS = 8;
const NO_FILTER = { key: "", type: "eq", value: "" };

/** @param {{storeId: string}} props */
export function Search({ storeId }) {
  const [query, setQuery] = useState("");
  const [rows, setRows] = useState([]);
  const [found, setFound] = useState(null);
  const search = useAction(async () => {
    const json = { query, max_num_results: NUM_HITS, filters: filterOf(rows), hamlet: { explain: true } };
    const answer = await call(`v1/vector_stores/${storeId}/search`, { method: "POST", json });
    setFound({ query, ...answer });
    announce(answer.data.length ? plural(answer.data.length, "hit") : "Nothing was found");
  });
  const submit = (event) => {
    event.preventDefault();
    if (query.trim()) search.run();
  };
  return html`<section class="card stack" aria-label="Search">
    <h2>Search</h2>
    <form class="stack tight" role="search" onSubmit=${submit}>
      <div class="row">
        <label class="unseen" for="query">Search this collection</label>
        <input id="query" type="search" placeholder="A question, as a user would ask it" value=${query} onInput=${(event) => setQuery(event.target.value)} />
        <button class="primary" disabled=${search.busy || !query.trim()}>${search.busy ? "Searching…" : "Search"}</button>
      </div>
      <${Filters} rows=${rows} onChange=${setRows} />
    </form>
    <${ErrorNote} error=${search.error} retry=${search.run} busy=${search.busy} />
    ${found && html`<${Hits} found=${found} />`}
  </section>`;
}

function Filters({ rows, onChange }) {
  const set = (index, change) => onChange(rows.map((row, at) => (at === index ? { ...row, ...change } : row)));
  return html`
    ${rows.map((row, index) => html`<div class="row" key=${index} role="group" aria-label=${`Filter ${index + 1}`}>
      <input aria-label="Attribute" placeholder="attribute" value=${row.key} onInput=${(e) => set(index, { key: e.target.value })} />
      <select aria-label="Comparison" value=${row.type} onChange=${(e) => set(index, { type: e.target.value })}>
        ${Object.entries(COMPARISONS).map(([type, name]) => html`<option value=${type}>${name}</option>`)}
      </select>
      <input aria-label="Value" placeholder="value" value=${row.value} onInput=${(e) => set(index, { value: e.target.value })} />
      <button type="button" class="plain" aria-label="Remove filter" onClick=${() => onChange(rows.filter((_, at) => at !== index))}><${Icon} name="close" /></button>
    </div>`)}
    <div><button type="button" class="small plain" onClick=${() => onChange([...rows, NO_FILTER])}><${Icon} name="plus" />Filter by an attribute</button></div>
  `;
}

function Hits({ found }) {
  const { data: hits, hamlet } = found;
  const stages = Object.entries(hamlet?.stage_ms ?? {}).map(([stage, ms]) => `${stage} ${milliseconds(ms)}`);
  if (!hits.length) return html`<p class="muted">Nothing was found. Other words, or fewer filters, may help; a file is found once its status is completed.</p>`;
  return html`<p class="muted small-text">${plural(hits.length, "hit")}${stages.length ? ` · ${stages.join(" · ")}` : ""}</p>
    <ol class="hits">${hits.map((hit, index) => html`<li key=${index} class="stack tight">
      <div class="row wide-gap">
        <span class="muted">${index + 1}</span><strong class="grow wrap">${hit.filename}</strong><span class="badge route-rag">${short(hit.score)}</span>
      </div>
      <${Explanation} of=${hit.hamlet} />
      <p class="hit-text">${wordsOf(hit, found.query).map((word) => (word.isMarked ? html`<mark>${word.text}</mark>` : word.text))}</p>
      <${Attributes} of=${hit.attributes} />
    </li>`)}</ol>`;
}

function wordsOf({ content }, query) {
  return marked(content.map((part) => part.text).join("\n"), query);
}

/** What a score of each stage means; a stage that did not have the hit has none. */
const STAGES = {
  dense: "similarity of meaning, cosine",
  sparse: "shared words, BM25",
  fused: "both ranks together, reciprocal rank fusion",
  reranked: "judged pair by pair",
};

function Explanation({ of }) {
  const stages = Object.entries(STAGES).filter(([stage]) => typeof of?.scores?.[stage] === "number");
  if (!stages.length) return null;
  const place = [...(of.headings ?? []), of.page && `page ${of.page}`].filter(Boolean).join(" › ");
  return html`<dl class="explanation">${stages.map(([stage, meaning]) => html`<div title=${meaning}><dt>${stage}</dt><dd>${short(of.scores[stage])}</dd></div>`)}</dl>
    ${place && html`<p class="muted small-text wrap">${place}</p>`}`;
}

function Attributes({ of }) {
  const attributes = Object.entries(of ?? {});
  if (!attributes.length) return null;
  return html`<p class="row wide-gap small-text">${attributes.map(([key, value]) => html`<span class="badge wrap">${key}: ${String(value)}</span>`)}</p>`;
}
