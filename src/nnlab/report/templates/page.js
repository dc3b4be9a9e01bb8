"use strict";
// Makes the tables of the page sort, filter and choose, and draws the chosen runs.
// It reads what stands in the page as HTML; only curves and commands come as JSON.

const THEMES = {
  light: { ink: "#222222", grid: "#ddd", colours: ["#0067a5", "#c44e00", "#00805d", "#a3478c", "#8a6d00", "#5b4fc7", "#b3243d", "#555555"] },
  dark: { ink: "#e6e6e6", grid: "#444", colours: ["#5fb4ff", "#ff9a52", "#3fd0a4", "#e58fd0", "#e0c04a", "#a89dff", "#ff7d90", "#c9c9c9"] },
};
const MARKERS = ["circle", "triangle", "rect", "rectRot", "star", "crossRot", "rectRounded", "cross"];
const QUALITY = /accuracy|R²|F1|AUC/; // of which more is better
const MOST_DRAWN = 100; // runs whose curves are drawn at a time
const MOST_LISTED = 12; // runs that are listed below their curves
const dark = matchMedia("(prefers-color-scheme: dark)");

// What a person has set; it outlives the renewal of a live page. tables: by their ids.
const state = { chosen: null, tables: {}, set: {} };
let charts = [], data, runs, printing = false;

const find = (selector, from = document) => from.querySelector(selector);
const all = (selector, from = document) => [...from.querySelectorAll(selector)];
const theme = () => THEMES[dark.matches && !printing ? "dark" : "light"];

function make(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

// The tables

const heads = table => [...table.tHead.rows[0].cells];
const rows = table => [...table.tBodies[0].rows];
const text = cell => cell.textContent.trim();
// A heading as it is written in a filter: "test accuracy (%)" is test_accuracy.
const named = head => (head.dataset.name ??= text(head).replace(/ \(.*\)$/, "").replaceAll(" ", "_"));
const numeric = head => head.classList.contains("number");

// The number in "97.31 ± 0.42"; a date is none, nor is another text that begins with a digit.
function number(written) {
  return /^-?[\d,]*\.?\d+(e[-+]?\d+)?( ?%| ±.*)?$/.test(written) ? parseFloat(written.replaceAll(",", "")) : NaN;
}

function compare(one, other) {
  const [a, b] = [number(one), number(other)];
  if (!isNaN(a) && !isNaN(b)) return a - b;
  if (isNaN(a) !== isNaN(b)) return isNaN(a) ? 1 : -1;
  return one.localeCompare(other, "en", { numeric: true });
}

function sort(table) {
  const { column, descending } = state.tables[table.id];
  heads(table).forEach((head, index) => {
    if (index === column) head.ariaSort = descending ? "descending" : "ascending";
    else head.removeAttribute("aria-sort");
  });
  if (column === null) return;
  const cells = rows(table).map(row => [text(row.cells[column]), row]);
  const empty = cell => cell === "-" || cell === "";
  cells.sort(([one], [other]) =>
    empty(one) || empty(other) ? empty(one) - empty(other) : compare(one, other) * (descending ? -1 : 1));
  table.tBodies[0].append(...cells.map(([, row]) => row));
}

// A word is looked for in a row; NAME=VALUE, NAME<VALUE and so on are conditions on a column.
function condition(word, table) {
  const [, name, relation, value] = /^(.+?)(<=|>=|!=|=|<|>)(.+)$/.exec(word) ?? [];
  const column = heads(table).findIndex(head => named(head) === name);
  if (column < 0) return row => row.textContent.toLowerCase().includes(word.toLowerCase());
  const holds = {
    "=": sign => sign === 0, "!=": sign => sign !== 0, "<": sign => sign < 0,
    ">": sign => sign > 0, "<=": sign => sign <= 0, ">=": sign => sign >= 0,
  }[relation];
  return row => {
    const cell = text(row.cells[column]);
    const ordered = isNaN(number(cell)) === isNaN(number(value)); // no number is above a text
    if (relation !== "=" && relation !== "!=" && !ordered) return false;
    return holds(compare(cell, value));
  };
}

function filter(table) {
  const words = state.tables[table.id].filter.split(/\s+/).filter(Boolean);
  const conditions = words.map(word => condition(word, table));
  let shown = 0;
  for (const row of rows(table)) {
    row.hidden = !conditions.every(holds => holds(row));
    shown += !row.hidden;
  }
  const count = rows(table).length;
  find(".shown", table.closest("section")).textContent =
    shown === count ? `${count} rows` : `${shown} of ${count} rows`;
}

function hideColumns(table) {
  const { hidden } = state.tables[table.id];
  heads(table).forEach((head, index) => {
    for (const row of table.rows) row.cells[index].hidden = hidden.has(named(head));
  });
}

function enhance(table) {
  const section = table.closest("section");
  const kept = (state.tables[table.id] ??= { column: null, descending: false, filter: "", hidden: new Set() });
  const menu = find(".columns div", section);
  heads(table).forEach((head, index) => {
    const name = named(head);
    const button = make("button", { type: "button", textContent: text(head) });
    button.onclick = () => {
      // A person wants the best first: of accuracies the largest, of losses the smallest.
      const first = numeric(head) && QUALITY.test(name);
      kept.descending = kept.column === index ? !kept.descending : first;
      kept.column = index;
      sort(table);
    };
    head.replaceChildren(button);
    const box = make("input", { type: "checkbox", checked: !kept.hidden.has(name) });
    box.onchange = () => {
      kept.hidden[box.checked ? "delete" : "add"](name);
      hideColumns(table);
    };
    menu.append(make("label", {}, box, ` ${button.textContent}`));
  });
  for (const row of rows(table).filter(row => row.dataset.runs)) {
    const box = make("input", { type: "checkbox", ariaLabel: `Choose ${about(row)}` });
    box.onchange = () => choose(runsOf(row), box.checked);
    row.cells[0].prepend(box, " ");
  }
  const input = find("input[type=search]", section);
  input.value = kept.filter;
  input.oninput = () => {
    kept.filter = input.value;
    filter(table);
  };
  const onlyChoose = numbers => {
    state.chosen = new Set();
    choose(numbers, true);
  };
  for (const button of all(".choose", section))
    button.onclick = () => onlyChoose(rows(table).filter(row => !row.hidden).flatMap(runsOf));
  for (const button of all(".none", section)) button.onclick = () => onlyChoose([]);
  sort(table);
  filter(table);
  hideColumns(table);
}

// The chosen runs

// What a row is about: a run by its name, a setting by its options.
function about(row) {
  const options = [...row.cells].slice(0, row.closest("table").dataset.settings);
  return (find("th", row) ?? { textContent: options.map(text).join(", ") }).textContent;
}

const runsOf = row => row.dataset.runs.split(" ").map(Number);

function choose(numbers, chosen) {
  for (const number of numbers) state.chosen[chosen ? "add" : "delete"](runs[number].name);
  showChosen();
}

function showChosen() {
  const chosen = runs.filter(run => state.chosen.has(run.name));
  for (const row of all("tr[data-runs]")) {
    const count = runsOf(row).filter(number => state.chosen.has(runs[number].name)).length;
    const box = find("input", row);
    box.checked = count > 0 && count === runsOf(row).length;
    box.indeterminate = count > 0 && !box.checked;
    row.classList.toggle("chosen", box.checked);
  }
  // Runs of one setting have one colour.
  const settings = [...new Set(chosen.map(run => run.setting))];
  for (const run of runs) run.look = settings.indexOf(run.setting) % MARKERS.length;
  drawCharts(chosen);
  listChosen(chosen);
  showPictures(chosen);
}

function listChosen(chosen) {
  const items = chosen.slice(0, MOST_LISTED).map(run => {
    const swatch = make("span", { className: "swatch" });
    swatch.style.background = theme().colours[run.look];
    const links = run.files.flatMap(file => [" ", make("a", { href: run.folder + file, textContent: file })]);
    const more = make("details", { open: chosen.length === 1 }, make("summary", {}, swatch, ` ${run.name}`));
    more.append(commandLine(run.command), make("p", {}, ...links));
    return make("li", {}, more);
  });
  const more = chosen.length - items.length;
  if (more > 0) items.push(make("li", { textContent: `and ${more} more` }));
  find("#chosen").replaceChildren(...items);
}

function commandLine(command) {
  return withCopy(make("div", { className: "command" }, make("code", { textContent: command })));
}

function withCopy(block) {
  const button = make("button", { type: "button", textContent: "Copy" });
  button.ariaLabel = "Copy the command";
  button.onclick = async () => {
    // Pages from a disk may not use the clipboard: then the text is marked, for Ctrl-C.
    getSelection().selectAllChildren(find("code", block));
    button.textContent = await navigator.clipboard?.writeText(text(find("code", block)))
      .then(() => "Copied", () => "Marked") ?? "Marked";
  };
  block.append(button);
  return block;
}

// The pictures of questions: of the chosen runs, if any is chosen, else those that stand there.
function showPictures(chosen) {
  for (const figure of all("figure.added")) figure.remove();
  for (const question of all("details.question")) {
    const file = question.dataset.file, figures = all("figure", question);
    const there = new Set(figures.map(figure => Number(figure.dataset.run)));
    for (const figure of figures)
      figure.hidden = chosen.length > 0 && !state.chosen.has(runs[figure.dataset.run].name);
    for (const run of chosen.slice(0, MOST_DRAWN)) {
      if (!run.files.includes(file) || there.has(run.number)) continue;
      const image = make("img", { src: run.folder + file, alt: `${file} of ${run.name}`, loading: "lazy" });
      const figure = make("figure", { className: "added" }, image, make("figcaption", { textContent: run.name }));
      find(".figures", question).append(figure);
    }
    find(".shown", question).textContent =
      `${all("figure:not([hidden])", question).length} pictures${chosen.length ? " of chosen runs" : ""}`;
  }
}

// The curves

// From the 16 bits of a half-precision number.
function half(bits) {
  const exponent = (bits >> 10) & 31, fraction = (bits & 1023) / 1024;
  const size = exponent === 31 ? (fraction ? NaN : Infinity)
    : exponent ? (1 + fraction) * 2 ** (exponent - 15) : fraction * 2 ** -14;
  return bits >> 15 ? -size : size;
}

// The points of every run in a column of metrics.csv; which epochs are kept: as thinned.py has it.
function points(column) {
  const { unit, values } = data.curves.columns[column];
  const bytes = Uint8Array.from(values.map(atob).join(""), letter => letter.charCodeAt(0));
  let next = 0;
  return data.curves.epochs.map(epochs => {
    const count = Math.min(epochs, data.curves.points);
    return Array.from({ length: count }, (_, index) => {
      const x = 1 + Math.floor(index * (epochs - 1) / Math.max(1, count - 1));
      const y = unit * half(bytes[next] | bytes[next + 1] << 8);
      next += 2;
      return { x, y: isFinite(y) ? y : NaN };
    });
  });
}

const short = value => isNaN(value) ? "none" : String(Number(value.toPrecision(3)));
const NAMES = { train: "training", valid: "validation" };

function curveSets(chosen) {
  const sets = [];
  for (const run of chosen.slice(0, MOST_DRAWN)) {
    for (const split of ["train", "valid"]) {
      const curve = run.curves[`${split}_${state.set.metric}`];
      if (!curve) continue;
      sets.push({
        run, label: `${NAMES[split]} ${state.set.metric}`, data: curve,
        borderColor: theme().colours[run.look], backgroundColor: theme().colours[run.look],
        borderDash: split === "train" ? [5, 4] : [], borderWidth: 1.5, spanGaps: true,
        pointStyle: MARKERS[run.look],
        pointRadius: ({ dataIndex }) => dataIndex % Math.ceil(curve.length / 8) ? 0 : 3,
      });
    }
  }
  return sets;
}

function sayCurve(chart, { datasetIndex, index }) {
  const set = chart.data.datasets[datasetIndex];
  const same = chart.data.datasets.filter(other => other.run === set.run);
  const values = same.map(other => `${other.label} ${short(other.data[index].y)}`);
  return [`${set.run.name}, epoch ${set.data[index].x}`, ...values];
}

function drawCurves(chosen) {
  const log = state.set.metric === "loss" && state.set.log;
  const sets = curveSets(chosen);
  const more = chosen.length - MOST_DRAWN;
  find("#curves-note").textContent = chosen.length
    ? `${Math.min(chosen.length, MOST_DRAWN)} runs${more > 0 ? ` of ${chosen.length}` : ""}; dashed: training`
    : "Choose runs in a table to see their curves.";
  draw("curves", {
    type: "line",
    data: { datasets: sets },
    options: options({
      x: { type: "linear", title: titled("epoch"), bounds: "data" },
      y: { type: log ? "logarithmic" : "linear", title: titled(state.set.metric) },
    }),
  }, sayCurve);
}

// Options against results

function drawScatter(chosen) {
  const table = find("#runs"), { x, y, colour } = state.set;
  const column = name => heads(table).findIndex(head => named(head) === name);
  const value = (run, name) => column(name) < 0 ? "" : text(run.row.cells[column(name)]).replace(/^-$/, "");
  const groups = new Map();
  for (const run of runs) {
    const group = value(run, colour);
    const point = { run, x: value(run, x), y: number(value(run, y)) };
    if (point.x !== "" && !isNaN(point.y)) groups.set(group, [...groups.get(group) ?? [], point]);
  }
  const everything = [...groups.values()].flat();
  const names = [...groups.keys()].sort(compare);
  const across = axis(everything.map(point => point.x), x, table);
  if (across.type !== "category") for (const point of everything) point.x = number(point.x);
  draw("scatter", {
    type: "scatter",
    data: {
      datasets: names.map((name, index) => {
        const look = index % MARKERS.length, paint = theme().colours[look];
        return {
          label: `${colour}=${name}`, data: groups.get(name), pointStyle: MARKERS[look],
          borderColor: paint, backgroundColor: `${paint}99`,
          pointRadius: ({ raw }) => raw && state.chosen.has(raw.run.name) ? 8 : 4,
          pointBorderWidth: ({ raw }) => raw && state.chosen.has(raw.run.name) ? 3 : 1,
        };
      }),
    },
    options: {
      ...options({ x: across, y: axis(everything.map(point => String(point.y)), y, table) }),
      onClick: (_, [element], chart) => element && toggle(pointOf(chart, element).run),
    },
  }, sayPoint, names.length > 1);
}

const pointOf = (chart, { datasetIndex, index }) => chart.data.datasets[datasetIndex].data[index];
const toggle = run => choose([run.number], !state.chosen.has(run.name));

function sayPoint(chart, element) {
  const point = pointOf(chart, element);
  return [point.run.name, `${state.set.x} ${point.x}`, `${state.set.y} ${point.y}`];
}

// Numbers over a wide range stand on a logarithmic axis, words side by side. The few values of an
// option are written at the axis, and no others.
function axis(values, name, table) {
  const index = heads(table).findIndex(head => named(head) === name);
  const numbers = values.map(number);
  const words = index >= 0 && !numeric(heads(table)[index]); // as the bits of a truth table are
  if (words || numbers.some(isNaN)) {
    const labels = [...new Set(values)].sort(compare);
    return { type: "category", labels, offset: true, title: titled(name) };
  }
  const [low, high] = [Math.min(...numbers), Math.max(...numbers)];
  const type = low > 0 && high / low >= 10 && !QUALITY.test(name) ? "logarithmic" : "linear";
  const few = [...new Set(numbers)].sort((one, other) => one - other);
  if (index >= Number(table.dataset.settings) || few.length > 10) return { type, title: titled(name) };
  const afterBuildTicks = scale => scale.ticks = few.map(value => ({ value }));
  return { type, title: titled(name), afterBuildTicks, callback: short };
}

// Any chart

const titled = name => ({ display: true, text: name, color: theme().ink });

function options(scales) {
  for (const scale of Object.values(scales)) {
    scale.grid = { color: theme().grid };
    scale.ticks = { color: theme().ink, ...scale.callback && { callback: scale.callback } };
  }
  return {
    animation: false, responsive: true, layout: { padding: 8 }, maintainAspectRatio: false, locale: "en", scales,
    interaction: { mode: "nearest", intersect: false, axis: "xy" },
    onHover: (_, elements, chart) => tell(chart, elements[0]),
    plugins: {
      legend: { display: false },
      tooltip: {
        filter: (item, index) => index === 0,
        callbacks: {
          title: ([{ chart, datasetIndex, dataIndex: index }]) => chart.say({ datasetIndex, index })[0],
          label: ({ chart, datasetIndex, dataIndex: index }) => chart.say({ datasetIndex, index }).slice(1),
        },
      },
    },
  };
}

// say: puts a point of the chart into words, a heading and lines.
function draw(id, settings, say, legend = false) {
  settings.options.plugins.legend = { display: legend, labels: { color: theme().ink, usePointStyle: true } };
  const canvas = find(`#${id}`);
  Chart.getChart(canvas)?.destroy();
  const chart = new Chart(canvas, settings);
  chart.say = element => say(chart, element);
  charts.push(chart);
  canvas.onkeydown = event => walk(event, chart);
}

function tell(chart, element) {
  const said = element ? chart.say(element).join("; ") : "";
  find(`#${chart.canvas.id}-value`).textContent = said;
}

// Arrow keys go from point to point (left, right) and from line to line (up, down).
function walk(event, chart) {
  const step = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
  const [active] = chart.getActiveElements();
  if (event.key === "Enter" && active && chart.canvas.id === "scatter") return toggle(pointOf(chart, active).run);
  if (!step || !chart.data.datasets.length) return;
  event.preventDefault();
  const wrap = (value, count) => (value + count) % count;
  const sets = chart.data.datasets;
  const datasetIndex = active ? wrap(active.datasetIndex + step[0], sets.length) : 0;
  const length = sets[datasetIndex].data.length;
  const index = active ? wrap(Math.min(active.index, length - 1) + step[1], length) : 0;
  const element = { datasetIndex, index };
  chart.setActiveElements([element]);
  chart.tooltip.setActiveElements([element], chart.getDatasetMeta(datasetIndex).data[index]);
  chart.update("none");
  tell(chart, element);
}

function drawCharts(chosen) {
  charts = [];
  drawCurves(chosen);
  drawScatter(chosen);
}

function fillSelects() {
  const table = find("#runs"), count = Number(table.dataset.settings);
  const columns = heads(table).filter(head => !["run", "files"].includes(named(head)));
  const results = columns.filter((head, index) => index >= count && numeric(head)).map(named);
  const settings = columns.slice(0, count).map(named);
  const metrics = [...new Set(Object.keys(data.curves.columns).map(name => name.replace(/^[a-z]+_/, "")))];
  fill("metric", metrics, metrics[0]);
  fill("x", [...settings, ...results], settings[0] ?? results[0]);
  fill("y", results, results.find(name => QUALITY.test(name)) ?? results[0]);
  const second = settings.find(name => name !== settings[0] && !/^seed/.test(name));
  fill("colour", ["", ...settings], second ?? "");
  const log = find("#log");
  log.checked = state.set.log ??= false;
  log.onchange = () => {
    state.set.log = log.checked;
    showChosen();
  };
}

function fill(id, names, usual) {
  const select = find(`#${id}`);
  select.replaceChildren(...names.map(name => make("option", { value: name, textContent: name || "nothing" })));
  if (!names.includes(state.set[id])) state.set[id] = usual;
  select.value = state.set[id];
  select.onchange = () => {
    state.set[id] = select.value;
    showChosen();
  };
}

// The page

function readRuns() {
  data = JSON.parse(find("#data").textContent);
  const curves = Object.fromEntries(Object.keys(data.curves.columns).map(name => [name, points(name)]));
  runs = rows(find("#runs")).map((row, number) => {
    row.dataset.runs = number;
    const link = find("th a", row)?.getAttribute("href");
    return {
      row, number, name: about(row), setting: number,
      folder: link ? link.slice(0, link.lastIndexOf("/") + 1) : "",
      files: link ? data.files[number] : [],
      command: [data.program, ...data.commands[number].map(word => typeof word === "number" ? data.words[word] : word)].join(" "),
      curves: Object.fromEntries(Object.entries(curves).map(([name, of]) => [name, of[number]])),
    };
  });
  all("#settings tr[data-runs]").forEach((row, setting) => {
    for (const number of runsOf(row)) runs[number].setting = setting;
  });
}

function start() {
  if (find("#data")) {
    readRuns();
    state.chosen ??= new Set((find("#best")?.dataset.runs ?? runs.slice(0, 8).map(run => run.number).join(" "))
      .split(" ").map(number => runs[number].name));
    fillSelects();
  }
  for (const table of all("table[id]")) enhance(table);
  for (const block of all(".command")) withCopy(block);
  if (!runs) return;
  const best = find("#show-best");
  if (best) best.onclick = () => {
    state.chosen = new Set();
    choose(find("#best").dataset.runs.split(" ").map(Number), true);
    find("#curves").scrollIntoView({ block: "center" });
  };
  showChosen();
}

// A live page looks whether there is news, by the tag of what it shows, and takes it in.
async function renew(tag) {
  const began = performance.now();
  const answer = await fetch(location.pathname, { cache: "no-cache" }).catch(() => null);
  const page = await answer?.text().catch(() => null);
  if (page && answer.ok) {
    const news = answer.headers.get("etag").replaceAll('"', "");
    if (news !== tag) replace(page);
    tag = news;
  }
  find("#live").textContent = answer?.ok ? "Renewed as runs train." : "No news from the server; this is how it stood.";
  setTimeout(renew, Math.max(2000, 4 * (performance.now() - began)), tag);
}

function replace(page) {
  const open = all("details[open]").map(details => details.id).filter(Boolean);
  const scrolled = all(".wide").map(box => [box.scrollLeft, box.scrollTop]);
  const focused = document.activeElement?.id;
  const main = find("main", new DOMParser().parseFromString(page, "text/html"));
  for (const chart of charts) chart.destroy();
  find("main").replaceWith(main);
  for (const id of open) document.getElementById(id)?.setAttribute("open", "");
  start();
  all(".wide").forEach((box, index) => [box.scrollLeft, box.scrollTop] = scrolled[index] ?? [0, 0]);
  if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
}

function redraw() {
  if (runs) showChosen();
}

document.documentElement.classList.add("scripted");
start();
dark.onchange = redraw;
addEventListener("beforeprint", () => (printing = true, redraw()));
addEventListener("afterprint", () => (printing = false, redraw()));
if (document.documentElement.dataset.live) renew(document.documentElement.dataset.live);
