// Light or dark: what the system says, until the reader chooses.

const KEY = "hamlet.theme";

/** @returns {"light" | "dark" | null} what was chosen; null follows the system */
export function chosenTheme() {
  return localStorage.getItem(KEY);
}

/** Show the chosen theme, or the system's. */
export function applyTheme() {
  const chosen = chosenTheme();
  if (chosen) document.documentElement.dataset.theme = chosen;
  else delete document.documentElement.dataset.theme;
}

/** @returns {boolean} whether the page is dark now */
export function isDark() {
  const chosen = chosenTheme();
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

/** Change to the other theme and keep it; charts listen for `themechange`. */
export function toggleTheme() {
  localStorage.setItem(KEY, isDark() ? "light" : "dark");
  applyTheme();
  dispatchEvent(new Event("themechange"));
}
