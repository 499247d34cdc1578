"use strict";
// Charts of one setting: gap against runtime, performance profile, slots, moves.

const runtime = method => method.summary.runtime_ms_median;
const visible = setting => placed(setting).filter(method => !state.hide.includes(method.name));

const gapAgainstRuntime = setting => {
  const methods = visible(setting).filter(method => runtime(method) > 0), times = methods.map(runtime);
  const figure = newFigure("runtime for all layers together [ms]", "gap to the proven bound [%]",
    { x_axis_type: "log", y_axis_type: "log" });
  const low = Math.min(...times) / 2, high = Math.max(...times) * 2;
  const top = Math.max(...methods.map(method => onFloor(method.summary.max_gap)), 1) * 1.5;
  fit(figure, [low, high], [FLOOR * 0.7, top]);
  logTicks(figure, "x", low, high);
  logTicks(figure, "y", FLOOR, top, FLOOR);
  for (const method of methods) {
    const gaps = known(method.gap), { colour, marker } = look(method.name), told = method.summary;
    const points = source({
      x: [runtime(method)], y: [onFloor(told.mean_gap)], low: [onFloor(Math.min(...gaps))],
      high: [onFloor(Math.max(...gaps))], name: [method.name], mean: [percent(told.mean_gap)],
      worst: [percent(told.max_gap)], step: [percent(told.step_gap)], ms: [millis(runtime(method))],
      optimal: [(100 * told.share_optimal).toFixed(0)],
    });
    upright(figure, points, colour);
    marks(figure, points, colour, marker, [["method", "@name"], ["run ms", "@ms"], ["mean gap %", "@mean"],
      ["max gap %", "@worst"], ["step gap %", "@step"], ["optimal %", "@optimal"]], { size: 12 });
  }
  return figure;
};

// For x, the share of layers certainly within x of the optimum, and the share that may be. A layer's distance from
// its optimum lies between that to the best placement known and that to the bound; the two meet where it is proven.
const profile = (setting, method) => {
  const most = method.gap.map(gap => (gap === null ? Infinity : onFloor(gap)));
  const least = method.gap.map((gap, i) => (gap === null ? Infinity
    : setting.proven[i] ? most[i] : onFloor(distance(setting, method, i))));
  const x = unique([FLOOR, ...most, ...least]).filter(Number.isFinite).sort((a, b) => a - b);
  const share = distances => x.map(within => 100 * distances.filter(one => one <= within).length / distances.length);
  return { x, sure: share(most), may: share(least), name: x.map(() => method.name) };
};
const performanceProfile = setting => {
  const figure = newFigure("at most so far above the optimum [%]", "share of layers [%]", { x_axis_type: "log" });
  const lines = visible(setting).map(method => profile(setting, method));
  const high = Math.max(1, ...lines.map(one => one.x.at(-1))) * 1.3;
  fit(figure, [FLOOR * 0.9, high], [0, 103]);
  logTicks(figure, "x", FLOOR, high, FLOOR);
  for (const { x, sure, may, name } of lines) {
    const { colour, marker } = look(name[0]);
    const points = source({ x: [...x, high], y: [...sure, sure.at(-1)], may: [...may, may.at(-1)] });
    const across = { x: column("x"), source: points, mode: "after", line_color: colour };
    if (may.some((share, i) => share > sure[i])) {
      figure.varea_step({ x: column("x"), y1: column("y"), y2: column("may"), source: points, step_mode: "after",
        fill_color: colour, fill_alpha: 0.15 });
      figure.step({ ...across, y: column("may"), line_width: 1.5, line_dash: "dashed" });
    }
    figure.step({ ...across, y: column("y"), line_width: 2.2 });
    const some = values => values.filter((_, i) => i % Math.max(1, Math.ceil(x.length / 6)) === 0);
    marks(figure, source({ x: some(x), y: some(sure), may: some(may), name: some(name) }), colour, marker,
      [["method", "@name"], ["within", "@x{0.000} %"], ["proven for", "@y{0} % of layers"],
        ["possible for", "@may{0} % of layers"]], { size: 8 });
  }
  return figure;
};
const profileWords = setting => {
  const open = setting.proven.filter(proven => !proven).length;
  return "Solid: share of layers that are certainly within so many per cent of the optimum, measured to the proven "
    + "bound. " + (open
      ? `The optimum of ${open} of ${setting.layers.length} layers is not proven: dashed is the share that may be `
        + "within, and the band between is open."
      : "Every layer's optimum is proven here, so nothing is open (a dashed line would show what may be within).");
};

// ---------------------------------------------------------------- slots

const slotsOf = setting => data.more_slots.find(one => one.trace === setting.trace && one.gpus === setting.gpus
  && one.nodes === setting.nodes && one.groups === setting.groups);
const slotsCurve = (setting, family) => {
  const figure = newFigure("slots on all GPUs", "step above perfect balance [%]", { y_axis_type: "log" });
  const slots = family.rows.map(row => row.slots), above = ratio => onFloor(ratio - 1);
  const room = Math.max((slots.at(-1) - slots[0]) * 0.08, setting.gpus / 2);
  let top = 1;
  for (const { name } of visible(setting)) {
    const rows = family.rows.filter(row => name in row.methods), { colour, marker } = look(name);
    const values = rows.map(row => above(row.methods[name]));
    const points = source({ x: rows.map(row => row.slots), y: values, name: rows.map(() => name) });
    top = Math.max(top, ...values);
    line(figure, points, colour);
    marks(figure, points, colour, marker,
      [["method", "@name"], ["slots", "@x"], ["above perfect balance", "@y{0.000} %"]]);
  }
  const proven = source({ x: slots, y: family.rows.map(row => above(row.bound)) });
  hover(figure, [line(figure, proven, GREY, { line_dash: "dotted" })],
    [["proven bound at", "@x slots"], ["above perfect balance", "@y{0.000} %"]]);
  fit(figure, [slots[0] - room, slots.at(-1) + room], [FLOOR * 0.7, top * 1.5]);
  placeTicks(figure, "x", slots);
  logTicks(figure, "y", FLOOR, top * 1.5, FLOOR);
  return figure;
};

// ---------------------------------------------------------------- moves

const movesChart = ({ slots, moves }) => {
  const figure = newFigure("moves per layer (mean): slots to be written", "worst layer above its best known [%]",
    { x_axis_type: "log", y_axis_type: "log", height: 380 });
  const floor = 0.05, bottom = floor * 0.8, up = share => Math.max(100 * share, floor);
  const positive = [...known(moves.repair), ...moves.needed].filter(value => value > 0);
  const least = Math.max(0.5 * Math.min(1, ...positive), 0.2), across = value => Math.max(value, least);
  const heights = moves.ceilings.map(up), top = Math.max(1.6 * up(moves.stay.worst), 2 * heights.at(-1));
  fit(figure, [least, 2 * slots], [bottom, top]);
  logTicks(figure, "x", least, 2 * slots);
  logTicks(figure, "y", floor, top, floor);

  // Up to a ceiling nothing is possible with fewer moves than it needs.
  figure.varea_step({ x: [least, ...moves.needed.map(across).reverse()], y1: [bottom, ...heights.map(() => bottom)],
    y2: [heights.at(-1), ...[...heights].reverse()], step_mode: "before", fill_color: GREY, fill_alpha: 0.35 });
  const found = moves.repair.map((_, i) => i).filter(i => moves.repair[i] !== null);
  const points = source({
    x: found.map(i => across(moves.repair[i])), y: found.map(i => heights[i]),
    moves: found.map(i => moves.repair[i].toFixed(1)), needed: found.map(i => moves.needed[i].toFixed(1)),
    ceiling: found.map(i => `+${short(100 * moves.ceilings[i])} %`),
  });
  figure.step({ x: column("x"), y: column("y"), source: points, mode: "before", line_color: GREEN, line_width: 2.5 });
  marks(figure, points, GREEN, "circle", [["repair, at most", "@ceiling above the best"], ["moves per layer", "@moves"],
    ["proven to be needed", "@needed"]]);

  const others = [{ name: "in force", moves: 0, least: moves.stay.worst, worst: moves.stay.worst }, ...moves.fixed];
  others.forEach((one, i) => {
    const colour = i ? COLOURS[(i + 2) % COLOURS.length] : GREY, x = across(one.moves), y = up(one.worst);
    const mark = source({ x: [x], y: [y], low: [up(one.least)], high: [y], name: [one.name],
      moves: [one.moves.toFixed(1)], worst: [percent(one.worst)] });
    upright(figure, mark, colour);
    marks(figure, mark, colour, i ? MARKS[i][0] : "square", [["placement", "@name"], ["moves per layer", "@moves"],
      ["worst layer above best %", "@worst"]], { size: 11 });
    label(figure, x, y, one.name, { x_offset: 10, y_offset: 2 });
  });
  return figure;
};
const moves = setting => {
  if (!setting.moves) return [];
  const { stay, headings, cells } = setting.moves;
  const columns = headings.map((name, i) => ({ key: String(i), name, value: row => row[i], text: i === 0 }));
  return [
    el("p", {}, `From ${data.in_force}, which is ${percent(stay.mean)} % above the best on these loads. Moves per `
      + "layer for a makespan at most so far above the best known:"),
    table({ id: "moves", label: "Fewest moves", columns, rows: cells }),
  ];
};
