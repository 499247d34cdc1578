"use strict";
// The replay: the answer, what a policy costs by the price of a move, policies, and what slots bring.

const priceNow = () => {
  const asked = Number(state.price || data.price);
  return asked >= 0 ? asked : data.price;
};
const costAt = (i, price) => data.unpriced[i] + data.policies[i].moves_per_layer_step * price;
const cheapestAt = price => data.cheapest.find(([, , high]) => high === null || price <= high)[0];
const visible = () => data.policies.map((_, i) => i).filter(i => !state.hide.includes(data.policies[i].name));

// ---------------------------------------------------------------- cost against the price of a move

const aboveBalance = (i, price) => 100 * (costAt(i, price) - 1);
const costChart = price => {
  const low = Math.min(data.prices[0], price / 2 || data.prices[0]), high = Math.max(data.prices[1], price * 2);
  const prices = Array.from({ length: 200 }, (_, i) => low * (high / low) ** (i / 199)), all = visible();
  const bottom = Math.min(...all.map(i => aboveBalance(i, low)));
  const once = data.policies.findIndex(policy => policy.name === "once");
  const top = Math.max(once >= 0 ? aboveBalance(once, high) : 0, bottom + 1) * 1.15;
  const figure = newFigure("price of one move, in balanced layer-steps", "cost above perfect balance [%]",
    { x_axis_type: "log", height: 420 });
  fit(figure, [low, high], [0.9 * bottom, top]);
  logTicks(figure, "x", low, high);
  for (const i of all) {
    const { name } = data.policies[i], { colour, marker } = look(name);
    const points = at => source({ x: at, y: at.map(one => aboveBalance(i, one)), name: at.map(() => name) });
    line(figure, points(prices), colour, { line_width: 1.3, line_alpha: 0.8 });
    line(figure, points(prices.filter(at => cheapestAt(at) === name)), colour, { line_width: 5 });
    marks(figure, points(prices.filter((_, place) => place % 33 === (i * 5) % 33)), colour, marker,
      [["policy", "@name"], ["price of a move", "@x{0.000}"], ["cost above perfect balance", "@y{0.00} %"]],
      { size: 7 });
  }
  if (price > 0) line(figure, source({ x: [price, price], y: [0.9 * bottom, top] }), GREY, { line_dash: "dashed" });
  return figure;
};
const priceWords = price => {
  const name = cheapestAt(price), i = data.policies.findIndex(policy => policy.name === name);
  return `At ${short(price, 3)} balanced layer-steps per move the cheapest policy is ${name}: `
    + `${aboveBalance(i, price).toFixed(2)} % above perfect balance.`;
};

// ---------------------------------------------------------------- policies

const ratio = value => value?.toFixed(4) ?? "-";
const share = value => (value === null ? "-" : (100 * value).toFixed(2));
const policyColumns = [
  { key: "name", name: "policy", value: row => row.name, cell: row => row.name + (row.chosen ? " *" : ""), text: true },
  { key: "in_sample", name: "in-sample", value: row => row.in_sample, show: ratio },
  { key: "step_ratio", name: "later steps", value: row => row.step_ratio, show: ratio },
  { key: "ci", name: "+-", value: row => row.ci, show: ratio },
  { key: "hindsight", name: "hindsight", value: row => row.hindsight, show: ratio },
  { key: "moves", name: "moves", value: row => row.moves_per_layer_step, show: value => short(value, 3) },
  { key: "plan_ms", name: "plan ms", value: row => row.plan_ms, show: value => short(value, 3) },
  { key: "cost", name: "cost", value: row => row.cost, show: ratio },
  { key: "saving", name: "saves %", value: row => row.saving, show: share },
  { key: "saving_ci", name: "+- %", value: row => row.saving_ci, show: share },
  { key: "second_half", name: "2nd half", value: row => row.second_half, show: ratio },
];
const policies = () => {
  const rows = () => sorted(data.policies, policyColumns, state.sort);
  return [
    el("div", { class: "bar" }, copyButtons(policyColumns, rows, "replay")),
    table({
      id: "policies", label: "Policies", columns: policyColumns, rows: rows(), sort: state.sort,
      onsort: sort => choose({ sort }), current: row => row.name === cheapestAt(priceNow()),
    }),
    list(data.readings.map(rich)),
  ];
};

// ---------------------------------------------------------------- slots

const above = ratios => ratios.map(ratio => 100 * (ratio - 1));
const slotsChart = () => {
  const figure = newFigure("slots", "later steps: fullest GPUs above perfect balance [%]");
  const rules = data.rules.filter(rule => !state.hide.includes(rule)), { slots } = data;
  const room = (slots.at(-1) - slots[0]) * 0.05 + 1;
  const top = Math.max(0.1, ...rules.flatMap(rule => above(data.ratios[rule]))) * 1.1;
  fit(figure, [slots[0] - room, slots.at(-1) + room], [0, top]);
  placeTicks(figure, "x", slots);
  for (const rule of rules) {
    const { colour, marker } = look(rule);
    const points = source({ x: slots, y: above(data.ratios[rule]), name: slots.map(() => rule) });
    line(figure, points, colour);
    marks(figure, points, colour, marker,
      [["dispatch", "@name"], ["slots", "@x"], ["above perfect balance", "@y{0.00} %"]]);
  }
  return figure;
};
const slotsColumns = [
  { key: "slots", name: "slots", value: i => data.slots[i] },
  { key: "per_gpu", name: "per GPU", value: i => data.slots[i] / data.gpus },
  data.gb_per_slot !== null && { key: "gb", name: "GB per GPU", show: value => value.toFixed(1),
    value: i => (data.slots[i] / data.gpus) * data.gb_per_slot },
  ...data.rules.map(rule => ({ key: rule, name: rule, value: i => data.ratios[rule][i], show: ratio })),
].filter(Boolean);
const budgetChart = () => {
  const { layer, num_slots, imbalance, equal_imbalance } = data.budget, x = layer.map((_, i) => i);
  const figure = newFigure("layer", "fullest GPU above mean [%]");
  const top = Math.max(0.1, ...above(imbalance), ...above(equal_imbalance)) * 1.1;
  fit(figure, [-0.7, x.length - 0.3], [0, top]);
  const places = x.filter(i => i % Math.ceil(x.length / 20) === 0);
  placeTicks(figure, "x", places, new Map(places.map(i => [i, String(layer[i])])));
  const told = [["slots", "@slots"], ["layer", "@layer"], ["fullest GPU above mean", "@y{0.00} %"]];
  const equal = source({ x, y: above(equal_imbalance), layer, slots: x.map(() => data.equal) });
  marks(figure, equal, GREY, "circle", told);
  marks(figure, source({ x, y: above(imbalance), layer, slots: num_slots }), COLOURS[0], "square", told);
  return figure;
};

// ---------------------------------------------------------------- the page

at("main").replaceChildren(
  section("answer", "The answer", list(data.answers.map(rich))),
  section("cost-section", "What a policy costs", el("div", { id: "cost-host" }),
    chart("cost-chart", "Cost against the price of a move; bold: the cheapest; dashed: the price chosen.")),
  section("policies-section", `Policies on ${data.heading}`, el("p", {}, rich(data.told)),
    el("div", { id: "policies-host" })),
  section("slots-section", "How many slots", el("p", {}, rich(data.all_rules)), el("p", {}, rich(data.slots_words)),
    el("div", { id: "rules-host" }),
    chart("slots-chart", "Planned once on the warm-up by scenario_search, scored on the steps that follow."),
    table({ id: "slots", label: "Slots", columns: slotsColumns, rows: data.slots.map((_, i) => i) })),
  section("budget-section", "Which layers should get them", el("p", {}, rich(data.budget_words)),
    chart("budget-chart", `Squares: slots as dealt; circles: ${data.equal} for every layer.`)),
  reproduceSection());

const render = () => {
  showTheme();
  const price = priceNow();
  fill(at("cost-host"),
    el("div", { class: "bar" }, number("price", "Price of a move", price, asked => choose({ price: asked }),
      { min: 0, step: "any" })),
    el("p", { id: "at-price" }, priceWords(price)), legend(data.policies.map(policy => policy.name)));
  fill(at("policies-host"), policies());
  fill(at("rules-host"), legend(data.rules));
  draw(at("cost-chart"), [price, state.hide], () => costChart(price));
  draw(at("slots-chart"), [state.hide], slotsChart);
  draw(at("budget-chart"), [], budgetChart);
};
start();
