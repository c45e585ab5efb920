/** How numbers, times and versions are written. */

/**
 * @param {unknown} value a number; what is not finite comes as null or as its name
 * @param {number} [digits] significant ones
 */
export function number(value, digits = 3) {
  if (value === null || value === undefined) return "–";
  if (typeof value !== "number") return String(value);
  if (Number.isInteger(value)) return value.toLocaleString("en");
  const size = Math.abs(value);
  return size !== 0 && (size < 1e-4 || size >= 1e6)
    ? value.toExponential(digits - 1)
    : String(Number(value.toPrecision(digits)));
}

/** @param {number | null | undefined} unix seconds */
export function time(unix) {
  if (unix === null || unix === undefined) return "–";
  return new Date(unix * 1000).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
}

/** @param {number | null | undefined} unix seconds */
export function ago(unix) {
  if (unix === null || unix === undefined) return "";
  const seconds = Date.now() / 1000 - unix;
  return seconds < 5 ? "just now" : `${duration(seconds)} ago`;
}

/** @param {number} seconds */
export function duration(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return seconds < 172800 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86400)} days`;
}

/** @param {number} version */
export function named(version) {
  return version === 0 ? "base model" : `version ${version}`;
}

/**
 * @param {number} count
 * @param {string} one
 * @param {string} [many]
 */
export function counted(count, one, many = `${one}s`) {
  return `${number(count)} ${count === 1 ? one : many}`;
}

/** @param {string} text */
export function capital(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}
