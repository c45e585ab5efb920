/** One answer: its words as they come, the version that wrote it, and what a person says about it. */

import { post } from "./api.js";
import { notice, trying } from "./dialogs.js";
import { button, fill, h, icon } from "./dom.js";
import { capital, named } from "./format.js";

/**
 * @typedef {object} Answer
 * @property {HTMLElement} element
 * @property {() => string} text what it says, corrected if it was
 * @property {() => string} id of the interaction; empty until it is known
 * @property {(version: number) => void} by says which version writes it
 * @property {(id: string, text: string) => void} add
 * @property {(reason: string) => void} end
 * @property {(message: string) => void} fail
 * @property {(other: Answer) => void} offerBetter lets a person say that it is better than another
 */

/**
 * @param {boolean} mayTeach whether the key of this page may give feedback
 * @returns {Answer}
 */
export function newAnswer(mayTeach) {
  const badge = h("span", { class: "badge" }, "…");
  const words = h("p", { class: "words" });
  const said = h("p", { class: "said", role: "status" });
  const actions = h("div", { class: "actions" });
  const element = h(
    "article",
    { class: "answer", "aria-busy": "true", "aria-label": "Answer" },
    h("header", {}, badge),
    words,
    actions,
    said,
  );
  let id = "";
  let corrected = "";

  /** @param {object} body */
  const tell = (body) =>
    trying(async () => {
      const receipt = await post("/v1/feedback", { interaction_id: id, ...body });
      const learned = receipt.status === "accepted" && receipt.example_id !== null;
      said.textContent = learned ? `To be learned: ${receipt.detail}` : capital(receipt.detail || receipt.status);
      return receipt;
    });

  /** @param {number} value */
  const rate = async (value) => {
    if (await tell({ kind: "rating", value })) mark(actions, value > 0 ? "Good answer" : "Bad answer");
  };

  const correct = () => {
    const form = correction(corrected || words.textContent || "", async (text) => {
      if (!(await tell({ kind: "correction", text }))) return false;
      corrected = text;
      words.replaceChildren(h("del", {}, words.textContent ?? ""), h("ins", {}, text));
      return true;
    });
    actions.after(form);
    form.querySelector("textarea").focus();
  };

  const offer = () =>
    fill(
      actions,
      pressable("Good answer", "good", () => rate(1)),
      pressable("Bad answer", "bad", () => rate(-1)),
      button("Correct", correct, { class: "quiet with-icon" }),
    );

  return {
    element,
    text: () => corrected || words.textContent || "",
    id: () => id,
    by(version) {
      badge.textContent = capital(named(version));
      badge.dataset.version = String(version);
      element.setAttribute("aria-label", `Answer of ${named(version)}`);
    },
    add(interaction, text) {
      id ||= interaction;
      words.append(text);
    },
    end(reason) {
      element.removeAttribute("aria-busy");
      if (reason === "length") said.textContent = "It was cut off at its length.";
      if (!words.textContent) said.textContent = "The answer is empty.";
      if (mayTeach && id) offer();
    },
    fail(message) {
      element.removeAttribute("aria-busy");
      element.classList.add("failed");
      said.textContent = message;
      if (mayTeach && id) offer();
    },
    offerBetter(other) {
      if (!mayTeach || !id || !other.id() || other.text() === this.text()) return;
      const better = async () => {
        if (await tell({ kind: "preference", over: other.id() })) mark(actions, "Better than the other");
      };
      actions.append(pressable("Better than the other", "better", better));
    },
  };
}

/**
 * @param {string} label
 * @param {"good" | "bad" | "better"} image
 * @param {() => unknown} act
 */
function pressable(label, image, act) {
  const made = button("", act, { class: "quiet thumb", "aria-label": label, title: label, "aria-pressed": "false" });
  made.append(icon(image));
  return made;
}

/**
 * Shows which button holds.
 * @param {HTMLElement} actions
 * @param {string} label
 */
function mark(actions, label) {
  for (const each of actions.querySelectorAll("[aria-pressed]")) {
    each.setAttribute("aria-pressed", String(each.getAttribute("aria-label") === label));
  }
}

/**
 * The form in which an answer is put right.
 * @param {string} text
 * @param {(text: string) => Promise<boolean>} save
 */
function correction(text, save) {
  const area = h("textarea", { rows: Math.min(12, text.split("\n").length + 2), "aria-label": "The right answer" });
  area.value = text;
  const form = h("form", { class: "correction" }, area);
  const close = () => form.remove();
  form.append(
    h("div", { class: "actions" }, h("button", { class: "primary" }, "Save the correction"), button("Cancel", close)),
  );
  form.addEventListener("submit", async (/** @type {Event} */ event) => {
    event.preventDefault();
    if (area.value.trim() === text.trim()) return notice("Change the answer first; then save it.", "failed");
    if (await save(area.value)) close();
  });
  form.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
    if (event.key === "Escape") close();
  });
  return form;
}
