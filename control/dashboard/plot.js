// A plot: uPlot as a component. Colours come from the page's CSS variables, so they follow light and dark mode.

import { html, useEffect, useLayoutEffect, useRef, useState } from "./vendor/htm-preact.js";
import uPlot from "./vendor/uPlot.js";
import { weight } from "./format.js";

const HEIGHT = 168; // pixels
const LABEL_PX = 44; // of two marks nearer than this only one gets a label

const dark = window.matchMedia("(prefers-color-scheme: dark)");

/** The current colours; a new object whenever they change. */
export function useColours() {
  const [colours, set] = useState(read);
  useEffect(() => {
    const changed = () => set(read());
    dark.addEventListener("change", changed);
    return () => dark.removeEventListener("change", changed);
  }, []);
  return colours;
}

function read() {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(`--${name}`).trim();
  return {
    ink: colour("ink"),
    soft: colour("soft"),
    line: colour("line"),
    card: colour("card"),
    source: colour("source"),
    target: colour("target"),
    bad: colour("bad"),
    font: getComputedStyle(document.body).fontFamily,
  };
}

/** A plot of `data` over `range` (Unix seconds).
 *
 * `series` are uPlot's; `scale` is the y axis: {log, range: (least, most) → [from, to], label: value → text};
 * `limit` is a horizontal line; `marks` are vertical lines; `paint(u)` draws below everything else; `pointed(index or
 * null)` is called with the cursor's place, which all plots share.
 */
export function Plot({ data, range, series, scale, marks, limit, paint, pointed, label }) {
  const place = useRef(null);
  const plot = useRef(null);
  const now = useRef({});
  now.current = { range, marks, limit, paint, pointed, scale };
  const colours = useColours();

  useLayoutEffect(() => {
    const width = () => Math.max(120, Math.floor(place.current.clientWidth));
    const drawing = new uPlot(options(now, series, colours, width()), data, place.current);
    plot.current = drawing;
    const observer = new ResizeObserver(() => drawing.setSize({ width: width(), height: HEIGHT }));
    observer.observe(place.current);
    return () => {
      observer.disconnect();
      drawing.destroy();
      plot.current = null;
    };
  }, [colours]);

  useLayoutEffect(() => {
    const { cursor } = plot.current;
    plot.current.batch(() => {
      plot.current.setData(data, false);
      plot.current.setScale("x", { min: range[0], max: range[1] });
      // Redraw even if the scales are unchanged: what `paint` draws may have changed.
      plot.current.redraw(true, true);
    });
    if (cursor.left >= 0) plot.current.setCursor({ left: cursor.left, top: cursor.top }, true, false);
  }, [data, range[0], range[1], colours, limit]);

  return html`<div class="plot" role="img" aria-label=${label} ref=${place}></div>`;
}

function options(now, series, colours, width) {
  const font = `11px ${colours.font}`;
  const grid = { stroke: colours.line, width: 1 };
  const axis = { stroke: colours.soft, font, grid, ticks: { show: false }, gap: 6 };
  return {
    width,
    height: HEIGHT,
    padding: [14, 8, 0, 0],
    legend: { show: false },
    cursor: {
      drag: { x: false, y: false },
      sync: { key: "phasegate", scales: ["x", null] },
      points: { size: 7 },
      y: false,
    },
    scales: {
      x: { time: true, auto: false, range: () => now.current.range },
      y: {
        distr: now.current.scale.log ? 3 : 1,
        range: (u, least, most) => now.current.scale.range(least, most),
      },
    },
    axes: [
      { ...axis, grid: { show: false }, size: 22, space: 64, values: (u, splits, i, space, step) => splits.map(time(step)) },
      {
        ...axis,
        size: 46,
        space: 30,
        ...(now.current.scale.log && { splits: (u, i, least, most) => decades(least, most), filter: (u, splits) => splits }),
        values: (u, splits) => splits.map((value) => (value === null ? "" : now.current.scale.label(value))),
      },
    ],
    series: [{}, ...series.map((each) => ({ spanGaps: false, points: { show: false }, ...each, stroke: colours[each.colour] }))],
    hooks: {
      drawClear: [(u) => now.current.paint?.(u, colours)],
      draw: [(u) => drawLimit(u, now.current.limit, colours), (u) => drawMarks(u, now.current.marks, colours)],
      setCursor: [(u) => now.current.pointed?.(u.cursor.left >= 0 ? u.cursor.idx : null)],
    },
  };
}

/** The powers of ten from `least` to `most`. */
function decades(least, most) {
  const powers = [];
  for (let power = Math.ceil(Math.log10(least) - 1e-9); power <= Math.log10(most) + 1e-9; power += 1) powers.push(10 ** power);
  return powers;
}

const time = (step) => (at) =>
  new Date(at * 1000).toLocaleTimeString("en-GB", step < 60 ? {} : { hour: "2-digit", minute: "2-digit" });

function drawLimit(u, limit, colours) {
  if (limit === null || limit === undefined) return;
  const y = u.valToPos(limit, "y", true);
  const { left, top, width, height } = u.bbox;
  if (y < top || y > top + height) return;
  line(u, colours.bad, [4, 4], left, y, left + width, y);
}

function drawMarks(u, marks, colours) {
  const { ctx } = u;
  const { left, top, width, height } = u.bbox;
  const ratio = uPlot.pxRatio;
  let labelled = Infinity;
  ctx.save();
  ctx.font = `${10 * ratio}px ${colours.font}`;
  ctx.textBaseline = "bottom";
  ctx.textAlign = "left";
  // From the newest to the oldest: where two marks are too near each other, the newer one gets the label.
  for (const mark of marks.toReversed()) {
    const x = Math.round(u.valToPos(mark.at, "x", true));
    if (x < left || x > left + width) continue;
    const back = mark.kind === "rollback";
    line(u, back ? colours.bad : colours.soft, back ? [] : [2, 3], x, top, x, top + height);
    if (labelled - x < LABEL_PX * ratio || x > left + width - 30 * ratio) continue;
    ctx.fillStyle = back ? colours.bad : colours.soft;
    ctx.fillText(`${back ? "↓" : "↑"} ${weight(mark.to)}`, x - 3 * ratio, top - 2 * ratio);
    labelled = x;
  }
  ctx.restore();
}

function line(u, colour, dash, x0, y0, x1, y1) {
  const { ctx } = u;
  ctx.save();
  ctx.strokeStyle = colour;
  ctx.lineWidth = uPlot.pxRatio;
  ctx.setLineDash(dash.map((length) => length * uPlot.pxRatio));
  ctx.beginPath();
  ctx.moveTo(x0, y0);
  ctx.lineTo(x1, y1);
  ctx.stroke();
  ctx.restore();
}
