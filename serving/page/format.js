// Numbers, sizes and times as they are shown.

const NUMBER = new Intl.NumberFormat("en");
const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];

/** @param {number} value */
export function count(value) {
  return NUMBER.format(value);
}

/** `1 file`, `2 files` */
export function plural(value, noun) {
  return `${count(value)} ${noun}${value === 1 ? "" : "s"}`;
}

/** @param {number} size in bytes */
export function bytes(size) {
  let value = size;
  let unit = 0;
  while (value >= 1024 && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit && value < 10 ? value.toFixed(1) : Math.round(value)} ${UNITS[unit]}`;
}

/** Milliseconds with the digits that matter: `0.4 ms`, `85 ms`, `2.3 s`, `3 min 20 s`. */
export function milliseconds(ms) {
  if (ms < 10) return `${ms.toFixed(1)} ms`;
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 60_000) return `${(ms / 1000).toFixed(1)} s`;
  const s = Math.round(ms / 1000);
  if (s < 3600) return s % 60 ? `${Math.floor(s / 60)} min ${s % 60} s` : `${s / 60} min`;
  const minutes = Math.round((s % 3600) / 60);
  return minutes ? `${Math.floor(s / 3600)} h ${minutes} min` : `${Math.floor(s / 3600)} h`;
}

/** @param {number} s */
export function seconds(s) {
  return milliseconds(s * 1000);
}

/** @param {number} at Unix seconds */
export function clock(at) {
  return new Date(at * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit" });
}

/** @param {number} at Unix seconds */
export function day(at) {
  const date = new Date(at * 1000);
  const today = date.toDateString() === new Date().toDateString();
  const hour = date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  return today ? hour : `${date.toLocaleDateString([], { day: "numeric", month: "short" })} ${hour}`;
}

/** A number with few digits: `0.0042`, `1.31`, `250`. */
export function short(value) {
  if (!Number.isFinite(value)) return "–";
  if (value === 0 || Math.abs(value) >= 100) return count(Math.round(value));
  return String(Number(value.toPrecision(3)));
}

/** @param {number} amount in dollars */
export function dollars(amount) {
  if (amount === 0) return "$0";
  return amount < 0.01 ? `$${amount.toPrecision(2)}` : `$${amount.toFixed(2)}`;
}
