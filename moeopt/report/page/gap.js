"use strict";
// The gap report: settings in words and as a table, charts of one setting, its layers, one layer, moves.

const perGpu = setting => setting.slots / setting.gpus;
const tolerance = short(100 * data.tolerance);
const unique = values => [...new Set(values)];

// ---------------------------------------------------------------- what is looked at

const matching = () => data.settings.filter(setting =>
  (!state.trace || setting.trace === state.trace) && (!state.gpus || setting.gpus === Number(state.gpus))
  && (!state.per_gpu || perGpu(setting) === Number(state.per_gpu)));
const chosenSetting = () => {
  const among = matching();
  return among.find(setting => setting.label === state.setting) ?? among[0] ?? data.settings[0];
};
const placed = setting => setting.methods.filter(method => method.slots !== null);
const best = setting => {
  const whole = placed(setting).filter(method => method.summary.layers_solved === method.summary.layers);
  const candidates = whole.some(method => !method.exact) ? whole.filter(method => !method.exact) : whole;
  const better = (a, b) => (b.summary.step_gap < a.summary.step_gap ? b : a);
  return candidates.reduce(better, candidates[0] ?? placed(setting)[0]);
};
const chosenMethod = setting => placed(setting).find(method => method.name === state.method) ?? best(setting);
const worst = method =>
  method.gap.reduce((found, gap, i) => (gap !== null && (found < 0 || gap > method.gap[found]) ? i : found), -1);
const chosenLayer = (setting, method) => {
  const place = setting.layers.indexOf(Number(state.layer || NaN));
  return place >= 0 ? place : Math.max(worst(method), 0);
};

// ---------------------------------------------------------------- filters, words and the summary

const filters = () => {
  const pick = (key, name, value) => select(key, name,
    [["", "all"], ...unique(data.settings.map(value)).sort(order).map(one => [String(one), one])], state[key],
    chosen => choose({ [key]: chosen }));
  return [
    pick("trace", "Trace", setting => setting.trace),
    pick("gpus", "GPUs", setting => setting.gpus),
    pick("per_gpu", "Slots per GPU", perGpu),
    el("label", {}, "Search methods", el("input", {
      id: "search", type: "search", value: state.search, placeholder: "e.g. eplb solve",
      oninput: event => choose({ search: event.target.value }),
    })),
    el("button", { id: "reset", onclick: () => choose({ ...usual, theme: state.theme }) }, "Show all"),
  ];
};
const showSetting = setting => {
  choose({ setting: setting.label, layer: "" });
  at("setting-section").scrollIntoView();
};
const words = () => {
  const settings = matching();
  if (!settings.length) return [el("p", {}, "No setting of this run is like that; choose other filters.")];
  return [
    el("p", { class: "quiet" }, data.intro),
    list(settings.map(setting => [
      el("button", { class: "link", id: `go-${setting.label}`, onclick: () => showSetting(setting) }, `${setting.title}:`),
      ` ${setting.words.join(" ")}`])),
    data.verification && el("p", {}, `Checked independently in exact arithmetic: ${data.verification}.`),
    data.impossible.length ? el("p", { class: "quiet" }, `Left out: ${data.impossible.join("; ")}.`) : null,
  ];
};

const summed = (key, name, show, title) => ({ key, name, show, title, value: row => row.method.summary[key] });
const summaryColumns = [
  { key: "method", name: "method", value: row => row.method.name, text: true, cell: row => row.method.slots === null
    ? row.method.name
    : el("button", { class: "link", id: `row-${row.setting.label}-${row.method.name}`, title: "show its layers",
      onclick: () => choose({ setting: row.setting.label, method: row.method.name, layer: "" }) }, row.method.name) },
  { key: "trace", name: "trace", value: row => row.setting.trace, text: true },
  { key: "gpus", name: "GPUs", value: row => row.setting.gpus },
  { key: "slots", name: "slots", value: row => row.setting.slots },
  { key: "per_gpu", name: "slots per GPU", value: row => perGpu(row.setting) },
  summed("mean_gap", "mean gap %", percent, "fullest GPU over the proven bound, less 1: mean over layers"),
  summed("max_gap", "max gap %", percent, "the same for the worst layer"),
  summed("step_gap", "step gap %", percent, "the same for the sums over layers, which a better placement could save"),
  summed("mean_imbalance", "imbalance", value => value?.toFixed(4) ?? "-", "fullest over mean GPU load"),
  summed("sigma", "sigma", value => short(value, 2), "standard deviation of GPUs' shares of a layer's load"),
  summed("moves", "moves", text, `copies not yet on their GPU, counted from ${data.in_force}`),
  summed("share_optimal", "optimal %", value => (100 * value).toFixed(0), "share of layers proven optimal"),
  summed("runtime_ms_median", "run ms", millis, "median, all layers together"),
  { key: "solved", name: "layers", value: row => `${row.method.summary.layers_solved}/${row.method.summary.layers}` },
  { key: "note", name: "note", value: row => row.method.summary.note, class: "text note" },
];
const summaryRows = () => {
  const wanted = state.search.toLowerCase().split(/\s+/).filter(Boolean);
  const rows = matching().flatMap(setting => setting.methods.map(method => ({ setting, method })));
  return wanted.length ? rows.filter(row => wanted.some(word => row.method.name.toLowerCase().includes(word))) : rows;
};
const summary = () => {
  const columns = summaryColumns.filter(column => !state.without.includes(column.key));
  const rows = () => sorted(summaryRows(), summaryColumns, state.sort);
  const now = chosenSetting(), method = chosenMethod(now);
  return [
    el("div", { class: "bar" }, copyButtons(columns, rows, "summary"),
      el("details", { id: "columns", open: at("columns")?.open }, el("summary", {}, "Columns"),
        el("fieldset", {}, el("legend", {}, "Columns of the table"),
          summaryColumns.map(({ key, name }) => el("label", { class: "check" }, el("input", {
            type: "checkbox", id: `column-${key}`, checked: !state.without.includes(key),
            onchange: () => choose({ without: toggled(state.without, key) }),
          }), name)))),
      el("span", { class: "quiet", id: "count", role: "status" }, `${rows().length} rows`)),
    table({
      id: "summary", label: "Summary", columns, rows: rows(), sort: state.sort, onsort: sort => choose({ sort }),
      current: row => row.setting === now && row.method === method,
    }),
  ];
};

// ---------------------------------------------------------------- the page

const main = at("main");
main.replaceChildren(
  section("filters-section", null, el("div", { class: "bar", id: "filters", role: "group", "aria-label": "Filters" })),
  section("words-section", "In words", el("div", { id: "words" })),
  section("summary-section", "All methods", el("div", { id: "summary-host" })),
  section("setting-section", "One setting", el("div", { id: "setting-host" }),
    el("div", { class: "pair" },
      chart("runtime-chart", "Gap against runtime. Mark: mean over layers; bar: best to worst layer."),
      chart("profile-chart", ""))),
  section("slots-section", "What more slots would bring", el("div", { id: "slots-host" }),
    chart("slots-chart", "Sum over layers of the fullest GPU, above perfect balance. Dotted: the proven bound.")),
  section("layers-section", "Layers", el("div", { id: "layers-host" }),
    chart("gap-chart", "Gap by layer; hollow: the layer's optimum is not proven. Choose a mark to see its layer.")),
  section("layer-section", null, el("div", { id: "layer-host" }),
    chart("load-chart", "Load of every GPU, fullest first; dashed: the proven lower bound on the fullest."),
    el("div", { id: "engines-host" })),
  section("moves-section", "Moves against balance", el("div", { id: "moves-host" }),
    chart("moves-chart", "Green: the fewest moves found that bring every layer under a ceiling. Grey: proven "
      + "impossible. Other marks: what methods take that know no ceiling, worst layer, with a bar down to the best. At "
      + "the left edge: the placement in force, which moves nothing.")),
  section("meaning", "How to read this",
    el("dl", {}, data.meaning.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)])),
    data.small && el("p", {}, `Small instances: ${data.small}`)),
  reproduceSection());

const render = () => {
  showTheme();
  const setting = chosenSetting(), method = chosenMethod(setting), among = matching();
  fill(at("filters"), filters());
  fill(at("words"), words());
  fill(at("summary-host"), summary());
  fill(at("setting-host"),
    el("div", { class: "bar" }, select("setting", "Setting",
      (among.length ? among : [setting]).map(one => [one.label, one.title]), setting.label,
      chosen => choose({ setting: chosen, layer: "" }))),
    el("p", {}, setting.words.join(" ")), legend(setting.methods.map(one => one.name)));
  const about = [setting.label, state.hide];
  draw(at("runtime-chart"), about, () => gapAgainstRuntime(setting));
  draw(at("profile-chart"), about, () => performanceProfile(setting));
  caption("profile-chart", profileWords(setting));

  const family = slotsOf(setting);
  fill(at("slots-host"), family ? list(family.words) : el("p", {}, "Not known, for want of placements on all layers."));
  at("slots-chart").parentElement.hidden = !family || family.rows.length < 2;
  if (family && family.rows.length > 1) draw(at("slots-chart"), about, () => slotsCurve(setting, family));

  fill(at("layers-host"), method ? layers(setting) : el("p", {}, "No method has a placement here."));
  if (method) {
    const i = chosenLayer(setting, method);
    draw(at("gap-chart"), [about, method.name], () => gapByLayer(setting, method));
    fill(at("layer-host"), layer(setting));
    fill(at("engines-host"), engines(setting));
    placement(setting, method).then(slots => {
      if (chosenSetting() !== setting || chosenMethod(setting) !== method || chosenLayer(setting, method) !== i) return;
      const shows = [setting.label, method.name, i, state.near];
      draw(at("load-chart"), shows, () => loadsChart(setting, method, i, slots[i]));
    });
  }
  at("layer-section").hidden = !method;
  fill(at("moves-host"), moves(setting));
  at("moves-section").hidden = !setting.moves;
  if (setting.moves) draw(at("moves-chart"), [setting.label], () => movesChart(setting));
};
start();
