// The last minutes, drawn: free memory and the queue. Kept in the browser only; the captions say the same in words.

import { byId, say } from "./dom.js";
import { count } from "./words.js";

const KEPT_S = 300;
const HEIGHT = 116;
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const time = [];
const series = { free: [], tightest: [], depth: [], refused: [] };
const charts = [];

/** Make the two charts. */
export function prepareTimeline() {
  if (typeof uPlot === "undefined") return;
  draw("free-chart", [["free", "--free-line", "--free-fill"], ["tightest", "--waited", ""]], (min, max) => [0, Math.max(100, max ?? 0)], (v) => `${v} %`);
  draw("queue-chart", [["depth", "--resident", "--queue-fill"], ["refused", "--bad", ""]], (min, max) => [0, Math.max(5, max ?? 0)], (v) => `${v}`);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
}

/** One more second; null where nothing is known. */
export function addSecond(now, point) {
  time.push(now);
  for (const [name, values] of Object.entries(series)) values.push(point?.[name] ?? null);
  while (time[0] < now - KEPT_S) {
    time.shift();
    for (const values of Object.values(series)) values.shift();
  }
  redraw();
}

function redraw() {
  for (const { chart, names } of charts) chart.setData([time, ...names.map((name) => series[name])]);
  showCaptions(null);
}

function draw(id, lines, range, label) {
  const box = byId(id);
  const axis = { stroke: () => colour("--muted"), font: "11px system-ui, sans-serif", ticks: { show: false } };
  const grid = { stroke: () => colour("--line"), width: 1 };
  const options = {
    width: box.clientWidth || 300, height: HEIGHT, legend: { show: false }, padding: [6, 16, 0, 0],
    cursor: { y: false, points: { size: 5 }, drag: { x: false, y: false }, sync: { key: "kvgate" } },
    scales: { x: { time: true, range: () => [Date.now() / 1000 - KEPT_S, Date.now() / 1000] }, y: { range: (_u, min, max) => range(min, max) } },
    axes: [
      { ...axis, grid: { show: false }, size: 22, gap: 4, space: 50, incrs: [60, 120, 300], values: (_u, ticks) => ticks.map(clock) },
      { ...axis, grid, size: 42, gap: 6, space: 30, incrs: [1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 5000], values: (_u, ticks) => ticks.map(label) },
    ],
    series: [{}, ...lines.map(([, stroke, fillName]) => ({
      stroke: () => colour(stroke), fill: fillName ? () => colour(fillName) : undefined, width: 1.5, points: { show: false }, spanGaps: false,
    }))],
    hooks: { setCursor: [(u) => showCaptions(u.cursor.idx)] },
  };
  const names = lines.map(([name]) => name);
  const chart = new uPlot(options, [time, ...names.map((name) => series[name])], box);
  charts.push({ chart, names });
  new ResizeObserver(() => chart.setSize({ width: box.clientWidth, height: HEIGHT })).observe(box);
}

function clock(seconds) {
  const date = new Date(1000 * seconds);
  return `${String(date.getHours()).padStart(2, "0")}:${String(date.getMinutes()).padStart(2, "0")}`;
}

function showCaptions(index) {
  const last = time.length - 1;
  const at = index ?? last;
  const when = index == null || time[at] === undefined ? "now" : `${Math.round(time[last] - time[at])} s ago`;
  const value = (name, unit) => (series[name][at] == null ? "–" : `${count(series[name][at])}${unit}`);
  const worst = Math.min(...series.free.filter((each) => each !== null));
  const most = Math.max(...series.depth.filter((each) => each !== null));
  key("free-caption", [
    ["free", `headroom ${value("free", " %")}`], ["tightest", `tightest backend ${value("tightest", " %")}`],
    ["", `${when}${Number.isFinite(worst) && index == null ? `; lowest ${count(worst)} %` : ""}`],
  ]);
  key("queue-caption", [
    ["depth", `waiting ${value("depth", "")}`], ["refused", `turned away ${value("refused", " per s")}`],
    ["", `${when}${Number.isFinite(most) && index == null ? `; most waiting ${count(most)}` : ""}`],
  ]);
}

function key(id, entries) {
  const caption = byId(id);
  entries.forEach(([name, text], index) => {
    let entry = caption.children[index];
    if (entry === undefined) {
      entry = document.createElement("span");
      entry.dataset.line = name;
      caption.append(entry);
    }
    say(entry, text);
  });
}
