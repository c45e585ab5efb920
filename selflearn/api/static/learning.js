/** What learning does and waits for, what becomes of all that comes in, and how the gate judged. */

import { get, post } from "./api.js";
import { lossChart } from "./charts.js";
import { confirm, notice, trying } from "./dialogs.js";
import { button, fill, h, put } from "./dom.js";
import { capital, counted, duration, number } from "./format.js";
import { pagedList } from "./lists.js";
import { updateCard } from "./verdict.js";

const PAGE = 10;
const POLL_SECONDS = 2;

/**
 * @param {HTMLElement} panel
 * @param {import("./app.js").Page} page
 * @returns {import("./app.js").View}
 */
export function startLearning(panel, page) {
  const next = nextUpdate();
  const funnel = h("ol", { class: "funnel" });
  const updates = pagedList({
    read: async (before) => (await get("/admin/updates", { limit: PAGE, before })).updates,
    place: (update) => update.id,
    show: updateCard,
    size: PAGE,
    empty: "No update was made yet.",
  });
  let seconds = 0;
  let seen = "";

  const look = async () => {
    const [learning, stats] = await Promise.all([get("/admin/learn"), get("/admin/data/stats")]);
    next.say(learning);
    await next.draw(learning.running);
    fill(funnel, stats.stages.map(stage(stats.stages)));
    const state = `${learning.running?.update} ${learning.last?.update}`;
    if (state === seen) return;
    seen = state;
    await Promise.all([updates.load(), page.refresh()]);
  };
  const order = (/** @type {() => Promise<unknown>} */ work) => trying(work).then(() => trying(look));

  const now = button("Learn now", () =>
    order(async () => notice(`Update ${(await post("/admin/learn", { trigger: "operator" })).update} has begun.`)),
  );
  now.classList.add("primary");
  const pause = button("Pause", () => order(() => post(`/admin/learn/${next.paused() ? "resume" : "pause"}`)));
  const cancel = button("Cancel the update", async () => {
    const sure = await confirm({
      title: "Cancel the running update?",
      lines: ["What it has learned so far is lost; its examples wait for the next one."],
      action: "Cancel the update",
      danger: true,
    });
    if (sure) await order(() => post("/admin/learn/cancel"));
  });
  next.controls(now, pause, cancel);

  put(
    panel,
    next.element,
    h("section", { class: "block" }, h("h2", {}, "What becomes of it"), funnel),
    h("section", { class: "block" }, h("h2", {}, "Updates"), updates.element),
  );
  return {
    show: () => {
      seen = "";
      return trying(look);
    },
    tick: () => (++seconds % POLL_SECONDS === 0 ? quietly(look) : undefined),
  };
}

/** The card that says what runs, or why nothing does. */
function nextUpdate() {
  const state = h("p", { class: "lead", role: "status" });
  const bar = h("progress", { max: 1, "aria-label": "Progress of the update" });
  const detail = h("p", { class: "meta" });
  const curves = h("div", {});
  const actions = h("div", { class: "actions" });
  let paused = false;
  let drawn = "";

  /** @param {any} learning the shape of GET /admin/learn */
  const say = (learning) => {
    const run = learning.running;
    paused = learning.paused;
    state.textContent = run ? `Update ${run.update}: ${run.phase}` : learning.why_not;
    bar.hidden = !run && learning.needed === 0;
    bar.setAttribute("aria-label", run ? "Progress of the update" : "New examples for the next update");
    if (run && !run.steps) bar.removeAttribute("value");
    else bar.value = Math.min(1, run ? run.step / run.steps : learning.fresh / learning.needed);
    detail.textContent = run ? runningLine(run) : waitingLine(learning);
    const [now, pause, cancel] = actions.children;
    now.toggleAttribute("disabled", Boolean(run));
    cancel.toggleAttribute("hidden", !run);
    pause.textContent = paused ? "Resume" : "Pause";
  };

  /** @param {any} run */
  const draw = async (run) => {
    const now = run ? `${run.update} ${run.phase} ${run.step}` : "";
    if (now === drawn) return;
    drawn = now;
    const curve = run ? await lossChart(await get(`/admin/updates/${run.update}/curve`)) : null;
    fill(curves, curve);
  };

  const element = h("section", { class: "block" }, h("h2", {}, "Next update"), state, bar, detail, curves, actions);
  return {
    element,
    say,
    draw,
    paused: () => paused,
    controls: (/** @type {Node[]} */ ...made) => put(actions, ...made),
  };
}

/** @param {any} run */
function runningLine(run) {
  const parts = [`running for ${duration(run.elapsed_seconds)}`];
  if (run.steps) parts.unshift(`step ${number(run.step)} of ${number(run.steps)}`);
  if (run.loss !== null) parts.push(`loss ${number(run.loss)}`);
  if (run.paused_seconds) parts.push(`gave way to answers for ${duration(run.paused_seconds)}`);
  if (run.seconds_left !== null) parts.push(`about ${duration(run.seconds_left)} left`);
  return parts.join(" · ");
}

/** @param {any} learning */
function waitingLine(learning) {
  const parts = [`${counted(learning.fresh, "new example")} of ${number(learning.needed)} that start an update`];
  if (!learning.enabled) parts.push("updates do not start by themselves");
  if (learning.paused) parts.push("paused");
  if (learning.rate_factor !== 1) parts.push(`learning rate × ${number(learning.rate_factor)}`);
  return parts.join(" · ");
}

/**
 * One stage of the funnel, and what does not reach the next.
 * @param {any[]} stages
 */
function stage(stages) {
  const most = Math.max(1, ...stages.map((each) => each.number));
  return (/** @type {any} */ each) =>
    h(
      "li",
      {},
      h("div", { class: "stage" }, h("strong", {}, capital(each.stage)), h("span", {}, number(each.number))),
      h("progress", { max: most, value: each.number, "aria-label": `${each.stage}: ${each.number}` }),
      each.losses.length > 0 &&
        h(
          "ul",
          { class: "losses" },
          each.losses.map((/** @type {any} */ loss) => h("li", {}, loss.text)),
        ),
    );
}

/**
 * A look that goes wrong is not told every two seconds: the head of the page says whether the daemon answers.
 * @param {() => Promise<unknown>} look
 */
async function quietly(look) {
  await look().catch(() => undefined);
}
