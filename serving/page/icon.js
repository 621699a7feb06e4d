// Small line icons, drawn here so that nothing is fetched. They are decoration: the button says its name.
import { html } from "./vendor/preact-htm.js";

const PATHS = {
  ask: "M4 5h16v11H9l-5 4z",
  documents: "M6 3h8l4 4v14H6zM14 3v4h4M9 12h6M9 16h6",
  tune: "M4 7h9M17 7h3M4 17h3M11 17h9M15 4v6M9 14v6",
  verdict: "M12 4v16M7 20h10M5 7h14M5 7l-3 7h6zM19 7l-3 7h6z",
  cluster: "M4 4h16v6H4zM4 14h16v6H4zM8 7h.01M8 17h.01",
  alert: "M12 3l10 18H2zM12 10v5M12 18h.01",
  key: "M14 10a4 4 0 1 0-3.5 4L13 16.5V19h2.5v2.5H21v-3L14 12z",
  theme: "M12 3a9 9 0 1 0 0 18zM12 3a9 9 0 0 1 0 18",
  stop: "M7 7h10v10H7z",
  retry: "M19 12a7 7 0 1 1-2-5l2 2M19 4v5h-5",
  copy: "M9 9h11v11H9zM5 15H4V4h11v1",
  close: "M6 6l12 12M18 6L6 18",
  send: "M4 12l16-8-6 16-3-7z",
  upload: "M12 16V4M7 9l5-5 5 5M4 20h16",
  trash: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13",
  check: "M5 13l4 4L19 7",
  plus: "M12 5v14M5 12h14",
  out: "M14 4h6v6M20 4l-9 9M18 14v6H4V6h6",
};

/** @param {{name: keyof typeof PATHS}} props */
export function Icon({ name }) {
  return html`<svg class="icon" viewBox="0 0 24 24" aria-hidden="true"><path d=${PATHS[name]} /></svg>`;
}
