/** Chat with what is served, with any other version, or with two side by side. */

import { ApiError, events, get, post, send } from "./api.js";
import { newAnswer } from "./answer.js";
import { notice, trying } from "./dialogs.js";
import { button, fill, h, labelled, put } from "./dom.js";
import { capital, named } from "./format.js";

const SERVED = "selflearn";
/** So many versions are offered, the newest; the others are found under Versions. */
const OFFERED = 100;

/**
 * @param {HTMLElement} panel
 * @param {import("./app.js").Page} page
 * @returns {import("./app.js").View}
 */
export function startChat(panel, page) {
  const first = h("select", { id: "model" });
  const second = h("select", { id: "second-model" });
  const both = h("input", { type: "checkbox", id: "both" });
  const beside = labelled("Beside it", second);
  const tokens = h("input", { type: "number", min: 1, max: 4096, value: 256, inputmode: "numeric" });
  const warmth = h("input", {
    type: "number",
    min: 0,
    max: 2,
    step: 0.1,
    placeholder: "default",
    inputmode: "decimal",
  });
  const log = h("div", { class: "log", role: "log", "aria-label": "Conversation", tabindex: "0" });
  const area = h("textarea", { id: "prompt", rows: 2, placeholder: "Ask something …", "aria-label": "Your message" });
  const submit = h("button", { class: "primary" }, "Send");
  const stop = button("Stop", () => stopping.abort(), { hidden: true });
  const announced = h("p", { class: "unseen", role: "status", "aria-live": "polite" });
  const form = h("form", { class: "composer" }, area, h("div", { class: "actions" }, submit, stop));

  /** @type {{role: string, content: string}[]} */
  let messages = [];
  let conversation = newName();
  /** @type {import("./answer.js").Answer | null} the answer that the conversation goes on from */
  let last = null;
  let stopping = new AbortController();

  const restart = () => {
    messages = [];
    last = null;
    conversation = newName();
    empty(log);
    area.focus();
  };

  const showBoth = () => {
    beside.hidden = !both.checked;
  };

  const options = () => ({
    max_tokens: Number(tokens.value) || 256,
    ...(warmth.value !== "" && { temperature: Number(warmth.value) }),
  });

  /**
   * @param {string} model
   * @param {import("./answer.js").Answer} answer
   */
  const ask = async (model, answer) => {
    try {
      await load(model, page);
      const body = { model, messages, stream: true, ...options() };
      const headers = { "x-selflearn-conversation": conversation };
      const response = await send("POST", "/v1/chat/completions", { body, headers, signal: stopping.signal });
      answer.by(Number(response.headers.get("x-selflearn-version")));
      let reason = "";
      for await (const chunk of events(response)) {
        answer.add(chunk.id, chunk.choices[0]?.delta?.content ?? "");
        reason = chunk.choices[0]?.finish_reason ?? reason;
        log.scrollTop = log.scrollHeight;
      }
      answer.end(reason);
    } catch (error) {
      const stopped = error instanceof DOMException;
      if (!stopped && !(error instanceof ApiError)) throw error;
      answer.fail(stopped ? "Stopped." : /** @type {ApiError} */ (error).message);
    }
  };

  /** @param {string} text */
  const turn = async (text) => {
    if (!messages.length) log.replaceChildren();
    if (last) messages.push({ role: "assistant", content: last.text() });
    messages.push({ role: "user", content: text });
    const models = both.checked ? [first.value, second.value] : [first.value];
    const answers = models.map(() => newAnswer(page.caller.role !== "client"));
    const row = h(
      "div",
      { class: `answers of-${answers.length}` },
      answers.map((answer) => answer.element),
    );
    put(log, h("div", { class: "question" }, text), row);
    log.scrollTop = log.scrollHeight;
    stopping = new AbortController();
    running(true);
    await Promise.all(models.map((model, at) => ask(model, answers[at])));
    running(false);
    if (answers.length === 2) answers.forEach((answer, at) => answer.offerBetter(answers[1 - at]));
    last = answers.find((answer) => answer.text()) ?? null;
    if (last === null) messages.pop();
    announced.textContent = answers
      .map((answer) => `${answer.element.getAttribute("aria-label")}: ${answer.text()}`)
      .join("; ");
    log.scrollTop = log.scrollHeight;
  };

  /** @param {boolean} runs */
  const running = (runs) => {
    submit.disabled = runs;
    stop.hidden = !runs;
  };

  form.addEventListener("submit", async (/** @type {Event} */ event) => {
    event.preventDefault();
    const text = area.value.trim();
    if (!text || submit.disabled) return;
    area.value = "";
    await turn(text);
  });
  area.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    form.requestSubmit();
  });
  both.addEventListener("change", showBoth);

  const more = h(
    "details",
    {},
    h("summary", {}, "Options"),
    h("div", { class: "row" }, labelled("Longest answer, in tokens", tokens), labelled("Temperature", warmth)),
  );
  const side = labelled("Two side by side", both, "check");
  put(
    panel,
    h(
      "div",
      { class: "row chat-head" },
      labelled("Ask", first),
      side,
      beside,
      button("New conversation", restart),
      more,
    ),
    log,
    form,
    announced,
  );
  showBoth();
  empty(log);

  return {
    show: () => offer([first, second], page),
    async compare(one, two) {
      await offer([first, second], page);
      both.checked = true;
      choose(first, one);
      choose(second, two);
      showBoth();
      area.focus();
    },
  };
}

/** @returns {string} that no other conversation has */
function newName() {
  return [...crypto.getRandomValues(new Uint8Array(12))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** @param {HTMLElement} log */
function empty(log) {
  fill(
    log,
    h(
      "p",
      { class: "empty" },
      "Ask something. Every answer says which version wrote it. Correct what is wrong: what you save is learned, if the gate lets it pass.",
    ),
  );
}

/**
 * Offers the versions that can be asked; operators may have any loaded.
 * @param {HTMLSelectElement[]} selects
 * @param {import("./app.js").Page} page
 */
async function offer(selects, page) {
  const found = await trying(async () => {
    const models = (await get("/v1/models")).data;
    const all = page.caller.role === "operator" ? (await get("/admin/versions", { limit: OFFERED })).versions : [];
    return { models, all };
  });
  if (found === undefined) return;
  const now = found.models.find((/** @type {any} */ model) => model.id === SERVED)?.version;
  const numbers = new Set(
    found.models
      .filter((/** @type {any} */ model) => model.id !== SERVED)
      .map((/** @type {any} */ model) => model.version),
  );
  for (const row of found.all) if (!row.removed) numbers.add(row.version);
  for (const select of selects) {
    const chosen = select.value || (select.id === "model" ? SERVED : `${SERVED}@0`);
    const listed = /** @type {number[]} */ ([...numbers]).sort((a, b) => b - a);
    fill(
      select,
      h("option", { value: SERVED }, `What is served (${named(now)})`),
      listed.map((number) => h("option", { value: `${SERVED}@${number}` }, capital(named(number)))),
    );
    select.value = chosen;
    if (!select.value) select.value = SERVED;
  }
}

/**
 * @param {HTMLSelectElement} select
 * @param {number} version
 */
function choose(select, version) {
  const value = `${SERVED}@${version}`;
  if (![...select.options].some((option) => option.value === value))
    put(select, h("option", { value }, capital(named(version))));
  select.value = value;
}

/**
 * Has a version loaded if it is not; only operators may.
 * @param {string} model
 * @param {import("./app.js").Page} page
 */
async function load(model, page) {
  const number = model.split("@")[1];
  if (number === undefined || page.caller.role !== "operator") return;
  const models = (await get("/v1/models")).data;
  if (models.some((/** @type {any} */ each) => each.id === model)) return;
  notice(`Loading ${named(Number(number))} …`);
  await post(`/admin/versions/${number}/load`);
}
