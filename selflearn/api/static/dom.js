/** Building elements. Whatever comes from the daemon becomes a text node: there is no way to put markup in here. */

const SVG = "http://www.w3.org/2000/svg";

/** The lines of the icons, on a field of 24 by 24. */
const ICONS = {
  good: ["M7 11v9H4v-9z", "M7 11l4-8c1.6 0 2.6 1.2 2.3 2.7L12.6 9H19a2 2 0 0 1 2 2.3l-1.2 7a2 2 0 0 1-2 1.7H7"],
  bad: ["M17 13V4h3v9z", "M17 13l-4 8c-1.6 0-2.6-1.2-2.3-2.7l.7-3.3H5a2 2 0 0 1-2-2.3l1.2-7a2 2 0 0 1 2-1.7H17"],
  correct: ["M4 20l1-4L16 5l3 3L8 19z", "M14 7l3 3"],
  better: ["M4 12l5 5L20 6"],
};

/**
 * @typedef {string | number | Node | null | undefined | false} Child what is empty is left out
 */

/**
 * Makes an element. Attributes that are functions listen to the event that they name (`onclick`); false, null and
 * undefined ones are left out, true ones are there without a value.
 * @param {string} tag
 * @param {Record<string, any>} [attributes]
 * @param {...(Child | Child[])} children
 * @returns {any} the element, of whatever kind the tag is
 */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, String(value));
  }
  put(element, ...children);
  return element;
}

/**
 * Appends children to an element.
 * @param {Element} element
 * @param {...(Child | Child[])} children
 */
export function put(element, ...children) {
  for (const child of children.flat()) {
    if (child !== null && child !== undefined && child !== false)
      element.append(child instanceof Node ? child : String(child));
  }
}

/**
 * Replaces all that is in an element. If something in it had the focus, what has the same `data-focus` gets it.
 * @param {Element} element
 * @param {...(Child | Child[])} children
 */
export function fill(element, ...children) {
  const active = document.activeElement;
  const focus = active instanceof HTMLElement && element.contains(active) ? active.dataset.focus : undefined;
  element.replaceChildren();
  put(element, ...children);
  if (focus === undefined) return;
  const again = [...element.querySelectorAll("[data-focus]")].find(
    (each) => each instanceof HTMLElement && each.dataset.focus === focus,
  );
  if (again instanceof HTMLElement) again.focus();
}

/**
 * @param {keyof typeof ICONS} name
 * @returns {SVGElement} the icon; what it means is said beside it
 */
export function icon(name) {
  const image = document.createElementNS(SVG, "svg");
  image.setAttribute("viewBox", "0 0 24 24");
  image.setAttribute("class", "icon");
  image.setAttribute("aria-hidden", "true");
  for (const line of ICONS[name]) {
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("d", line);
    image.append(path);
  }
  return image;
}

/**
 * @param {string} label
 * @param {() => unknown} act
 * @param {Record<string, any>} [attributes]
 * @returns {HTMLButtonElement} a button that cannot be pressed again while what it does goes on
 */
export function button(label, act, attributes = {}) {
  const made = h("button", { type: "button", ...attributes }, label);
  made.addEventListener("click", async () => {
    if (made.getAttribute("aria-busy") === "true") return;
    made.setAttribute("aria-busy", "true");
    try {
      await act();
    } finally {
      made.removeAttribute("aria-busy");
    }
  });
  return made;
}

let controls = 0;

/**
 * A labelled control.
 * @param {string} label
 * @param {HTMLElement} control
 * @param {string} [kind] a class
 */
export function labelled(label, control, kind = "field") {
  control.id ||= `control-${++controls}`;
  return h("div", { class: kind }, h("label", { for: control.id }, label), control);
}

/**
 * A table with headings; cells may be elements.
 * @param {string} caption
 * @param {string[]} headings
 * @param {Child[][]} rows
 */
export function table(caption, headings, rows) {
  const head = h(
    "tr",
    {},
    headings.map((text) => h("th", { scope: "col" }, text)),
  );
  const body = rows.map((row) =>
    h(
      "tr",
      {},
      row.map((cell, at) => h(at ? "td" : "th", at ? {} : { scope: "row" }, cell)),
    ),
  );
  const made = h("table", {}, h("caption", { class: "unseen" }, caption), h("thead", {}, head), h("tbody", {}, body));
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption }, made);
}
