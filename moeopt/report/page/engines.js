"use strict";
// Placements as the files that engines load.

const jsonRows = rows => `[\n${rows.map(row => JSON.stringify(row)).join(",\n")}\n]`;
const gpusOf = (row, setting) => Array.from({ length: setting.gpus },
  (_, gpu) => row.slice(gpu * perGpu(setting), (gpu + 1) * perGpu(setting)));
const npy = (shape, bytes) => {
  const room = " ".repeat(21 - String(shape[0]).length);  // numpy leaves it for arrays that grow
  const head = `{'descr': '|u1', 'fortran_order': False, 'shape': (${shape.join(", ")}), }${room}`;
  const padded = `${head.padEnd(Math.ceil((head.length + 11) / 64) * 64 - 11)}\n`;
  const start = [0x93, ...[..."NUMPY"].map(sign => sign.charCodeAt(0)), 1, 0, padded.length & 255, padded.length >> 8];
  return new Blob([new Uint8Array(start), padded, bytes]);
};
// As moeopt.traces writes them, byte for byte: (rows in the order of their ids, ids, setting, layers of the model).
const writers = {
  sglang: [".json", (rows, ids, setting, total) => {
    const turns = Array.from({ length: setting.slots }, (_, slot) => slot % setting.experts);
    const all = Array.from({ length: total }, () => turns);
    ids.forEach((id, i) => { all[id] = rows[i]; });
    return `{"physical_to_logical_map": ${jsonRows(all)}}\n`;
  }],
  vllm: [".json", rows => `${jsonRows(rows)}\n`],
  "vllm-jsonl": [".jsonl", (rows, ids, setting) => `${JSON.stringify({
    record_type: "eplb_initial_mapping", version: 1, num_redundant_experts: setting.slots - setting.experts,
    num_slots: setting.slots, initial_global_assignments: Object.fromEntries(rows.entries()),
  })}\n`],
  trtllm: [".yaml", (rows, ids, setting) => `num_slots: ${setting.slots}\ninitial_global_assignments:\n${
    rows.map((row, i) => `  ${ids[i]}: [${row.join(", ")}]\n`).join("")}layer_updates_per_iter: 0\n`],
  ascend: [".json", (rows, ids, setting) => {
    const layers = rows.map((row, i) => JSON.stringify({
      layer_id: i, device_count: setting.gpus,
      device_list: gpusOf(row, setting).map((held, gpu) => ({ device_id: gpu, device_expert: held })),
    }));
    return `{"moe_layer_count":${rows.length},"layer_list":[\n${layers.join(",\n")}\n]}\n`;
  }],
  omni: [".npy", (rows, ids, setting) => {
    const pattern = new Uint8Array(setting.gpus * rows.length * setting.experts);
    rows.forEach((row, i) => gpusOf(row, setting).forEach((held, gpu) => held.forEach(expert => {
      pattern[(gpu * rows.length + i) * setting.experts + expert] = 1;
    })));
    return npy([setting.gpus, rows.length, setting.experts], pattern);
  }],
  csv: [".csv", rows => rows.map(row => `${row.join(",")}\n`).join("")],
};
const refused = (engine, rows, ids, setting) => {
  for (const [i, row] of rows.entries()) {
    const slot = row.indexOf(-1);
    if (slot >= 0 && !engine.partial)
      return `layer ${ids[i]}: slot ${slot} (GPU ${Math.floor(slot / perGpu(setting))}) is empty, and ${engine.label} `
        + "knows no empty slots; the command below, with --trace and the loads, fills them.";
    if (engine.colocated) continue;
    for (const [gpu, held] of gpusOf(row, setting).entries())
      if (new Set(held).size < held.length)
        return `layer ${ids[i]}: GPU ${gpu} holds an expert more than once, which ${engine.label} cannot load; `
          + `moeopt plan --engine ${engine.name} keeps copies apart.`;
  }
  return "";
};
const ranges = ids => ids.reduce((runs, id) => {
  const last = runs.at(-1);
  if (last && id === last[1] + 1) last[1] = id; else runs.push([id, id]);
  return runs;
}, []).map(([first, last]) => (first === last ? first : `${first}-${last}`)).join(",");
const shell = word => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'"'"'`)}'`);

const rowsOf = async (setting, method) => {
  const slots = await placement(setting, method);
  const order = setting.layers.map((_, i) => i).filter(i => slots[i].some(expert => expert >= 0))
    .sort((a, b) => setting.layers[a] - setting.layers[b]);
  return [order.map(i => slots[i]), order.map(i => setting.layers[i])];
};
const save = async (setting, method, engine) => {
  const [rows, ids] = await rowsOf(setting, method);
  const last = ids.at(-1) + 1, total = Number(state.model_layers || last), [suffix, write] = writers[engine.name];
  const missing = rows.length < setting.layers.length && !engine.partial
    ? `${method.name} has no placement on ${setting.layers.length - rows.length} layers.` : "";
  const few = engine.by_layer_id && !(total >= last) ? `The model must have at least ${last} layers.` : "";
  const why = missing || few || refused(engine, rows, ids, setting);
  at("refused").textContent = why && `Not written: ${why}`;
  if (!why) download(`${setting.label}_${method.name}${suffix}`, write(rows, ids, setting, total));
};
const engines = setting => {
  const method = chosenMethod(setting), offered = data.engines.filter(engine => engine.name in writers);
  const engine = offered.find(one => one.name === state.engine) ?? offered[0];
  const ids = ranges([...setting.layers].sort((a, b) => a - b));
  const command = `moeopt convert ${shell(method.file)} placement`
    + `${writers[engine.name][0]} --engine ${engine.name} --experts ${setting.experts} --gpus ${setting.gpus}`
    + ` --layer-ids ${ids}`
    + (state.model_layers && engine.by_layer_id ? ` --model-layers ${shell(state.model_layers)}` : "");
  return [
    el("h3", {}, "Take this placement along"),
    el("p", {}, `${method.name}'s placement of all layers (${ids}) as the file that an engine loads at its start:`),
    el("div", { class: "bar" },
      select("engine", "Format", offered.map(one => [one.name, `${one.label} (${one.name})`]), engine.name,
        name => choose({ engine: name })),
      engine.name === "sglang" && number("model_layers", "Layers of the model", state.model_layers,
        model_layers => choose({ model_layers }), { min: 1, placeholder: Math.max(...setting.layers) + 1 }),
      el("button", { id: "save", onclick: () => save(setting, method, engine) }, "Download")),
    el("p", { id: "refused", class: "open", role: "status" }),
    el("p", { class: "quiet" }, "The same from the report's folder, and .npz with --engine npz:"),
    el("pre", { id: "command" }, command),
  ];
};
