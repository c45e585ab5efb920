/** What the gate found, in a table; and the updates that it judged. */

import { get } from "./api.js";
import { lossChart } from "./charts.js";
import { h, table } from "./dom.js";
import { ago, duration, named, number, time } from "./format.js";
import { unfolding } from "./lists.js";

const OUTCOMES = { pass: "passed", fail: "failed", inconclusive: "cannot tell" };

/**
 * @param {any} verdict as the daemon tells it; null if the update ended before
 * @returns {Node}
 */
export function verdictTable(verdict) {
  if (!verdict) return h("p", { class: "empty" }, "The gate was not asked: the update ended before.");
  const rows = verdict.checks.map((/** @type {any} */ check) => [
    check.name,
    mark(check.outcome),
    number(check.value),
    number(check.limit),
    check.low === null || check.low === undefined ? "–" : `${number(check.low)} … ${number(check.high)}`,
    number(check.samples),
    check.detail,
  ]);
  return table("What the gate found", ["check", "outcome", "value", "limit", "interval", "samples", "in words"], rows);
}

/** @param {string} outcome of a check or an update */
export function mark(outcome) {
  const words = OUTCOMES[/** @type {keyof typeof OUTCOMES} */ (outcome)] ?? outcome;
  return h("span", { class: `mark ${outcome}` }, words);
}

/**
 * The numbers of a verdict that say most, in one line.
 * @param {any} verdict
 */
export function gateLine(verdict) {
  const told = ["learned", "retained", "anchored", "kl_drift", "weight_drift"];
  const checks = (verdict?.checks ?? []).filter((/** @type {any} */ check) => told.includes(check.name));
  if (!checks.length) return null;
  return h(
    "dl",
    { class: "numbers" },
    checks.map((/** @type {any} */ check) =>
      h(
        "div",
        { class: check.outcome, title: check.detail },
        h("dt", {}, check.name),
        h("dd", {}, `${number(check.value)} / ${number(check.limit)}`),
      ),
    ),
  );
}

/**
 * An update, folded: its verdict and its curve are shown when it is opened.
 * @param {any} update a row of `GET /admin/updates`
 */
export function updateCard(update) {
  const took = update.finished_at === null ? "" : `, took ${duration(update.finished_at - update.started_at)}`;
  const meta = h("span", { class: "meta" }, `${ago(update.started_at)}${took}`);
  const summary = [h("strong", {}, `Update ${update.id}`), " ", mark(update.state), meta];
  return unfolding(summary, `update-${update.id}`, async () => [await explained(update)]);
}

/** @param {any} update */
async function explained(update) {
  const from = `From ${named(update.parent)}, started by ${update.trigger} at ${time(update.started_at)}.`;
  const curve = await lossChart(await get(`/admin/updates/${update.id}/curve`));
  const reason = update.reason && h("p", { class: "reason" }, update.reason);
  return h("div", { class: "folded" }, h("p", {}, from), reason, verdictTable(update.verdict), curve);
}
