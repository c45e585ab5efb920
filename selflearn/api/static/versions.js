/** The versions: what is served, what each one measured and learned, and every change of what is served. */

import { get } from "./api.js";
import { chart } from "./charts.js";
import { trying } from "./dialogs.js";
import { diff } from "./diff.js";
import { button, fill, h, labelled, put } from "./dom.js";
import { ago, capital, named, number, time } from "./format.js";
import { pagedList, unfolding } from "./lists.js";
import { endCanary, force, pin, promote, rollBack, startCanary, unpin } from "./orders.js";
import { story } from "./story.js";
import { gateLine } from "./verdict.js";

const PAGE = 20;
/** The checks that the chart shows: losses in nats, all of one kind. */
const DRAWN = ["learned", "retained", "anchored"];

/**
 * @param {HTMLElement} panel
 * @param {import("./app.js").Page} page
 * @returns {import("./app.js").View}
 */
export function startVersions(panel, page) {
  const present = h("section", { class: "block" });
  const drawn = h("div", {});
  const compared = comparison(page);
  /** @type {any} */
  let status = null;
  /** @type {Map<number, any>} verdicts of those that are shown */
  const verdicts = new Map();

  const done = async (/** @type {Promise<unknown>} */ order) => {
    if (await order) await look();
  };
  const list = pagedList({
    read: async (before) => {
      const [{ versions }, { updates }] = await Promise.all([
        get("/admin/versions", { limit: PAGE, before }),
        get("/admin/updates", { limit: PAGE, before, state: "promoted" }),
      ]);
      for (const update of updates) verdicts.set(update.id, update.verdict);
      return versions;
    },
    place: (row) => row.version,
    show: (row) => card(row, verdicts.get(row.version), status, done),
    size: PAGE,
    empty: "There is no version yet.",
    told: async (rows) => {
      compared.offer(rows.map((row) => row.version));
      fill(drawn, await gateChart(rows, verdicts));
    },
  });
  const log = pagedList({
    read: async (before) => (await get("/admin/rollouts", { limit: PAGE, before })).rollouts,
    place: (row) => row.id,
    show: rollout,
    size: PAGE,
    empty: "What is served was never changed.",
  });
  const look = async () => {
    const found = await trying(() => get("/admin/status"));
    if (!found) return;
    status = found;
    fill(present, presently(found, done));
    await Promise.all([list.load(), log.load(), page.refresh()]);
  };

  const changes = h("section", { class: "block" }, h("h2", {}, "Changes of what is served"), log.element);
  put(
    panel,
    present,
    h("section", { class: "block" }, h("h2", {}, "Timeline"), drawn, list.element),
    compared.element,
    changes,
  );
  return { show: look };
}

/**
 * What is served now, the canary beside it, and what may be done about them.
 * @param {any} status
 * @param {(order: Promise<unknown>) => Promise<void>} done
 */
function presently(status, done) {
  const { served, canary, kept_candidates: kept } = status;
  const since = served.since === null ? "since the beginning" : `since ${time(served.since)} (${served.action})`;
  const held = status.pins.find((/** @type {any} */ each) => each.held);
  const back = button("Roll back", () => done(rollBack()), {
    class: "danger",
    "data-focus": "back",
    disabled: served.since === null,
  });
  return [
    h("h2", {}, "Served now"),
    h("p", { class: "lead" }, `${capital(named(served.version))}${served.forced ? ", against the gate" : ""}`),
    h(
      "p",
      { class: "meta" },
      since,
      " · ",
      h("code", { title: "SHA-256 of its weights" }, served.sha256.slice(0, 12)),
      held ? ` · held by ${held.actor}: ${held.reason}` : "",
    ),
    h("div", { class: "actions" }, back),
    canary && trial(canary, done),
    kept.updates.length > 0 && refused(kept.updates, done),
  ];
}

/** @param {any} canary @param {(order: Promise<unknown>) => Promise<void>} done */
function trial(canary, done) {
  const until = canary.until === null ? "until it is ended" : `until ${time(canary.until)}`;
  return h(
    "div",
    { class: "trial" },
    h(
      "p",
      {},
      `Canary: ${named(canary.version)} answers ${number(100 * canary.share)} % of the conversations, ${until}.`,
    ),
    h(
      "div",
      { class: "actions" },
      button("Serve it to everybody", () => done(endCanary("promote")), { "data-focus": "canary" }),
      button("End the canary", () => done(endCanary("abort")), { class: "danger" }),
    ),
  );
}

/** @param {number[]} updates whose candidates are kept @param {(order: Promise<unknown>) => Promise<void>} done */
function refused(updates, done) {
  const buttons = updates.map((update) =>
    button(`Serve update ${update} against the gate`, () => done(force(update)), { "data-focus": `force-${update}` }),
  );
  return h(
    "details",
    {},
    h("summary", {}, `Candidates that the gate did not let pass (${updates.length})`),
    h("div", { class: "actions" }, buttons),
  );
}

/**
 * A version in the timeline.
 * @param {any} row
 * @param {any} verdict
 * @param {any} status
 * @param {(order: Promise<unknown>) => Promise<void>} done
 */
function card(row, verdict, status, done) {
  const number = row.version;
  const pinned = status.pins.find((/** @type {any} */ each) => each.version === number);
  const marks = [
    row.served && "served",
    status.canary?.version === number && "canary",
    row.forced && "against the gate",
    pinned && (pinned.held ? "held" : "pinned"),
    row.removed && `files removed (${row.removed.because})`,
  ].filter(Boolean);
  const from = number === 0 ? "" : `from ${named(row.parent)}, started by ${row.trigger} · `;
  return h(
    "article",
    { "aria-label": capital(named(number)), "data-version": number },
    h(
      "header",
      {},
      h("strong", {}, capital(named(number))),
      marks.map((mark) => h("span", { class: `mark ${mark === "served" ? "pass" : ""}` }, mark)),
      h("span", { class: "meta", title: time(row.created_at) }, from, ago(row.created_at)),
    ),
    gateLine(verdict),
    h("div", { class: "actions" }, orders(row, pinned, status, done)),
    number > 0 && unfolding(["What it learned"], `story-${number}`, async () => [await story(number)]),
  );
}

/** @param {any} row @param {any} pinned @param {any} status @param {(order: Promise<unknown>) => Promise<void>} done */
function orders(row, pinned, status, done) {
  const version = row.version;
  const served = status.served.version;
  const focus = (/** @type {string} */ what) => ({ "data-focus": `${what}-${version}` });
  const trying = status.canary?.version === version;
  const able = !row.served && !row.removed;
  return [
    able && version < served && button("Roll back to it", () => done(rollBack(version)), focus("serve")),
    able && version > served && button("Serve it", () => done(promote(version, served)), focus("serve")),
    able && version > 0 && !trying && button("Try as canary", () => done(startCanary(version)), focus("try")),
    version > 0 &&
      !row.removed &&
      (pinned
        ? button("Unpin", () => done(unpin(version)), focus("pin"))
        : button("Pin", () => done(pin(version, false)), focus("pin"))),
    row.served && !pinned?.held && button("Hold in service", () => done(pin(version, true)), focus("hold")),
  ];
}

/** @param {any} row */
function rollout(row) {
  const share = row.share === null ? "" : ` for ${number(100 * row.share)} % of the conversations`;
  return h(
    "div",
    {},
    h("strong", {}, `${capital(row.action)}: ${named(row.version)}`),
    share,
    h("p", { class: "meta" }, `${time(row.created_at)} · ${row.actor} · ${row.reason}`),
  );
}

/**
 * The gate's numbers of the versions that are shown, by version.
 * @param {any[]} rows
 * @param {Map<number, any>} verdicts
 */
async function gateChart(rows, verdicts) {
  const shown = rows
    .map((row) => row.version)
    .filter((version) => verdicts.get(version))
    .reverse();
  if (shown.length < 2) return null;
  const value = (/** @type {number} */ version, /** @type {string} */ name) =>
    verdicts.get(version).checks.find((/** @type {any} */ check) => check.name === name)?.value;
  const series = DRAWN.map((name) => ({
    label: name,
    dots: true,
    points: /** @type {[number, number][]} */ (
      shown.map((version) => [version, value(version, name)]).filter(([, found]) => typeof found === "number")
    ),
  }));
  return h(
    "figure",
    {},
    await chart("What the gate measured, by version", "version", series),
    h(
      "figcaption",
      { class: "meta" },
      "What the gate measured of each version, in nats per token: learned should be high, retained and anchored low.",
    ),
  );
}

/** @param {import("./app.js").Page} page */
function comparison(page) {
  const [one, two] = [h("select", {}), h("select", {})];
  const found = h("div", {});
  const show = button("Show what differs", async () => {
    const told = await trying(() => diff(Number(one.value), Number(two.value), page.compare));
    if (told) fill(found, told);
  });
  const element = h(
    "section",
    { class: "block" },
    h("h2", {}, "Difference"),
    h("div", { class: "row" }, labelled("From", one), labelled("to", two), show),
    found,
  );
  /** @param {number[]} versions latest first */
  const offer = (versions) => {
    const all = versions.includes(0) ? versions : [...versions, 0];
    const before = [one.value || String(all[1] ?? 0), two.value || String(all[0])];
    [one, two].forEach((select, at) => {
      fill(
        select,
        all.map((version) => h("option", { value: version }, capital(named(version)))),
      );
      select.value = before[at];
    });
  };
  return { element, offer };
}
