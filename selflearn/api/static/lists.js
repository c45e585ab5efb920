/** Lists that are read page by page, latest first, and details that are read when somebody wants them. */

import { button, fill, h, put } from "./dom.js";
import { trying } from "./dialogs.js";

/**
 * @template T
 * @typedef {object} Paging
 * @property {(before: any) => Promise<T[]>} read a page, of those before a number or id; undefined: the first page
 * @property {(row: T) => any} place what `before` is to be after this row
 * @property {(row: T) => Node} show
 * @property {number} size of a page: a shorter one is the last
 * @property {string} empty what to say if there is nothing
 * @property {(rows: T[]) => void} [told] is told all rows that are shown, whenever they change
 */

/**
 * @template T
 * @param {Paging<T>} paging
 * @returns {{element: HTMLElement, load: () => Promise<void>}} `load` reads the first page anew
 */
export function pagedList(paging) {
  const list = h("ul", { class: "cards" });
  const foot = h("div", { class: "more" });
  /** @type {T[]} */
  let rows = [];
  let turn = 0;

  /** @param {boolean} fresh from the beginning, in the place of what is shown */
  const read = async (fresh) => {
    const mine = ++turn;
    const last = fresh ? undefined : rows.at(-1);
    const found = await trying(() => paging.read(last === undefined ? undefined : paging.place(last)));
    if (found === undefined || mine !== turn) return; // another question was asked meanwhile
    rows = fresh ? found : [...rows, ...found];
    const items = found.map((row) => h("li", { class: "card" }, paging.show(row)));
    if (fresh) refill(list, items);
    else put(list, items);
    const more = found.length === paging.size && button("Show more", () => read(false), { "data-focus": "more" });
    fill(foot, more, !rows.length && h("p", { class: "empty" }, paging.empty));
    paging.told?.(rows);
  };
  return { element: h("div", {}, list, foot), load: () => read(true) };
}

/**
 * Shows new items; what was unfolded in the old ones is unfolded in them.
 * @param {HTMLElement} list
 * @param {HTMLElement[]} items
 */
function refill(list, items) {
  const summaries = () => /** @type {HTMLElement[]} */ ([...list.querySelectorAll("details > summary[data-focus]")]);
  const unfolded = (/** @type {HTMLElement} */ each) => each.parentElement?.hasAttribute("open");
  const before = new Set(
    summaries()
      .filter(unfolded)
      .map((each) => each.dataset.focus),
  );
  fill(list, items);
  for (const each of summaries()) each.parentElement?.toggleAttribute("open", before.has(each.dataset.focus));
}

/**
 * Details that are asked for when they are opened.
 * @param {import("./dom.js").Child[]} summary
 * @param {string} focus names the summary, so that it keeps the focus when its list is read anew
 * @param {() => Promise<import("./dom.js").Child[]>} ask
 * @returns {HTMLDetailsElement}
 */
export function unfolding(summary, focus, ask) {
  const body = h("div", {});
  const made = h("details", {}, h("summary", { "data-focus": focus }, summary), body);
  made.addEventListener("toggle", async () => {
    if (made.open && !body.childNodes.length) put(body, (await trying(ask)) ?? []);
  });
  return made;
}
