/** Curves, drawn by uPlot (see NOTICE) in the colours of the theme. */

import { h } from "./dom.js";

const HEIGHT = 220;
/** Steps and versions are whole numbers, and so are the distances between the lines. */
const WHOLE = [1, 2, 5]
  .flatMap((digit) => [1, 10, 100, 1000, 10000].map((power) => digit * power))
  .sort((a, b) => a - b);
const COLOURS = ["--series-1", "--series-2", "--series-3", "--series-4"];

/**
 * @typedef {{label: string, points: [number, number][], dots?: boolean}} Series
 */

/**
 * Draws series over a common x. It is drawn anew when the theme or the width changes.
 * @param {string} title what screen readers are told
 * @param {string} across what x is
 * @param {Series[]} series
 * @returns {Promise<HTMLElement>}
 */
export async function chart(title, across, series) {
  /** @type {any} */
  const UPlot = (await import("./uplot/uPlot.esm.js")).default;
  const place = h("div", { class: "chart", role: "img", "aria-label": `${title}. ${series.map(summary).join(". ")}` });
  const xs = [...new Set(series.flatMap((each) => each.points.map(([x]) => x)))].sort((a, b) => a - b);
  const data = [xs, ...series.map((each) => aligned(xs, each.points))];
  /** @type {any} */
  let drawn = null;

  const draw = () => {
    const colour = (/** @type {string} */ name) => resolved(place, name);
    const axis = {
      stroke: colour("--muted"),
      grid: { stroke: colour("--line"), width: 1 },
      ticks: { stroke: colour("--line"), width: 1 },
    };
    drawn?.destroy();
    drawn = new UPlot(
      {
        width: Math.max(200, place.clientWidth),
        height: HEIGHT,
        scales: { x: { time: false } },
        axes: [
          { ...axis, label: across, labelSize: 22, size: 34, incrs: WHOLE },
          { ...axis, size: 58 },
        ],
        series: [
          { label: across },
          ...series.map((each, at) => ({
            label: each.label,
            stroke: colour(COLOURS[at]),
            width: 2,
            spanGaps: true,
            points: { show: each.dots },
          })),
        ],
      },
      data,
      place,
    );
  };
  const resized = new ResizeObserver(() => {
    if (!place.isConnected) return resized.disconnect();
    if (!place.clientWidth) return; // its tab is not shown
    if (drawn === null) draw();
    else drawn.setSize({ width: Math.max(200, place.clientWidth), height: HEIGHT });
  });
  resized.observe(place);
  const themed = () => (place.isConnected ? draw() : document.removeEventListener("themechange", themed));
  document.addEventListener("themechange", themed);
  return place;
}

/**
 * The losses of an update, as `GET /admin/updates/N/curve` tells them.
 * @param {{train: [number, number][], held_out: [number, number][]}} curve
 * @returns {Promise<HTMLElement | null>} null if there is nothing to draw
 */
export async function lossChart(curve) {
  if (!curve.train.length && !curve.held_out.length) return null;
  return chart("Losses", "step", [
    { label: "training", points: curve.train },
    { label: "held out", points: curve.held_out, dots: true },
  ]);
}

/**
 * What a named colour is in the present theme; a canvas knows no names.
 * @param {HTMLElement} place
 * @param {string} name
 */
function resolved(place, name) {
  place.style.color = `var(${name})`;
  const found = getComputedStyle(place).color;
  place.style.color = "";
  return found;
}

/**
 * @param {number[]} xs
 * @param {[number, number][]} points
 */
function aligned(xs, points) {
  const known = new Map(points);
  return xs.map((x) => known.get(x) ?? null);
}

/** @param {Series} series */
function summary({ label, points }) {
  if (!points.length) return `${label}: none`;
  return `${label}: from ${points[0][1].toPrecision(3)} to ${points[points.length - 1][1].toPrecision(3)}`;
}
