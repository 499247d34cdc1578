"use strict";
// What all charts share: colours and marks of methods, axes, hovering, and the theme.

const FLOOR = 1e-3;  // per cent; a logarithmic axis has no zero
// Colours that can be told apart on white and on black, with a mark each, so that colour is never alone.
const COLOURS = [
  "#2f7fc1", "#d9730d", "#2a9a58", "#d64550", "#8f6bc9", "#8a7a00", "#12909a", "#c2559f", "#78808a", "#5f8f23",
];
const [RED, GREEN, GREY] = ["#d64550", "#2a9a58", "#78808a"];
const MARKS = [
  ["circle", "●"], ["square", "■"], ["triangle", "▲"], ["diamond", "◆"], ["inverted_triangle", "▼"], ["hex", "⬢"],
  ["star", "★"], ["plus", "✚"], ["square_pin", "▣"], ["triangle_pin", "▴"],
];
const look = name => {
  const place = data.names.indexOf(name), [marker, sign] = MARKS[place % MARKS.length];
  return { colour: COLOURS[place % COLOURS.length], marker, sign };
};
const plain = value => new Bokeh.PlainText({ text: value });  // Bokeh would read $$ as mathematics
const charts = new Map();

const tint = figure => {
  const style = getComputedStyle(document.documentElement);
  const [ink, grid] = ["--quiet", "--grid"].map(name => style.getPropertyValue(name).trim());
  for (const axis of [...figure.xaxes, ...figure.yaxes]) {
    for (const part of ["axis_label_text_color", "major_label_text_color", "axis_line_color", "major_tick_line_color"])
      axis[part] = ink;
  }
  for (const one of figure.center.filter(part => part instanceof Bokeh.Grid)) one.grid_line_color = grid;
  for (const span of figure.center.filter(part => part instanceof Bokeh.Label)) span.text_color = ink;
};
const draw = (host, parts, make) => {
  const key = JSON.stringify([parts, document.documentElement.dataset.theme]);
  if (host.dataset.key === key) return;
  host.dataset.key = key;
  const frame = el("div"), figure = make();
  tint(figure);
  charts.get(host)?.view?.remove();
  host.replaceChildren(frame);
  const drawn = { figure };
  charts.set(host, drawn);
  plotting.show(figure, frame).then(view => { drawn.view = view; });
};
const newFigure = (x_label, y_label, options) => {
  const figure = plotting.figure({
    height: 340, sizing_mode: "stretch_width", tools: "box_zoom,reset,save", toolbar_location: "above",
    background_fill_alpha: 0, border_fill_alpha: 0, outline_line_alpha: 0, ...options,
  });
  figure.toolbar.autohide = true;
  figure.toolbar.active_drag = null;  // a finger that drags scrolls the page
  figure.xaxis.axis_label = plain(x_label);
  figure.yaxis.axis_label = plain(y_label);
  for (const axis of [figure.xaxis, figure.yaxis]) {
    axis.minor_tick_line_color = null;
    axis.axis_label_text_font_style = "normal";
    axis.axis_label_text_font_size = "12px";
  }
  return figure;
};
const column = name => ({ field: name });
const hover = (figure, renderers, tooltips) =>
  figure.add_tools(new Bokeh.HoverTool({ renderers, tooltips, mode: "mouse", attachment: "above" }));
const range = (start, end) => new Bokeh.Range1d({ start, end });
const source = columns => new Bokeh.ColumnDataSource({ data: columns });
const placeTicks = (figure, axis, ticks, names = new Map()) => {
  figure[axis + "axis"].ticker = figure[axis + "grid"].ticker = new Bokeh.FixedTicker({ ticks });
  figure[axis + "axis"].major_label_overrides = names;
};
const logTicks = (figure, axis, low, high, least = null) => {
  const decades = Math.log10(high / low), ticks = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++)
    for (const digit of decades > 4 ? [1] : decades > 2 ? [1, 3] : [1, 2, 5]) ticks.push(Number(`${digit}e${power}`));
  const inside = ticks.filter(tick => tick >= low * 0.999 && tick <= high * 1.001);
  placeTicks(figure, axis, inside, new Map(inside.map(tick =>
    [tick, tick === least ? `≤ ${tick}` : tick >= 1e6 ? tick.toExponential() : String(tick)])));
};
const onFloor = gap => Math.max(100 * gap, FLOOR);
const chart = (id, caption) => el("figure", {}, el("div", { class: "chart", id, role: "img", "aria-label": caption }),
  el("figcaption", {}, caption));
const caption = (id, told) => {
  at(id).setAttribute("aria-label", told);
  at(id).nextSibling.textContent = told;
};
const legend = methods => el("div", { class: "legend", role: "group", "aria-label": "Methods in the charts" },
  methods.map(name => el("button", {
    id: `legend-${data.names.indexOf(name)}`, "aria-pressed": String(!state.hide.includes(name)),
    onclick: () => choose({ hide: toggled(state.hide, name) }),
  }, el("span", { style: `color:${look(name).colour}`, "aria-hidden": "true" }, look(name).sign), name)));
const line = (figure, points, colour, options = {}) =>
  figure.line({ x: column("x"), y: column("y"), source: points, line_color: colour, line_width: 2, ...options });
const marks = (figure, points, colour, marker, tooltips, options = {}) => {
  const dots = figure.scatter({
    x: column("x"), y: column("y"), source: points, size: 9, marker, fill_color: colour, line_color: colour, ...options,
  });
  hover(figure, [dots], tooltips);
};
const fit = (figure, across, up) => {
  figure.x_range = range(...across);
  figure.y_range = range(...up);
};
const upright = (figure, points, colour) => figure.segment({
  x0: column("x"), x1: column("x"), y0: column("low"), y1: column("high"), source: points, line_color: colour,
  line_width: 2, line_alpha: 0.55,
});
const label = (figure, x, y, told, options) =>
  figure.add_layout(new Bokeh.Label({ x, y, text: told, text_font_size: "12px", ...options }));
