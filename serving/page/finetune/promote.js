// Putting a model behind the name `prod`, which whoever asks for `prod` then gets.
import { html, useState } from "../vendor/preact-htm.js";
import { announce } from "../announce.js";
import { call } from "../api.js";
import { useAction } from "../load.js";
import { ErrorNote } from "../notice.js";

const ALIAS = "prod";

/** @param {{model: string}} props */
export function Promote({ model }) {
  const [isDone, setIsDone] = useState(false);
  const promote = useAction(async () => {
    await call(`v1/aliases/${ALIAS}`, { method: "PUT", json: { model } });
    setIsDone(true);
    announce(`${ALIAS} is ${model} now`);
  });
  return html`
    <button class="small" disabled=${promote.busy || isDone} onClick=${() => promote.run()}>${isDone ? `It is ${ALIAS} now` : `Promote to ${ALIAS}`}</button>
    <${ErrorNote} error=${promote.error} retry=${() => promote.run()} busy=${promote.busy} />
  `;
}
