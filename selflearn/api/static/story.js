/** What a version learned: from which words, what it answered before and after, and what followed. */

import { get } from "./api.js";
import { lossChart } from "./charts.js";
import { h, table } from "./dom.js";
import { capital, counted, named, number, time } from "./format.js";
import { verdictTable } from "./verdict.js";

/**
 * The whole story of an update, asked for now.
 * @param {number} version
 * @returns {Promise<Node>}
 */
export async function story(version) {
  const told = await get(`/admin/why/${version}`);
  return h(
    "div",
    { class: "folded" },
    section("What it answered, before and after", answers(told.answers)),
    section("What it learned from", examples(told.examples)),
    section("What the gate found", h("p", { class: "reason" }, told.reason), verdictTable(told.verdict)),
    section("Losses", (await lossChart(told.curve)) ?? h("p", { class: "empty" }, "Its curves are not kept.")),
    section("What followed", after(told.after)),
  );
}

/** @param {string} title @param {...(Node | null)} content */
function section(title, ...content) {
  return h("section", {}, h("h3", {}, title), content);
}

/** @param {any[]} told what was asked of parent and candidate, which neither trained on */
function answers(told) {
  if (!told.length) return h("p", { class: "empty" }, "No answers are kept.");
  const rows = told.map((each) => [lastQuestion(each.prompt), each.expected, each.before, each.after]);
  return table("Answers before and after", ["asked", "expected", "before", "after"], rows);
}

/** @param {any[]} messages */
export function lastQuestion(messages) {
  const asked = messages.filter((message) => message.role === "user").at(-1)?.content;
  if (Array.isArray(asked)) return asked.map((part) => part.text ?? "").join(" ");
  return asked ?? "";
}

/** @param {any} roles */
function examples(roles) {
  const said = ["train", "replay", "holdout", "retained"]
    .filter((role) => roles[role].count)
    .map((role) => `${role} ${number(roles[role].count)} (${sources(roles[role].sources)})`);
  const words = ["train", "holdout"].flatMap((role) =>
    roles[role].words.map((/** @type {any} */ each) => [role, each.question, each.target]),
  );
  return h(
    "div",
    {},
    h("p", {}, said.join(" · ")),
    words.length > 0 && table("Some of them", ["role", "asked", "right answer"], words),
  );
}

/** @param {Record<string, number>} counts */
function sources(counts) {
  return Object.entries(counts)
    .map(([name, count]) => `${name} ${count}`)
    .join(", ");
}

/** @param {any} after */
function after(after) {
  const lines = [];
  if (after.promoted_by)
    lines.push(
      `Promoted by ${after.promoted_by.actor} at ${time(after.promoted_by.at)}: ${after.promoted_by.reason}${after.promoted_by.forced ? " (against the gate)" : ""}.`,
    );
  for (const period of after.served)
    lines.push(
      `Served from ${time(period.from)} until ${period.until === null ? "now" : time(period.until)}${period.share ? ` to ${number(100 * period.share)} % of the conversations` : ""}.`,
    );
  if (after.traffic)
    lines.push(capital(traffic(after.traffic)), ...(after.before ? [`Before it, ${traffic(after.before)}`] : []));
  for (const alarm of after.alarms) lines.push(`Alarm at ${time(alarm.created_at)}: ${alarm.signal}, ${alarm.action}.`);
  if (after.ended_by)
    lines.push(
      `Ended by ${after.ended_by.actor} at ${time(after.ended_by.at)} (${after.ended_by.action} to ${named(after.ended_by.to)}): ${after.ended_by.reason}.`,
    );
  if (after.removed) lines.push(`Its files were removed at ${time(after.removed.at)}: ${after.removed.because}.`);
  return h(
    "ul",
    {},
    lines.map((line) => h("li", {}, line)),
  );
}

/** @param {any} told */
function traffic(told) {
  const all = Object.values(told.answers).reduce((sum, count) => sum + count, 0);
  const share = told.negative_share === null ? "" : `, ${number(100 * told.negative_share)} % found bad`;
  return `${named(told.version)} gave ${counted(all, "answer")}${share}.`;
}
