// Cluster: what runs where, whether it is well, and what waits.
import { html } from "../vendor/preact-htm.js";
import { call } from "../api.js";
import { bytes, day, plural, short } from "../format.js";
import { Icon } from "../icon.js";
import { useLoad } from "../load.js";
import { Shown } from "../notice.js";

const EVERY_MS = 5000;
const FULL = 0.9;

export function Cluster() {
  const health = useLoad(readiness, [], { everyMs: EVERY_MS });
  const cluster = useLoad((signal) => call("v1/cluster", { signal }), [], { everyMs: EVERY_MS });
  return html`<div class="stack roomy">
    <div class="row">
      <h1 class="grow">Cluster</h1>
      ${cluster.data && html`<${Links} cluster=${cluster.data} />`}
    </div>
    <${Shown} of=${health} what="the health of each part">${(parts) => html`<${Health} parts=${parts} />`}<//>
    <${Shown} of=${cluster} what="what runs where">${(data) => html`<${Contents} cluster=${data} />`}<//>
  </div>`;
}

/** State by part. Not being ready is an answer here, not a failure. */
async function readiness(signal) {
  try {
    return (await call("readyz", { signal })).parts;
  } catch (error) {
    if (error.status === 503 && error.body?.parts) return error.body.parts;
    throw error;
  }
}

function Links({ cluster }) {
  const links = [["Ray's dashboard", cluster.dashboard_url], ["Grafana", cluster.grafana_url]].filter(([, address]) => address);
  return links.map(([name, address]) => html`<a class="button plain" href=${address} target="_blank" rel="noopener noreferrer">${name} <${Icon} name="out" /></a>`);
}

function Health({ parts }) {
  return html`<section aria-label="Health" class="tiles">
    ${Object.entries(parts).map(([part, state]) => {
      const isReady = state === "ready";
      return html`<div class="card tile">
        <div class="row">
          <span class=${`dot ${isReady ? "good" : "bad"}`}></span><h2 class="grow">${part}</h2>
          <span class="muted small-text">${isReady ? "ready" : "not ready"}</span>
        </div>
        ${!isReady && html`<p class="small-text wrap">${state}</p>`}
      </div>`;
    })}
  </section>`;
}

function Contents({ cluster }) {
  return html`
    <${Resources} resources=${cluster.resources} queue=${cluster.queue} />
    <${Deployments} applications=${cluster.applications} nodes=${cluster.nodes} />
    <${Nodes} nodes=${cluster.nodes} />
    <${Jobs} jobs=${cluster.jobs} />
  `;
}

function Resources({ resources, queue }) {
  return html`<section class="card stack" aria-label="Resources">
    <h2>Reserved</h2>
    <div class="fields">
      ${Object.entries(resources).map(([name, { used, total }]) => html`<${Meter} name=${name} used=${used} total=${total} />`)}
    </div>
    <p class="muted small-text">${queue.length ? `Waiting for room: ${queue.map(demandOf).join(", ")}` : "Nothing waits for room."}</p>
  </section>`;
}

/** `2 × 1 CPU + 0.5 GPU` */
function demandOf({ count, resources }) {
  const wanted = Object.entries(resources).map(([name, value]) => `${amount(name, value)} ${name}`);
  return `${count} × ${wanted.join(" + ")}`;
}

/** So much of a resource: Ray counts memory in bytes, and all else in pieces. */
function amount(name, value) {
  return name.toLowerCase().includes("memory") ? bytes(value) : short(value);
}

/** A share of something, in figures and as a bar. */
function Meter({ name, used, total, show = (value) => amount(name, value) }) {
  const share = total ? used / total : 0;
  return html`<label class="field">${name.replaceAll("_", " ")}
    <span class="figures value">${show(used)} of ${show(total)}</span>
    <progress class=${share > FULL ? "full" : ""} max="1" value=${share}></progress>
  </label>`;
}

/** Ray's words for states of nodes, deployments, replicas and jobs. */
const STATES = {
  good: ["HEALTHY", "RUNNING", "ALIVE", "SUCCEEDED"],
  busy: ["UPDATING", "UPSCALING", "DOWNSCALING", "STARTING", "DEPLOYING", "PENDING"],
  bad: ["UNHEALTHY", "DEPLOY_FAILED", "FAILED", "DEAD"],
};

function State({ of }) {
  const tone = Object.keys(STATES).find((name) => STATES[name].includes(of)) ?? "";
  return html`<span class=${`badge ${tone}`}>${of.toLowerCase().replaceAll("_", " ")}</span>`;
}

function Deployments({ applications, nodes }) {
  const rows = applications.flatMap((application) => application.deployments.map((deployment) => ({ application, deployment })));
  if (!rows.length) return null;
  const nodeName = (id) => nodes.find((node) => node.id === id)?.hostname ?? id?.slice(0, 8) ?? "–";
  return html`<section class="card flush" aria-label="Deployments">
    <h2 class="table-title">Deployments</h2>
    <div class="scroll-x" tabindex="0" role="region" aria-label="Deployments table"><table>
      <thead><tr><th>Deployment</th><th>State</th><th class="number">Replicas</th><th>Where</th></tr></thead>
      <tbody>${rows.map(({ application, deployment }) => html`<tr>
        <td>${deployment.name}${applications.length > 1 && html` <span class="muted">${application.name}</span>`}
          ${deployment.message && html`<p class="small-text muted wrap">${deployment.message}</p>`}</td>
        <td><${State} of=${deployment.status} /></td>
        <td class="number">${deployment.replicas.filter((replica) => replica.state === "RUNNING").length} of ${deployment.target_replicas}</td>
        <td class="small-text"><ul>${deployment.replicas.map((replica) => html`<li>
          ${nodeName(replica.node_id)} <span class="muted">${courseOf(replica)}</span>
        </li>`)}</ul></td>
      </tr>`)}</tbody>
    </table></div>
  </section>`;
}

function courseOf({ pid, state, started_at: startedAt, memory_bytes: memory }) {
  const told = [`pid ${pid ?? "–"}`, `${state.toLowerCase()} since ${day(startedAt)}`];
  return (memory ? [...told, bytes(memory)] : told).join(" · ");
}

function Nodes({ nodes }) {
  return html`<section aria-label="Nodes" class="stack">
    <h2>${plural(nodes.length, "node")}</h2>
    <div class="tiles wide">${nodes.map((node) => html`<article class="card stack tight" aria-label=${`Node ${node.hostname}`}>
      <header class="row"><h3 class="grow wrap">${node.hostname} <span class="muted small-text">${node.address}</span></h3>
        ${node.is_head && html`<span class="badge">head</span>`}<${State} of=${node.state} /></header>
      <div class="fields">
        <${Meter} name="processor" used=${node.cpu_percent} total=${100} show=${(value) => `${Math.round(value)} %`} />
        <${Meter} name="memory" used=${node.memory_used_bytes} total=${node.memory_total_bytes} />
        ${node.gpus.map((gpu) => html`<${Meter} name=${`${gpu.name} memory`} used=${gpu.memory_used_bytes} total=${gpu.memory_total_bytes} />`)}
      </div>
    </article>`)}</div>
  </section>`;
}

function Jobs({ jobs }) {
  const counts = Object.entries(jobs.counts).map(([status, number]) => `${number} ${status.toLowerCase()}`);
  return html`<section class="card flush" aria-label="Jobs">
    <h2 class="table-title">Jobs <span class="muted small-text">${counts.join(" · ") || "none yet"}</span></h2>
    ${jobs.recent.length > 0 && html`<div class="scroll-x" tabindex="0" role="region" aria-label="Jobs table"><table>
      <thead><tr><th>Job</th><th>State</th><th>Started</th><th>What it runs</th></tr></thead>
      <tbody>${jobs.recent.map((job) => html`<tr>
        <td><code>${job.id}</code></td>
        <td><${State} of=${job.status} /></td>
        <td class="small-text">${job.started_at ? day(job.started_at) : "–"}</td>
        <td class="small-text wrap">${job.entrypoint}${job.message && job.status === "FAILED" && html`<p class="muted wrap">${job.message}</p>`}</td>
      </tr>`)}</tbody>
    </table></div>`}
  </section>`;
}
