"use strict";
// The layers of a setting under one method, and one of them.

const showLayer = asked => {
  choose(asked);
  at("layer-section").scrollIntoView();
};
const gapByLayer = (setting, chosen) => {
  const figure = newFigure("layer", "gap to the proven bound [%]",
    { y_axis_type: "log", tools: "box_zoom,reset,save,tap" });
  const methods = visible(setting), count = setting.layers.length;
  const top = Math.max(1, ...methods.flatMap(method => known(method.gap).map(onFloor))) * 1.5;
  fit(figure, [-0.7, count - 0.3], [FLOOR * 0.7, top]);
  logTicks(figure, "y", FLOOR, top, FLOOR);
  const every = Math.ceil(count / 20), places = setting.layers.map((_, i) => i).filter(i => i % every === 0);
  placeTicks(figure, "x", places, new Map(places.map(i => [i, String(setting.layers[i])])));
  for (const method of methods) {
    const { colour, marker } = look(method.name), bold = method === chosen;
    const rows = method.gap.map((_, i) => i).filter(i => method.gap[i] !== null);
    const points = source({
      x: rows, y: rows.map(i => onFloor(method.gap[i])), gap: rows.map(i => percent(method.gap[i])),
      layer: rows.map(i => setting.layers[i]), name: rows.map(() => method.name),
      proof: rows.map(i => (setting.proven[i] ? "proven" : "open")), filled: rows.map(i => Number(setting.proven[i])),
    });
    line(figure, points, colour, { line_width: bold ? 2.5 : 1, line_alpha: bold ? 1 : 0.5 });
    marks(figure, points, colour, marker,
      [["method", "@name"], ["layer", "@layer"], ["gap %", "@gap"], ["optimum", "@proof"]],
      { size: bold ? 10 : 7, fill_alpha: column("filled"), nonselection_line_alpha: 1 });
    points.selected.change.connect(() => {
      const [row] = points.selected.indices;
      if (row !== undefined) showLayer({ method: method.name, layer: setting.layers[rows[row]] });
    });
  }
  return figure;
};

const distance = (setting, method, i) => method.makespan[i] / setting.best[i] - 1;
const proof = (proven, told) => el("span", { class: proven ? "proven" : "open" }, told);
const worstWords = (setting, method) => {
  const i = worst(method);
  if (i < 0) return [`${method.name} has no placement here.`];
  const told = `Worst layer of ${method.name}: layer ${setting.layers[i]}, at most ${percent(method.gap[i])} % above `
    + "the best possible. ";
  if (setting.proven[i]) return [told, proof(true, "The optimum of this layer is proven"),
    `, so this is ${method.name}'s own distance, to within the proof's ${tolerance} %.`];
  return [told, proof(false, "The optimum of this layer is not proven"),
    `: the best placement known is ${percent(setting.best[i] / setting.bound[i] - 1)} % above the bound, so `
    + `${method.name} is between ${percent(distance(setting, method, i))} and ${percent(method.gap[i])} % above the `
    + "optimum."];
};
const layerColumns = (setting, method) => [
  { key: "layer", name: "layer", value: i => setting.layers[i],
    cell: i => el("button", {
      class: "link", id: `layer-${setting.layers[i]}`, onclick: () => showLayer({ layer: setting.layers[i] }),
    }, setting.layers[i]) },
  { key: "gap", name: "gap %", value: i => method.gap[i], show: percent },
  { key: "status", name: "status", value: i => data.statuses[method.status[i]], text: true },
  { key: "optimum", name: "optimum", value: i => (setting.proven[i] ? "proven" : "open"), text: true,
    cell: i => proof(setting.proven[i], setting.proven[i] ? "proven" : "open") },
  { key: "makespan", name: "fullest GPU", value: i => method.makespan[i], show: value => short(value, 8) },
  { key: "bound", name: "lower bound", value: i => setting.bound[i], show: value => short(value, 8) },
  { key: "source", name: "bound by", value: i => setting.source[i], text: true },
  { key: "imbalance", name: "imbalance", value: i => method.imbalance[i], show: value => short(value, 5) },
  { key: "moves", name: "moves", value: i => method.moves[i], show: text },
];
const layers = setting => {
  const method = chosenMethod(setting), columns = layerColumns(setting, method);
  const rows = () => sorted(setting.layers.map((_, i) => i), columns, state.layer_sort);
  return [
    el("div", { class: "bar" },
      select("method", "Method", placed(setting).map(one => [one.name, one.name]), method.name,
        name => choose({ method: name, layer: "" })),
      copyButtons(columns, rows, `${setting.label}_${method.name}`)),
    el("p", { id: "worst" }, worstWords(setting, method)),
    table({
      id: "layers", label: `Layers of ${method.name}`, columns, rows: rows(), sort: state.layer_sort,
      onsort: layer_sort => choose({ layer_sort }), current: i => i === chosenLayer(setting, method),
    }),
  ];
};

// ---------------------------------------------------------------- one layer

// What is packed: [layers, slots] of expert + 1, low bytes first, then high bytes, deflated.
const unpacked = new WeakMap();
const placement = (setting, method) => {
  const unpack = async () => {
    const bytes = Uint8Array.from(atob(method.slots), sign => sign.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    const planes = new Uint8Array(await new Response(stream).arrayBuffer()), half = planes.length / 2;
    return setting.layers.map((_, i) => Array.from({ length: setting.slots },
      (_, s) => planes[i * setting.slots + s] + 256 * planes[half + i * setting.slots + s] - 1));
  };
  if (!unpacked.has(method)) unpacked.set(method, unpack());
  return unpacked.get(method);
};
const gpuLoads = (setting, slots, loads) => {
  const copies = new Map(), size = perGpu(setting);
  for (const expert of slots) copies.set(expert, (copies.get(expert) ?? 0) + 1);
  return Array.from({ length: setting.gpus }, (_, gpu) => {
    const held = slots.slice(gpu * size, (gpu + 1) * size).filter(expert => expert >= 0);
    return { gpu, held, load: sum(held.map(expert => loads[expert] / copies.get(expert))) };
  });
};
const few = held => held.slice(0, 24).join(", ") + (held.length > 24 ? ` and ${held.length - 24} more` : "");
const loadsChart = (setting, method, i, slots) => {
  const rows = gpuLoads(setting, slots, data.loads[setting.trace][i]).sort((a, b) => b.load - a.load);
  const bound = setting.bound[i], { colour } = look(method.name), values = rows.map(row => row.load);
  const figure = newFigure("GPUs, fullest first", "load [tokens]", { height: 320 });
  const high = Math.max(values[0], bound ?? 0), low = state.near ? Math.min(values.at(-1), bound ?? Infinity) : 0;
  const room = state.near ? high - low || 1 : high, bottom = state.near ? low - room * 0.1 : 0;
  fit(figure, [-1, rows.length], [bottom, high + room * 0.2]);
  placeTicks(figure, "x", []);
  figure.yaxis.formatter = new Bokeh.NumeralTickFormatter({ format: "0,0.[00]" });
  const points = source({
    x: rows.map((_, rank) => rank), top: values, gpu: rows.map(row => row.gpu),
    load: values.map(value => short(value, 8)), held: rows.map(row => few(row.held)),
    over: values.map(value => (bound ? `${(100 * (value / bound - 1)).toFixed(3)} %` : "-")),
  });
  const bars = figure.vbar({ x: column("x"), top: column("top"), bottom, width: 0.82, source: points,
    fill_color: colour, line_color: null, fill_alpha: 0.85 });
  hover(figure, [bars], [["GPU", "@gpu"], ["load", "@load"], ["to the bound", "@over"], ["experts", "@held"]]);
  if (bound !== null) {
    line(figure, source({ x: [-1, rows.length], y: [bound, bound] }), RED, { line_dash: "dashed" });
    label(figure, rows.length, bound, `lower bound (${setting.source[i]})`,
      { x_offset: -4, y_offset: 4, text_align: "right" });
  }
  return figure;
};
const certificate = (setting, i) => {
  const told = setting.certificate[i];
  if (told === null) return "none: the bound rests on a solver's search";
  if (told === "") return "too long for this page; certificates.json has it (option --verify)";
  return el("details", {},
    el("summary", {}, "shown as JSON; moeopt.verify proves the bound from it in exact arithmetic"),
    el("pre", {}, told));
};
const layerFacts = (setting, method, i) => {
  const facts = [
    ["status", data.statuses[method.status[i]]],
    ["optimum", setting.proven[i] ? proof(true, `proven (within ${tolerance} %)`)
      : proof(false, `open: between ${short(setting.bound[i], 10)} and ${short(setting.best[i], 10)} tokens`)],
    ["fullest GPU", `${short(method.makespan[i], 10)} tokens; best placement known: ${short(setting.best[i], 10)}`],
    ["lower bound", `${short(setting.bound[i], 10)} tokens by ${setting.source[i] || "nobody"}`],
    ["gap", `${percent(method.gap[i])} % at most`],
    ["moves", `${text(method.moves[i])} from ${data.in_force}`],
    ["certificate", certificate(setting, i)],
  ];
  if (method.note[i]) facts.push(["note", method.note[i]]);
  return el("dl", {}, facts.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
};
const layer = setting => {
  const method = chosenMethod(setting), i = chosenLayer(setting, method), count = setting.layers.length;
  const step = by => choose({ layer: setting.layers[(i + by + count) % count] });
  return [
    el("h2", {}, `Layer ${setting.layers[i]} with ${method.name}`),
    el("p", { class: "quiet" }, setting.title),
    el("div", { class: "bar" },
      el("button", { id: "previous", onclick: () => step(-1) }, "◀ previous layer"),
      el("button", { id: "next", onclick: () => step(1) }, "next layer ▶"),
      el("label", { class: "check" }, el("input", { type: "checkbox", id: "near", checked: Boolean(state.near),
        onchange: event => choose({ near: event.target.checked ? "1" : "" }) }),
      "magnify the differences (axis not from 0)")),
    layerFacts(setting, method, i),
  ];
};
