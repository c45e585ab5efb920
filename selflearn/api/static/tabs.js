/** Tabs as the ARIA practices describe them: one stop for the tab key, arrows go from one to the next. */

/**
 * @param {HTMLElement} list with elements of role tab, each of which names its panel in `aria-controls`
 * @param {(name: string) => void} shown is told the name of the tab that is shown: its id without `tab-`
 * @returns {(name: string) => void} shows a tab
 */
export function tabs(list, shown) {
  const all = () =>
    /** @type {HTMLElement[]} */ ([...list.querySelectorAll("[role=tab]")]).filter((tab) => !tab.hidden);

  /** @param {HTMLElement} chosen */
  const show = (chosen) => {
    for (const tab of all()) {
      const selected = tab === chosen;
      tab.setAttribute("aria-selected", String(selected));
      tab.tabIndex = selected ? 0 : -1;
      const panel = document.getElementById(tab.getAttribute("aria-controls") ?? "");
      if (panel) panel.hidden = !selected;
    }
    shown(chosen.id.replace("tab-", ""));
  };

  list.addEventListener("click", (event) => {
    const tab = event.target instanceof Element ? event.target.closest("[role=tab]") : null;
    if (tab instanceof HTMLElement) show(tab);
  });
  list.addEventListener("keydown", (event) => {
    const found = all();
    const at = found.findIndex((tab) => tab === document.activeElement);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: found.length - 1 }[event.key];
    if (to === undefined || at < 0) return;
    event.preventDefault();
    const next = found[(to + found.length) % found.length];
    next.focus();
    show(next);
  });

  return (name) => {
    const tab = document.getElementById(`tab-${name}`);
    if (tab && !tab.hidden) show(tab);
  };
}
