/** The start: who asks, what they may see, and which view is shown. */

import { get, keepKey, whenKeyIsNeeded } from "./api.js";
import { startChat } from "./chat.js";
import { startData } from "./data.js";
import { askForKey, trying } from "./dialogs.js";
import { named } from "./format.js";
import { startLearning } from "./learning.js";
import { tabs } from "./tabs.js";
import { startVersions } from "./versions.js";

const SERVING_SECONDS = 5;

/**
 * What a view is given, and what it gives.
 * @typedef {{name: string, role: "client" | "teacher" | "operator", keys: boolean}} Caller
 * @typedef {object} Page
 * @property {Caller} caller
 * @property {(first: number, second: number) => void} compare asks two versions side by side in the chat
 * @property {() => Promise<void>} refresh looks anew at what is served
 * @typedef {{show: () => unknown, tick?: () => unknown, compare?: (first: number, second: number) => unknown}} View
 */

/** @param {string} id */
const byId = (id) => /** @type {HTMLElement} */ (document.getElementById(id));

async function start() {
  startTheme();
  whenKeyIsNeeded(askForKey);
  const caller = await trying(() => get("/v1/caller"));
  if (caller === undefined) return;
  startKey(caller);
  /** @type {Page} */
  const page = { caller, compare: (first, second) => compare(first, second), refresh: showServing };
  /** @type {Record<string, View>} */
  const views = { chat: startChat(byId("panel-chat"), page) };
  if (caller.role === "operator") {
    views.learning = startLearning(byId("panel-learning"), page);
    views.versions = startVersions(byId("panel-versions"), page);
    views.data = startData(byId("panel-data"), page);
    for (const name of Object.keys(views)) byId(`tab-${name}`).hidden = false;
  }
  let shown = "chat";
  const show = tabs(byId("tabs"), (name) => {
    shown = name;
    views[name].show();
    history.replaceState(null, "", name === "chat" ? "/" : `#${name}`);
  });
  /** @param {number} first @param {number} second */
  const compare = (first, second) => {
    show("chat");
    views.chat.compare?.(first, second);
  };
  show(location.hash.slice(1) in views ? location.hash.slice(1) : "chat");
  every(SERVING_SECONDS, showServing);
  every(1, () => views[shown].tick?.());
  await showServing();
}

/** Says in the head of the page which version answers. */
async function showServing() {
  const said = byId("serving");
  try {
    const ready = await get("/readyz");
    said.textContent = `${named(ready.version)} answers${ready.recording ? "" : "; nothing can be recorded"}`;
    said.dataset.version = ready.version;
  } catch (error) {
    said.textContent = error instanceof Error ? error.message : String(error);
  }
}

/**
 * Does something again and again, one at a time, as long as somebody can see it.
 * @param {number} seconds
 * @param {() => unknown} work
 */
function every(seconds, work) {
  let busy = false;
  setInterval(async () => {
    if (busy || document.hidden) return;
    busy = true;
    try {
      await work();
    } finally {
      busy = false;
    }
  }, seconds * 1000);
}

/** @param {Caller} caller */
function startKey(caller) {
  const key = byId("key");
  key.hidden = !caller.keys;
  key.title = `${caller.name} (${caller.role})`;
  key.addEventListener("click", () => {
    keepKey(null);
    location.reload();
  });
}

function startTheme() {
  const toggle = byId("theme");
  const root = document.documentElement;
  const dark = () =>
    (root.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const label = () => (toggle.textContent = dark() ? "Light" : "Dark");
  const changed = () => {
    label();
    document.dispatchEvent(new Event("themechange"));
  };
  toggle.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    localStorage.setItem("selflearn.theme", root.dataset.theme);
    changed();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", changed);
  label();
}

start();
