// Runs before the page is painted, so that a chosen theme does not flash up in the other one.
(() => {
  const chosen = localStorage.getItem("selflearn.theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
})();
