"use strict";
// One page: what is chosen stands in `state`, and in the address; `render` shows it. Names of traces and methods
// come from outside: text is only ever set as text.

const data = JSON.parse(document.getElementById("data").textContent);
const plotting = Bokeh.Plotting;
Bokeh.logger.set_level("error");

// ---------------------------------------------------------------- words and elements

const el = (tag, props = {}, ...children) => {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value);
  }
  node.append(...children.flat().filter(child => child !== null && child !== undefined && child !== false));
  return node;
};
const text = value => (value === null || value === undefined ? "-" : String(value));
const percent = share => {
  if (share === null || share === undefined) return "-";
  return share > 0 && share < 5e-6 ? "<0.001" : (100 * share).toFixed(3);
};
const short = (value, digits = 4) => (value === null ? "-" : String(Number(value.toPrecision(digits))));
const millis = value => (value === null ? "-" : value.toFixed(value < 1 ? 3 : value < 1000 ? 1 : 0));
const list = (items, tag = "ul") => el(tag, {}, items.map(item => el("li", {}, item)));
// The little markdown that sentences have: **bold** and `code`.
const rich = sentence => sentence.split(/(\*\*[^*]+\*\*|`[^`]+`)/).map(part =>
  part.startsWith("**") ? el("b", {}, part.slice(2, -2))
    : part.startsWith("`") ? el("code", {}, part.slice(1, -1)) : part);
const section = (id, heading, ...children) =>
  el("section", { id }, heading && el("h2", {}, heading), children);
const at = id => document.getElementById(id);
const sum = values => values.reduce((total, value) => total + value, 0);
const known = values => values.filter(value => value !== null);

// ---------------------------------------------------------------- what is chosen

const usual = {
  trace: "", gpus: "", per_gpu: "", search: "", sort: "", without: ["sigma", "solved", "note"], hide: [], setting: "",
  method: "", layer: "", layer_sort: "-gap", near: "", engine: "csv", model_layers: "", price: "", theme: "",
};
let state = {};

const readAddress = () => {
  const asked = new URLSearchParams(location.hash.slice(1));
  state = Object.fromEntries(Object.entries(usual).map(([name, value]) => {
    if (!asked.has(name)) return [name, value];
    return [name, Array.isArray(value) ? asked.getAll(name).filter(Boolean) : asked.get(name)];
  }));
};
const address = () => {
  const told = new URLSearchParams();
  for (const [name, value] of Object.entries(state)) {
    if (String(value) === String(usual[name])) continue;
    if (Array.isArray(value)) (value.length ? value : [""]).forEach(one => told.append(name, one));
    else told.set(name, value);
  }
  return `#${told}`;
};
const choose = changes => {
  Object.assign(state, changes);
  history.replaceState(null, "", address());
  render();
};
const toggled = (values, value) => (values.includes(value) ? values.filter(one => one !== value) : [...values, value]);

// ---------------------------------------------------------------- controls

// Numbers are taken when they are complete, and after the focus has moved on, since controls are made again then.
const number = (id, name, value, changed, props = {}) => el("label", {}, name, el("input", {
  id, type: "number", value, ...props, onchange: event => setTimeout(changed, 0, event.target.value) }));

// Controls are made again with what they offer; the one that has the focus is given it back by its id.
const select = (id, name, options, value, changed) =>
  el("label", {}, name, el("select", { id, onchange: event => changed(event.target.value) },
    options.map(([key, shown]) => el("option", { value: key, selected: key === value }, shown))));

const fill = (host, ...children) => {
  const focus = host.contains(document.activeElement) ? document.activeElement : null;
  const [id, start, end] = focus ? [focus.id, focus.selectionStart, focus.selectionEnd] : [];
  const tops = [...host.querySelectorAll(".scroll")].map(node => [node.scrollTop, node.scrollLeft]);
  host.replaceChildren(...children.flat().filter(Boolean));
  host.querySelectorAll(".scroll").forEach((node, i) => tops[i] && node.scrollTo(tops[i][1], tops[i][0]));
  const again = id && document.getElementById(id);
  if (!again) return;
  again.focus({ preventScroll: true });
  if (again.type === "search") again.setSelectionRange(start, end);
};

const darkWanted = matchMedia("(prefers-color-scheme: dark)");
const showTheme = () => {
  const theme = ["light", "dark"].includes(state.theme) ? state.theme : darkWanted.matches ? "dark" : "light";
  document.documentElement.dataset.theme = theme;
  fill(at("theme-host"), select("theme", "Colours", [["", "as the system"], ["light", "light"], ["dark", "dark"]],
    state.theme, chosen => choose({ theme: chosen })));
};

// ---------------------------------------------------------------- tables

const order = (a, b) => {
  if (a === null || b === null) return (a === null) - (b === null);
  return typeof a === "string" ? a.localeCompare(b) : a - b;
};
const sorted = (rows, columns, sort) => {
  const column = columns.find(one => one.key === sort.replace(/^-/, ""));
  if (!column) return rows;
  const sign = sort.startsWith("-") ? -1 : 1;
  const value = row => (column.value(row) ?? null);
  return [...rows].sort((a, b) => {
    const [x, y] = [value(a), value(b)];
    return x === null || y === null ? order(x, y) : sign * order(x, y);  // what is not known stays last
  });
};
const shown = (column, row) => (column.show ?? text)(column.value(row));

// A column: key, name, value(row) and, where it is not plain, show(value), cell(row), text (left-aligned), title.
const table = ({ id, label, columns, rows, sort = "", onsort = null, current = () => false }) => {
  const headings = columns.map(column => {
    const down = sort === `-${column.key}`, up = sort === column.key;
    const next = up ? `-${column.key}` : down ? "" : column.key;
    return el("th", {
      scope: "col", class: column.text && "text", title: column.title,
      "aria-sort": up ? "ascending" : down ? "descending" : null,
    }, onsort ? el("button", { id: `${id}-${column.key}`, onclick: () => onsort(next) }, column.name) : column.name);
  });
  const cell = (column, row) => el("td", { class: column.class ?? (column.text && "text") },
    column.cell ? column.cell(row) : shown(column, row));
  const body = rows.map(row =>
    el("tr", { "aria-current": current(row) ? "true" : null }, columns.map(column => cell(column, row))));
  return el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": label },
    el("table", { id }, el("thead", {}, el("tr", {}, headings)), el("tbody", {}, body)));
};
const asCsv = (columns, rows) => {
  const cell = value => (/[",\r\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);
  const values = rows.map(row => columns.map(column => String(column.value(row) ?? "")));
  return [columns.map(column => column.name), ...values].map(line => `${line.map(cell).join(",")}\n`).join("");
};
const asLatex = (columns, rows) => {
  const signs = { "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "<": "\\textless{}",
    ">": "\\textgreater{}" };
  const cell = value => value.replace(/[\\~^<>]|[&%$#_{}]/g, sign => signs[sign] ?? `\\${sign}`);
  const values = rows.map(row => columns.map(column => shown(column, row)));
  const [head, ...body] = [columns.map(column => column.name), ...values]
    .map(line => `${line.map(cell).join(" & ")} \\\\`);
  const begin = `\\begin{tabular}{${columns.map(column => (column.text ? "l" : "r")).join("")}}`;
  return [begin, "\\hline", head, "\\hline", ...body, "\\hline", "\\end{tabular}", ""].join("\n");
};
const copyButton = (kind, write, columns, rows, file) => {
  const button = el("button", { onclick: () => {
    const content = write(columns, rows()), told = `Copied ${rows().length} rows`;
    navigator.clipboard.writeText(content).then(() => { button.textContent = told; }, () => download(file, content));
    setTimeout(() => { button.textContent = `Copy as ${kind}`; }, 2000);
  } }, `Copy as ${kind}`);
  return button;
};
const copyButtons = (columns, rows, name) => [
  copyButton("CSV", asCsv, columns, rows, `${name}.csv`), copyButton("LaTeX", asLatex, columns, rows, `${name}.tex`),
];
const download = (name, content) => {
  const place = URL.createObjectURL(new Blob([content], { type: "application/octet-stream" }));
  el("a", { href: place, download: name.replace(/[^\w.-]+/g, "_") }).click();
  setTimeout(() => URL.revokeObjectURL(place), 10000);
};

// ---------------------------------------------------------------- how to get it again

const reproduceSection = () => {
  const told = data.reproduce;
  const traces = table({
    id: "traces", label: "Traces", rows: told.traces,
    columns: [
      { key: "name", name: "trace", value: row => row.name, text: true },
      { key: "origin", name: "origin", value: row => row.origin, text: true },
      { key: "layers", name: "layers", value: row => row.layers },
      { key: "experts", name: "experts", value: row => row.experts },
      { key: "tokens", name: "tokens", value: row => row.tokens, show: value => short(value, 6) },
      { key: "sha256", name: "sha256", value: row => row.sha256, text: true, cell: row => el("code", {}, row.sha256) },
      { key: "note", name: "note", value: row => row.note, class: "text note" },
    ],
  });
  return el("section", { id: "reproduce" }, el("h2", {}, "How to reproduce"),
    el("pre", {}, told.command || "Called from Python."), traces, el("p", {}, told.machine),
    el("p", { class: "quiet" }, Object.entries(told.versions).map(one => one.join(" ")).join(", ")));
};

// ---------------------------------------------------------------- begin

// A page defines `render`, then calls `start`.
const start = () => {
  readAddress();
  render();
  addEventListener("hashchange", () => { readAddress(); render(); });
  darkWanted.addEventListener("change", () => render());
  addEventListener("beforeprint", toPaper);
  addEventListener("afterprint", fromPaper);
};
// Paper is white and narrow and does not wait: it gets a still of every chart, which scales with it.
const toPaper = () => {
  document.documentElement.dataset.theme = "light";
  charts.forEach(({ figure, view }, host) => {
    tint(figure);
    if (view) host.append(view.export("png").canvas);
  });
};
const fromPaper = () => {
  showTheme();
  charts.forEach(({ figure }, host) => {
    tint(figure);
    host.querySelectorAll(":scope > canvas").forEach(still => still.remove());
  });
};
