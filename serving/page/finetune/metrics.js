// From a job's events to curves. Pure.

/**
 * Metrics by step. Of a step told twice the later counts: a run that went on from a checkpoint repeats steps.
 * @param {any[]} events of a job, in any order
 * @returns {{steps: number[], series: Record<string, (number | null)[]>}} names in the order of their first step
 */
export function curves(events) {
  const byStep = new Map();
  const inOrder = events.filter((event) => event.type === "metrics" && event.data?.step !== undefined).sort(older);
  for (const { data } of inOrder) byStep.set(data.step, { ...byStep.get(data.step), ...data });
  const steps = [...byStep.keys()].sort((a, b) => a - b);
  const names = new Set(inOrder.flatMap(({ data }) => Object.keys(data).filter((name) => isCurve(name) && typeof data[name] === "number")));
  const series = Object.fromEntries([...names].map((name) => [name, steps.map((step) => byStep.get(step)[name] ?? null)]));
  return { steps, series };
}

/** The curves whose names hold a word, and the others left out. */
export function only({ steps, series }, word) {
  const kept = Object.entries(series).filter(([name]) => name.includes(word));
  return { steps, series: Object.fromEntries(kept) };
}

function isCurve(name) {
  return /loss|accuracy|f1/.test(name);
}

function older(a, b) {
  return a.created_at - b.created_at || numberOf(a.id) - numberOf(b.id);
}

/** The number in an event's id: the events of one second are told apart by it. */
function numberOf(id) {
  return Number(id.split("-").at(-1));
}
