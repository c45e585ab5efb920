/** What was recorded and what became of it: search, quarantine, release; forgetting is in forget.js. */

import { get, post } from "./api.js";
import { confirm, notice, trying } from "./dialogs.js";
import { button, fill, h, labelled, put } from "./dom.js";
import { ago, counted, named, time } from "./format.js";
import { forget, forgetForm } from "./forget.js";
import { pagedList, unfolding } from "./lists.js";
import { mark } from "./verdict.js";

const PAGE = 25;
const KINDS = { interactions: "Interactions", examples: "Examples", quarantine: "In quarantine" };

/**
 * @param {HTMLElement} panel
 * @param {import("./app.js").Page} _page
 * @returns {import("./app.js").View}
 */
export function startData(panel, _page) {
  const words = h("input", { type: "search", placeholder: "words in question or answer" });
  const source = h("input", { type: "search", placeholder: "any" });
  const choice = h(
    "select",
    {},
    Object.entries(KINDS).map(([value, label]) => h("option", { value }, label)),
  );
  const form = h(
    "form",
    { class: "row", role: "search" },
    labelled("Show", choice),
    labelled("Containing", words),
    labelled("From source", source),
    h("button", { class: "primary" }, "Search"),
  );
  const reasons = h("ul", { class: "losses" });
  const results = h("div", {});

  const asked = () => ({ contains: words.value, source: source.value, limit: PAGE });
  const interactions = pagedList({
    read: async (before) => (await get("/admin/data/interactions", { ...asked(), before })).interactions,
    place: (row) => row.id,
    show: (row) => interaction(row, look),
    size: PAGE,
    empty: "Nothing was recorded that is like this.",
  });
  const examples = pagedList({
    read: async (before) =>
      (
        await get("/admin/data/examples", {
          ...asked(),
          before,
          state: choice.value === "quarantine" ? "quarantined" : "",
        })
      ).examples,
    place: (row) => row.id,
    show: (row) => example(row, look),
    size: PAGE,
    empty: "There are no such examples.",
  });
  const look = async () => {
    const list = choice.value === "interactions" ? interactions : examples;
    reasons.hidden = choice.value !== "quarantine";
    if (!reasons.hidden) {
      const stats = await trying(() => get("/admin/data/stats"));
      const held = stats?.stages.find((/** @type {any} */ stage) => stage.stage === "examples")?.losses ?? [];
      fill(
        reasons,
        held.map((/** @type {any} */ loss) => h("li", {}, loss.text)),
      );
    }
    if (results.firstChild !== list.element) fill(results, list.element);
    await list.load();
  };

  form.addEventListener("submit", (/** @type {Event} */ event) => {
    event.preventDefault();
    look();
  });
  choice.addEventListener("change", look);
  put(
    panel,
    h("section", { class: "block" }, h("h2", {}, "What was recorded"), form, reasons, results),
    forgetForm(look),
  );
  return { show: look };
}

/** @param {any} row @param {() => Promise<void>} look */
function interaction(row, look) {
  const who = row.user ? `${row.source}/${row.user}` : row.source;
  const came = [
    row.feedback && counted(row.feedback, "piece") + " of feedback",
    row.examples && counted(row.examples, "example"),
  ]
    .filter(Boolean)
    .join(", ");
  return h(
    "article",
    { "data-interaction": row.id },
    h("p", { class: "asked" }, row.question ?? "(no question)"),
    h("p", { class: "words" }, row.answer ?? ""),
    h(
      "p",
      { class: "meta", title: time(row.created_at) },
      `${named(row.version)} · ${who} · ${ago(row.created_at)}${row.state === "completed" ? "" : ` · ${row.state}`}${came ? ` · ${came}` : ""}`,
    ),
    unfolding(["What came of it"], `story-${row.id}`, async () => [
      cameOf(await get(`/admin/why/interactions/${encodeURIComponent(row.id)}`)),
      h(
        "div",
        { class: "actions" },
        button("Forget", () => forget({ interaction: row.id }, look), { class: "danger" }),
      ),
    ]),
  );
}

/** @param {any} told the story of an interaction */
function cameOf(told) {
  const lines = [
    ...told.feedback.map(
      (/** @type {any} */ each) =>
        `${each.kind}${each.value === null ? "" : ` ${each.value}`} by ${each.source}: ${each.text ?? each.status}`,
    ),
    ...told.examples.map((/** @type {any} */ each) => `Example ${each.id}: ${each.because}`),
    told.served.because,
  ];
  return h(
    "div",
    { class: "folded" },
    h("p", {}, h("code", {}, told.interaction.id)),
    conversation(told.interaction.messages),
    h(
      "ul",
      {},
      lines.map((line) => h("li", {}, line)),
    ),
  );
}

/** @param {any[]} messages */
function conversation(messages) {
  return h(
    "dl",
    { class: "messages" },
    messages.flatMap((message) => [
      h("dt", {}, message.role),
      h("dd", {}, typeof message.content === "string" ? message.content : JSON.stringify(message.content)),
    ]),
  );
}

/** @param {any} row @param {() => Promise<void>} look */
function example(row, look) {
  const held = row.state === "quarantined";
  const why = row.reason ? `${row.reason}${row.detail ? `: ${row.detail}` : ""}` : "";
  const act = held
    ? button("Release", () => release(row.id, look), { "data-focus": `move-${row.id}` })
    : button("Quarantine", () => quarantine(row.id, look), { "data-focus": `move-${row.id}` });
  return h(
    "article",
    { "data-example": row.id },
    h("p", { class: "asked" }, row.question ?? "(no question)"),
    h("p", { class: "words" }, row.target ?? ""),
    h(
      "p",
      { class: "meta" },
      mark(row.state),
      ` ${row.kind} · ${row.user ? `${row.source}/${row.user}` : row.source} · ${ago(row.created_at)}`,
    ),
    why && h("p", { class: "reason" }, why),
    h("div", { class: "actions" }, row.state !== "forgotten" && act),
    unfolding(["Details"], `example-${row.id}`, async () => [details(await get(`/admin/data/examples/${row.id}`))]),
  );
}

/** @param {any} told an example with all that is known of it */
function details(told) {
  const lines = [
    ...told.updates.map((/** @type {any} */ use) => `Update ${use.update}: ${use.role}, ${use.outcome}`),
    ...told.learned_from.map((/** @type {any} */ use) => `Version ${use.version} knows it`),
    ...told.contradicts.map(
      (/** @type {any} */ other) => `Contradicts example ${other.id} of ${other.source} (${other.state})`,
    ),
    told.duplicates > 0 && `Said ${told.duplicates} times more`,
    told.vouched && "An operator vouches for it",
  ].filter(Boolean);
  return h(
    "div",
    { class: "folded" },
    conversation([...told.messages, { role: "right answer", content: told.target }]),
    h(
      "ul",
      {},
      lines.map((line) => h("li", {}, line)),
    ),
  );
}

/** @param {number} id @param {() => Promise<void>} look */
function release(id, look) {
  return trying(async () => {
    const lines = ["It may train again; you vouch for it. What contradicts it goes into quarantine in its place."];
    const answer = await confirm({
      title: `Release example ${id}?`,
      lines,
      action: "Release it",
      fields: [{ name: "reason", label: "Reason (for the audit log)", value: "asked by the operator", required: true }],
    });
    if (answer === null) return;
    await post("/admin/data/release", { examples: [id], ...answer });
    notice(`Example ${id} may train.`);
    await look();
  });
}

/** @param {number} id @param {() => Promise<void>} look */
function quarantine(id, look) {
  return trying(async () => {
    const plan = await post("/admin/data/quarantine", { examples: [id], dry_run: true });
    const known = plan.learned_from.map((/** @type {any} */ use) => use.version).join(", ");
    const lines = [
      "It trains no update any more until it is released.",
      known ? `Versions that know it already: ${known}.` : "No version knows it.",
    ];
    const answer = await confirm({
      title: `Put example ${id} into quarantine?`,
      lines,
      action: "Quarantine",
      fields: [{ name: "reason", label: "Reason (for the audit log)", value: "asked by the operator", required: true }],
    });
    if (answer === null) return;
    await post("/admin/data/quarantine", { examples: [id], ...answer });
    notice(`Example ${id} is in quarantine.`);
    await look();
  });
}
