/** What is said to a person and asked of one: notices, confirmations, the key. */

import { ApiError, isKnown, keepKey } from "./api.js";
import { button, h, labelled } from "./dom.js";

const SHOWN_MS = 6000;

/**
 * Says something for some seconds.
 * @param {string} text
 * @param {"done" | "failed"} [kind]
 */
export function notice(text, kind = "done") {
  const made = h("div", { class: `notice ${kind}`, role: kind === "failed" ? "alert" : null }, h("span", {}, text));
  made.append(button("Close", () => made.remove(), { class: "quiet" }));
  document.getElementById("notices")?.append(made);
  if (kind === "done") setTimeout(() => made.remove(), SHOWN_MS);
}

/**
 * Does something and says why it could not be done, if so.
 * @template T
 * @param {() => Promise<T>} work
 * @returns {Promise<T | undefined>}
 */
export async function trying(work) {
  try {
    return await work();
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    notice(error.message, "failed");
    return undefined;
  }
}

/**
 * @typedef {{name: string, label: string, value?: string, type?: string, required?: boolean, step?: string, min?: string, max?: string}} Field
 * @typedef {{title: string, lines?: (string | Node)[], action: string, danger?: boolean, fields?: Field[]}} Question
 */

/**
 * Asks before something is done.
 * @param {Question} question
 * @returns {Promise<Record<string, string> | null>} what was filled in; null: it is not wanted
 */
export function confirm({ title, lines = [], action, danger = false, fields = [] }) {
  const inputs = fields.map((field) =>
    h("input", {
      name: field.name,
      value: field.value,
      type: field.type ?? "text",
      required: field.required,
      step: field.step,
      min: field.min,
      max: field.max,
      autocomplete: "off",
    }),
  );
  return new Promise((resolve) => {
    const dialog = open(title, [
      ...lines.map((line) => (line instanceof Node ? line : h("p", {}, line))),
      ...fields.map((field, at) => labelled(field.label, inputs[at])),
    ]);
    const form = dialog.querySelector("form");
    form.append(
      h(
        "div",
        { class: "actions" },
        button("Cancel", () => dialog.close()),
        h("button", { class: danger ? "danger" : "primary" }, action),
      ),
    );
    /** @type {Record<string, string> | null} */
    let found = null;
    form.addEventListener("submit", (/** @type {Event} */ event) => {
      event.preventDefault();
      found = Object.fromEntries(inputs.map((input) => [input.name, input.value]));
      dialog.close();
    });
    dialog.addEventListener("close", () => resolve(found));
  });
}

/**
 * Asks for a key until one is known, and keeps it.
 * @returns {Promise<boolean>} false if the person has none
 */
export function askForKey() {
  const input = h("input", {
    type: "password",
    autocomplete: "off",
    required: true,
    spellcheck: "false",
    placeholder: "sl-…",
  });
  const said = h("p", { class: "problem", role: "alert" });
  return new Promise((resolve) => {
    const dialog = open("A key is needed", [
      h(
        "p",
        {},
        "This daemon asks for keys. Operators make them with ",
        h("code", {}, "selflearn keys add NAME --role ROLE"),
        ".",
      ),
      labelled("Key", input),
      said,
    ]);
    const form = dialog.querySelector("form");
    form.append(
      h(
        "div",
        { class: "actions" },
        button("Cancel", () => dialog.close()),
        h("button", { class: "primary" }, "Use this key"),
      ),
    );
    let known = false;
    form.addEventListener("submit", async (/** @type {Event} */ event) => {
      event.preventDefault();
      said.textContent = "";
      const key = input.value.trim();
      try {
        known = await isKnown(key);
      } catch (error) {
        said.textContent =
          error instanceof ApiError ? error.message : "This cannot be a key, or the daemon does not answer.";
        return;
      }
      if (known) {
        keepKey(key);
        dialog.close();
        return;
      }
      said.textContent = "This key is not known here: it was mistyped, removed, or made for another server.";
      input.select();
    });
    dialog.addEventListener("close", () => resolve(known));
  });
}

/**
 * @param {string} title
 * @param {Node[]} content
 * @returns {HTMLDialogElement & any} a dialog with a form in it; it goes when it is closed
 */
function open(title, content) {
  const id = `title-${Math.random().toString(36).slice(2)}`;
  const dialog = h(
    "dialog",
    { "aria-labelledby": id },
    h("form", { method: "dialog" }, h("h2", { id }, title), content),
  );
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
  dialog.querySelector("input")?.focus();
  return dialog;
}
