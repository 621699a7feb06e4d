// Curves over steps, drawn by uPlot, with the last figures as text for whoever does not see them.
import { html, useEffect, useRef, useState } from "../vendor/preact-htm.js";
import { short } from "../format.js";

const HEIGHT = 220;
const COLOURS = ["--accent", "--both", "--rag", "--warn"];

/** @param {{title: string, curves: {steps: number[], series: Record<string, (number | null)[]>}}} props */
export function Chart({ title, curves }) {
  const frame = useRef(null);
  const plot = useRef(null);
  const [theme, setTheme] = useState(0);
  const names = Object.keys(curves.series);
  const data = [curves.steps, ...Object.values(curves.series)];
  const latest = useRef(data);
  latest.current = data;

  useEffect(() => {
    const changed = () => setTheme((value) => value + 1);
    const system = matchMedia("(prefers-color-scheme: dark)");
    addEventListener("themechange", changed);
    system.addEventListener("change", changed);
    return () => {
      removeEventListener("themechange", changed);
      system.removeEventListener("change", changed);
    };
  }, []);

  useEffect(() => {
    let ended = false;
    let resizing = null;
    // Only who looks at curves loads the library.
    import("../vendor/uplot.js").then(({ default: UPlot }) => {
      if (ended) return;
      plot.current = new UPlot(options(frame.current, names), latest.current, frame.current);
      resizing = new ResizeObserver(([{ contentRect }]) => plot.current?.setSize({ width: contentRect.width, height: HEIGHT }));
      resizing.observe(frame.current);
    });
    return () => {
      ended = true;
      resizing?.disconnect();
      plot.current?.destroy();
      plot.current = null;
    };
  }, [names.join(), theme]);

  useEffect(() => {
    plot.current?.setData(data);
  }, [curves]);

  return html`<figure class="chart">
    <figcaption>${title} <span class="muted small-text">${lastFigures(curves)}</span></figcaption>
    <div ref=${frame} role="img" aria-label=${`${title} by step: ${lastFigures(curves)}`}></div>
  </figure>`;
}

/** The newest value of each curve: `train loss 0.42, valid loss 0.51`. */
export function lastFigures({ series }) {
  return Object.entries(series)
    .map(([name, values]) => `${name.replaceAll("_", " ")} ${short(values.findLast((value) => value !== null))}`)
    .join(", ");
}

function options(element, names) {
  const axis = { stroke: colour(element, "--muted"), grid: { stroke: colour(element, "--line"), width: 1 }, ticks: { show: false }, font: "12px sans-serif" };
  return {
    width: element.clientWidth,
    height: HEIGHT,
    scales: { x: { time: false } },
    axes: [{ ...axis, size: 32 }, { ...axis, size: 52 }],
    cursor: { y: false },
    series: [{ label: "step" }, ...names.map((name, index) => line(element, name, index))],
  };
}

function line(element, name, index) {
  const isSparse = name.startsWith("full_") || name.startsWith("valid");
  return {
    label: name.replaceAll("_", " "),
    stroke: colour(element, COLOURS[index % COLOURS.length]),
    width: 1.8,
    spanGaps: true,
    points: { show: isSparse },
    value: (_plot, value) => (value === null ? "–" : short(value)),
  };
}

/** A colour of the theme as the browser computes it: a canvas knows no variables. */
function colour(element, name) {
  element.style.color = `var(${name})`;
  const { color } = getComputedStyle(element);
  element.style.color = "";
  return color;
}
