/** Forgetting: what would go is shown before anything does. */

import { post } from "./api.js";
import { confirm, notice, trying } from "./dialogs.js";
import { h, labelled } from "./dom.js";
import { counted, named } from "./format.js";

const BY = {
  user: "What a user said",
  source: "What came from a source",
  interaction: "An interaction, by its id",
  match: "What contains certain words",
};

/**
 * @param {() => Promise<void>} look shows what is left
 * @returns {Node}
 */
export function forgetForm(look) {
  const by = h(
    "select",
    {},
    Object.entries(BY).map(([value, label]) => h("option", { value }, label)),
  );
  const value = h("input", { required: true, autocomplete: "off" });
  const form = h(
    "form",
    { class: "row" },
    labelled("Forget", by),
    labelled("namely", value),
    h("button", {}, "Show what would go"),
  );
  form.addEventListener("submit", async (/** @type {Event} */ event) => {
    event.preventDefault();
    if (await forget({ [by.value]: value.value }, look)) value.value = "";
  });
  return h(
    "section",
    { class: "block" },
    h("h2", {}, "Forget"),
    h(
      "p",
      { class: "meta" },
      "It goes out of the database and out of the weights: versions that learned it are removed, and made again without it. There is no way back.",
    ),
    form,
  );
}

/**
 * Rehearses it, asks, and does it.
 * @param {Record<string, string>} what one of user, source, interaction, match
 * @param {() => Promise<void>} look
 * @returns {Promise<boolean | undefined>} whether it was done
 */
export function forget(what, look) {
  return trying(async () => {
    const plan = await post("/admin/data/forget", { ...what, dry_run: true });
    if (!plan.interactions && !plan.feedback && !plan.examples) {
      notice("There is nothing of the kind.");
      return false;
    }
    const answer = await confirm({
      title: "Forget this for good?",
      lines: consequences(plan),
      action: "Forget it",
      danger: true,
      fields: [{ name: "reason", label: "Reason (for the audit log)", value: "asked by the operator", required: true }],
    });
    if (answer === null) return false;
    const done = await post("/admin/data/forget", { ...what, ...answer });
    notice(
      done.certificate === null
        ? "There was nothing to forget."
        : `It is forgotten; certificate ${done.certificate} says what went.`,
    );
    await look();
    return true;
  });
}

/** @param {any} plan what the rehearsal found */
function consequences(plan) {
  const versions = (/** @type {number[]} */ found) => found.map(named).join(", ");
  return [
    `${counted(plan.interactions, "interaction")}, ${counted(plan.feedback, "piece")} of feedback and ${counted(plan.examples, "example")} go.`,
    plan.learned_by.length
      ? `${versions(plan.learned_by)} learned it and will be removed${plan.continued_by.length ? `, and so will ${versions(plan.continued_by)}, which came of it` : ""}; all are made again without it.`
      : "No version learned it.",
    plan.rollback_to === null || !plan.serving
      ? "What is served stays."
      : `What is served learned it: ${named(plan.rollback_to)} will answer.`,
    plan.copies.length ? `Older copies may still have it: ${plan.copies.join(", ")}.` : "",
  ].filter(Boolean);
}
