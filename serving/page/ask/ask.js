// Ask: one question, answered in up to four ways and by `auto`, side by side.
import { html, useEffect, useRef, useState } from "../vendor/preact-htm.js";
import { call, callAll } from "../api.js";
import { useLoad } from "../load.js";
import { Empty, ErrorNote } from "../notice.js";
import { linkTo } from "../route.js";
import { useStore } from "../store.js";
import { AnswerCard } from "./card.js";
import { choice as choiceStore, choose } from "./choice.js";
import { Composer, anyRunning, offeredWays } from "./composer.js";
import { forget, turns as turnStore } from "./conversation.js";
import { PassageDialog } from "./passage.js";
import { storeOf } from "./request.js";
import { KINDS, baseModels, tunedModels } from "./ways.js";

const MODELS_EVERY_MS = 15_000;

export function Ask({ route }) {
  const models = useLoad(async (signal) => (await call("v1/models", { signal })).data, [], { everyMs: MODELS_EVERY_MS });
  // Collections are a convenience here: without them a name can still be typed.
  const stores = useLoad((signal) => callAll("v1/vector_stores", { signal }), []);
  const turns = useStore(turnStore);
  const choice = useStore(choiceStore);
  const [open, setOpen] = useState(null);
  const asked = route.query.get("model");
  useEffect(() => {
    if (!asked) return;
    choose({ tuned: asked, off: choice.off.filter((model) => model !== asked) });
    location.replace(linkTo("ask")); // once: a reload keeps what is chosen after
  }, [asked]);

  const begin = () => {
    forget();
    document.getElementById("question").focus();
  };
  const known = models.data ?? [];
  const ways = offeredWays(known, baseModels(known)[0] ?? "", choice);
  return html`<div class="ask">
    <div class="row">
      <h1 class="grow">Ask</h1>
      ${turns.length > 0 && html`<button class="small" onClick=${begin}>New conversation</button>`}
    </div>
    <${ErrorNote} error=${models.error} retry=${models.reload} busy=${models.busy} />
    ${turns.length ? html`<${Turns} turns=${turns} pricePerHour=${choice.pricePerHour} onPassage=${setOpen} />` : html`<${Introduction} models=${known} />`}
    <${Composer} models=${known} ways=${ways} choice=${choice} stores=${stores.data ?? []} isBusy=${anyRunning(turns)}
      isReady=${models.data !== null} />
    ${open && html`<${PassageDialog} ...${open} onClose=${() => setOpen(null)} />`}
  </div>`;
}

function Turns({ turns, pricePerHour, onPassage }) {
  const last = useRef(null);
  useEffect(() => {
    last.current?.scrollIntoView({ block: "start" });
  }, [turns.length]);
  return html`<ol class="turns" aria-label="Turns">
    ${turns.map((turn, index) => html`<li key=${turn.id} ref=${index === turns.length - 1 ? last : null}>
      <h2 class="asked wrap">${turn.question}</h2>
      <div class="answers">
        ${turn.answers.map((answer) => html`<${AnswerCard} key=${answer.model} turnId=${turn.id} answer=${answer} pricePerHour=${pricePerHour}
          onPassage=${(passage) => onPassage({ passage, question: turn.question, storeId: storeOf(answer.request) })} />`)}
      </div>
    </li>`)}
  </ol>`;
}

function Introduction({ models }) {
  const hasTuned = tunedModels(models).length > 0;
  return html`<${Empty} title="One question, every way to answer it">
    <dl class="kinds">
      ${Object.entries(KINDS).map(([kind, meaning]) => html`<div><dt class=${`badge route-${kind.replace("+", "-")}`}>${kind}</dt><dd>${meaning}</dd></div>`)}
    </dl>
    <p class="muted">Each way answers side by side, with its sources and where its time went; follow-up questions keep each way's own history.
      ${!hasTuned && models.length > 0 && html` There is no tuned model yet: <a href=${linkTo("fine-tune")}>create one</a>.`}
      ${" "}Retrieval reads what was put into <a href=${linkTo("documents")}>Documents</a>.</p>
  <//>`;
}
