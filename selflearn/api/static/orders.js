/** What operators order about versions: each is rehearsed or asked about before it is done. */

import { post } from "./api.js";
import { confirm, notice, trying } from "./dialogs.js";
import { capital, named } from "./format.js";

/** @type {import("./dialogs.js").Field} */
const REASON = { name: "reason", label: "Reason (for the audit log)", value: "asked by the operator", required: true };

/**
 * Goes back, to the version before or to a certain one.
 * @param {number} [to]
 * @returns {Promise<unknown>} true if it was done
 */
export function rollBack(to) {
  return trying(async () => {
    const plan = await post("/admin/rollback", { ...(to !== undefined && { to }), dry_run: true });
    const answer = await confirm({
      title: `Roll back to ${named(plan.to_version)}?`,
      lines: [
        `${capital(named(plan.from_version))} answers now. New requests will be answered by ${named(plan.to_version)}; answers that have begun are finished. Examples that only ${named(plan.from_version)} has learned are suspect from then on.`,
      ],
      action: "Roll back",
      danger: true,
      fields: [REASON],
    });
    if (answer === null) return false;
    await post("/admin/rollback", { to: plan.to_version, expected: plan.from_version, ...answer });
    notice(`${capital(named(plan.to_version))} answers now.`);
    return true;
  });
}

/**
 * Serves a version that is not served.
 * @param {number} version
 * @param {number} served
 */
export function promote(version, served) {
  return trying(async () => {
    await post("/admin/rollouts/promote", { version, dry_run: true });
    const answer = await confirm({
      title: `Serve ${named(version)}?`,
      lines: [`${capital(named(served))} answers now.`],
      action: "Serve it",
      fields: [REASON],
    });
    if (answer === null) return false;
    await post("/admin/rollouts/promote", { version, ...answer });
    notice(`${capital(named(version))} answers now.`);
    return true;
  });
}

/**
 * Serves the candidate of an update that the gate did not promote.
 * @param {number} update
 */
export function force(update) {
  return trying(async () => {
    const answer = await confirm({
      title: `Serve update ${update} against the gate?`,
      lines: ["The gate did not let it pass. It will be marked as forced for good, with your reason."],
      action: "Serve it all the same",
      danger: true,
      fields: [{ name: "reason", label: "Reason", required: true }],
    });
    if (answer === null) return false;
    await post("/admin/rollouts/promote", { version: update, force: true, ...answer });
    notice(`Version ${update} answers now.`);
    return true;
  });
}

/** @param {number} version */
export function startCanary(version) {
  return trying(async () => {
    const answer = await confirm({
      title: `Try ${named(version)} as a canary?`,
      lines: ["It answers a share of the conversations until you promote or end it."],
      action: "Start the canary",
      fields: [
        {
          name: "percent",
          label: "Share of the conversations, in percent",
          value: "10",
          type: "number",
          min: "0.1",
          max: "99",
          step: "any",
          required: true,
        },
        {
          name: "minutes",
          label: "For how many minutes (empty: until it is ended)",
          type: "number",
          min: "0.1",
          step: "any",
        },
        REASON,
      ],
    });
    if (answer === null) return false;
    const time = answer.minutes ? { for_seconds: Number(answer.minutes) * 60 } : {};
    await post("/admin/rollouts/canary", {
      version,
      share: Number(answer.percent) / 100,
      ...time,
      reason: answer.reason,
    });
    notice(`${capital(named(version))} is the canary.`);
    return true;
  });
}

/** @param {"promote" | "abort"} how */
export function endCanary(how) {
  return trying(async () => {
    const words = how === "promote" ? "Serve the canary to everybody" : "End the canary";
    const answer = await confirm({ title: `${words}?`, action: words, danger: how === "abort", fields: [REASON] });
    if (answer === null) return false;
    await post(`/admin/rollouts/${how}`, answer);
    notice(how === "promote" ? "The canary answers everybody now." : "The canary has ended.");
    return true;
  });
}

/** @param {number} version @param {boolean} hold */
export function pin(version, hold) {
  return trying(async () => {
    const lines = [
      hold
        ? "Nothing replaces it by itself: neither updates nor the watchdog."
        : "Its files are kept, however old they get.",
    ];
    const answer = await confirm({
      title: `${hold ? "Hold" : "Pin"} ${named(version)}?`,
      lines,
      action: hold ? "Hold it in service" : "Pin it",
      fields: [REASON],
    });
    if (answer === null) return false;
    await post("/admin/rollouts/pin", { version, hold, ...answer });
    return true;
  });
}

/** @param {number} version */
export function unpin(version) {
  return trying(async () => {
    await post("/admin/rollouts/unpin", { version });
    notice(`${capital(named(version))} is not pinned any more.`);
    return true;
  });
}
