/** Two versions beside each other: what the gate measured, what they learned from, which settings differ. */

import { get } from "./api.js";
import { button, h, table } from "./dom.js";
import { capital, named, number } from "./format.js";

/**
 * @param {number} first 0 is the base model
 * @param {number} second
 * @param {(first: number, second: number) => void} compare asks both in the chat
 * @returns {Promise<Node>}
 */
export async function diff(first, second, compare) {
  const [one, two] = await Promise.all(
    [first, second].map((version) => (version ? get(`/admin/why/${version}`) : null)),
  );
  const names = [capital(named(first)), capital(named(second))];
  return h(
    "div",
    { class: "folded" },
    h("p", {}, relation(first, second, one, two)),
    h(
      "div",
      { class: "actions" },
      button("Ask both, side by side", () => compare(first, second)),
    ),
    h("h3", {}, "What the gate measured, each against its parent"),
    table("Gate numbers", ["check", ...names, "limit"], gates(one, two)),
    h("h3", {}, "Examples"),
    table("Examples by role", ["role", ...names], roles(one, two)),
    h("h3", {}, "Settings that differ"),
    settings(one, two, names),
    h(
      "p",
      { class: "meta" },
      `Losses and answers on the same prompts, and the change of every layer: selflearn versions diff ${first} ${second}`,
    ),
  );
}

/** @param {number} first @param {number} second @param {any} one @param {any} two */
function relation(first, second, one, two) {
  const line = [...(two?.lineage ?? []), 0];
  if (line.includes(first)) {
    const steps = line.slice(0, line.indexOf(first)).reverse().map(named);
    return `${capital(named(second))} comes from ${named(first)}: ${[named(first), ...steps].join(" → ")}.`;
  }
  if ([...(one?.lineage ?? []), 0].includes(second)) return relation(second, first, two, one);
  return `Neither comes from the other.`;
}

/** @param {any} one @param {any} two */
function gates(one, two) {
  const [a, b] = [one, two].map(
    (told) => new Map((told?.verdict?.checks ?? []).map((/** @type {any} */ check) => [check.name, check])),
  );
  return [...new Set([...a.keys(), ...b.keys()])].map((name) => [
    name,
    number(a.get(name)?.value),
    number(b.get(name)?.value),
    number((b.get(name) ?? a.get(name)).limit),
  ]);
}

/** @param {any} one @param {any} two */
function roles(one, two) {
  return ["train", "replay", "holdout", "retained", "left_out"].map((role) => [
    role.replace("_", " "),
    number(one?.examples[role].count),
    number(two?.examples[role].count),
  ]);
}

/** @param {any} one @param {any} two @param {string[]} names */
function settings(one, two, names) {
  if (!one || !two) return h("p", { class: "empty" }, "The base model was not made by an update.");
  const [a, b] = [flat(one.config), flat(two.config)];
  const all = [...new Set([...a.keys(), ...b.keys()])].filter((name) => a.get(name) !== b.get(name));
  if (!all.length) return h("p", { class: "empty" }, "None.");
  return table(
    "Settings that differ",
    ["setting", ...names],
    all.map((name) => [name, a.get(name) ?? "–", b.get(name) ?? "–"]),
  );
}

/**
 * Nested settings by their dotted names, as text.
 * @param {any} value
 * @param {string} [name]
 * @returns {Map<string, string>}
 */
function flat(value, name = "") {
  if (value === null || typeof value !== "object" || Array.isArray(value))
    return new Map([[name, JSON.stringify(value)]]);
  return new Map(Object.entries(value).flatMap(([key, item]) => [...flat(item, name ? `${name}.${key}` : key)]));
}
