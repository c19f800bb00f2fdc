// The charts that answer to a reader: choices in, rows of the embedded numbers out. Nothing here measures anything.
"use strict";
(() => {
  const section = document.getElementById("explore");
  const { pairs, paths, training, charts, words } = JSON.parse(document.getElementById("explore-data").textContent);
  const get = (id) => document.getElementById(`explore-${id}`);
  const views = {};
  // What was asked for is drawn in that order; `data-state` says when all of it is there.
  let queue = Promise.resolve();
  let waiting = 0;
  const then = (work) => {
    waiting += 1;
    section.dataset.state = "drawing";
    queue = queue
      .then(work)
      .catch((error) => {
        console.error(error);
        get("failed").hidden = false;
      })
      .finally(() => {
        waiting -= 1;
        if (!waiting) section.dataset.state = "ready";
      });
  };
  // `ast`: expressions are interpreted, not evaluated, as the page's Content-Security-Policy wants.
  const options = {
    ast: true,
    renderer: "svg",
    actions: false,
    defaultStyle: false,
    tooltip: { disableDefaultStyle: true },
  };
  const embed = async (name, spec, rows) => {
    views[name]?.finalize();
    spec.data.values = rows;
    views[name] = (await vegaEmbed(get(name), spec, options)).view;
    return views[name];
  };
  const copy = (spec) => structuredClone(spec);
  const fill = (select, labels, chosen) => {
    select.replaceChildren(...labels.map((label, i) => new Option(label, i, i === chosen, i === chosen)));
  };
  const addButton = (name, title, numbers) =>
    get(`${name}-figure`).querySelector("figcaption").before(colinearReport.button(`explore-${name}`, title, numbers));
  const powerOfTen = (value) => {
    const [mantissa, exponent] = value.toExponential(2).split("e");
    return `${mantissa}×10${[...`${Number(exponent)}`].map((digit) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(digit)]).join("")}`;
  };
  const fixed = (value, decimals, unit = "") => {
    if (value === null || value === undefined) return "not measured";
    const text = decimals && Math.abs(value) >= 1e6 ? powerOfTen(value) : value.toFixed(decimals);
    return (Number(text) === 0 ? text.replace("-", "") : text) + (unit === "degrees" ? "°" : unit && ` ${unit}`);
  };

  // --- pairs and layers ---------------------------------------------------------------------------------------------
  const n = pairs.names.length;
  const state = { i: pairs.other, j: pairs.reference, metric: 0, place: 0 };
  const metric = () => pairs.metrics[state.metric];
  const index = (i, j) => (i < j ? (i * (2 * n - i - 1)) / 2 + j - i - 1 : index(j, i));
  const values = (of, i, j) => ((i > j && of.turned) || of.values)[index(i, j)];
  const nulls = (of, i, j) => (of.nulls.length === 1 ? of.nulls[0] : of.nulls[index(i, j)]);
  const where = (place) => (place === 0 ? "all layers" : `layer ${pairs.layers[place - 1]}`);
  const shown = (value) => fixed(value, metric().decimals, metric().unit);

  const profileRows = () => {
    const lines = [
      [words.pair, values(metric(), state.i, state.j)],
      ...pairs.floors.map((name, at) => [words.floors[at], metric().floors[name]]),
      [words.null, nulls(metric(), state.i, state.j)],
    ];
    return lines.flatMap(([kind, line]) =>
      pairs.layers.flatMap((layer, at) =>
        line[at + 1] === null ? [] : [{ layer, kind, value: line[at + 1], shown: shown(line[at + 1]) }],
      ),
    );
  };
  const heatRows = () => {
    const { domain, nearer, decimals } = metric();
    const rows = [];
    for (let i = 0; i < n; i += 1) {
      for (let j = 0; j < n; j += 1) {
        if (i === j) continue;
        const value = values(metric(), i, j)[state.place];
        const share = (value - domain[0]) / (domain[1] - domain[0]);
        const bright = nearer === "low" ? 1 - share : share;
        const text = value === null ? "n/m" : fixed(value, n > 8 ? Math.min(decimals, 2) : decimals);
        rows.push({
          i,
          j,
          a: pairs.labels[i],
          b: pairs.labels[j],
          value,
          shown: shown(value),
          where: where(state.place),
          spoken: `${pairs.labels[i]} against ${pairs.labels[j]}, ${where(state.place)}: ${shown(value)}`,
          text: n > 12 ? "" : text.replace(/^(-?)0\./, "$1."),
          ink: value === null ? "currentColor" : bright > 0.55 ? "#000000" : "#ffffff",
        });
      }
    }
    return rows;
  };
  const profileSpec = () => {
    const spec = copy(charts.profile);
    const { axis, unit, domain } = metric();
    const ends = [pairs.layers[0], pairs.layers[pairs.layers.length - 1]];
    const every = Math.ceil(pairs.layers.length / 12);
    for (const layer of spec.layer) {
      layer.encoding.x.scale.domain = ends;
      layer.encoding.x.axis.values = pairs.layers.filter((_, i) => i % every === 0);
      if (!layer.encoding.y) continue;
      layer.encoding.y.scale = { domain, nice: unit !== "degrees" };
      layer.encoding.y.axis = { title: axis, tickCount: 6, ...(unit === "degrees" && { values: [0, 30, 60, 90] }) };
    }
    return spec;
  };
  const heatSpec = () => {
    const spec = copy(charts["heat-map"]);
    const { axis, domain, nearer } = metric();
    spec.params.find((one) => one.name === "labels").value = pairs.labels;
    spec.layer[0].encoding.color.legend.title = axis;
    for (const { encoding } of spec.layer) {
      encoding.x.scale.domain = encoding.y.scale.domain = pairs.labels.map((_, i) => i);
      if (n > 16) encoding.x.axis.labelFontSize = encoding.y.axis.labelFontSize = 8;
    }
    Object.assign(spec.layer[0].encoding.color.scale, { domain, reverse: nearer === "low" });
    spec.height = Math.max(240, Math.min(36 * n + 120, 560));
    if (get("heat-map").clientWidth < 420) {
      spec.layer[2].mark.fontSize = 9;
      for (const { encoding } of spec.layer) {
        encoding.x.axis.labelFontSize = encoding.y.axis.labelFontSize = 10;
        encoding.x.axis.labelLimit = encoding.y.axis.labelLimit = 84;
      }
    }
    return spec;
  };
  const say = () => {
    const { title } = metric();
    const [i, j, place] = [state.i, state.j, state.place];
    get("value").textContent = shown(values(metric(), i, j)[place]);
    get("what").textContent = `${title}: ${pairs.names[i]} against ${pairs.names[j]}, ${where(place)}`;
    const beside = pairs.floors.map((name, at) => `${words.floors[at]} ${shown(metric().floors[name][place])}`);
    beside.push(`${words.null} ${shown(nulls(metric(), i, j)[place])}`);
    get("beside").textContent = beside.join(" · ");
    get("place").textContent = where(place);
    get("layer").setAttribute("aria-valuetext", where(place));
    get("bright").textContent = metric().nearer ? "Bright: alike." : "Bright: the higher value.";
    get("pairs-how").textContent =
      `${title}${metric().over && ` of a layer: ${metric().over}`}. ` +
      (metric().turned ? "The heat-map has the first run in its rows, the second in its columns. " : "");
  };
  const update = () => {
    say();
    then(async () => {
      if (views.profile) {
        const layer = state.place ? pairs.layers[state.place - 1] : -1;
        await views.profile.signal("layer", layer).data("rows", profileRows()).runAsync();
      }
      await views["heat-map"].signal("first", state.i).signal("second", state.j).data("rows", heatRows()).runAsync();
    });
  };
  const choosePair = (i, j) => {
    // The run that is chosen twice gives its place to the one that stood there.
    if (i === j) [i, j] = i === state.i ? [state.j, j] : [i, state.i];
    Object.assign(state, { i, j });
    get("run").value = i;
    get("other").value = j;
    update();
    if (paths) drawPaths();
  };
  const choosePlace = (place) => {
    state.place = place;
    get("layer").value = place;
    update();
  };
  const drawPairs = () => {
    then(async () => {
      if (pairs.layers.length) {
        const profile = await embed("profile", profileSpec(), profileRows());
        profile.addEventListener("click", (_, item) => {
          const at = pairs.layers.indexOf(item?.datum?.layer);
          if (at >= 0) choosePlace(at + 1);
        });
      }
      const heat = await embed("heat-map", heatSpec(), heatRows());
      heat.addEventListener("click", (_, item) => {
        if (item?.datum?.i !== undefined) choosePair(item.datum.i, item.datum.j);
      });
    });
    update();
  };

  section.hidden = false;
  fill(get("run"), pairs.names, state.i);
  fill(get("other"), pairs.names, state.j);
  fill(get("metric"), pairs.metrics.map((entry) => entry.title), 0);
  get("layer").max = pairs.layers.length;
  get("profile-figure").hidden = get("layer").parentElement.hidden = !pairs.layers.length;
  get("run").addEventListener("change", () => choosePair(Number(get("run").value), state.j));
  get("other").addEventListener("change", () => choosePair(state.i, Number(get("other").value)));
  get("layer").addEventListener("input", () => choosePlace(Number(get("layer").value)));
  get("metric").addEventListener("change", () => {
    state.metric = Number(get("metric").value);
    drawPairs();
  });
  addButton("profile", "the chosen pair over the layers", () => {
    const { metric: name, k, floors } = metric();
    const columns = ["run_a", "run_b", "metric", "k", "layer", "value", "null"];
    columns.push(...pairs.floors.map((kind) => `floor_${kind.replace(" ", "_")}`));
    const line = values(metric(), state.i, state.j);
    const rows = line.map((value, place) => [
      pairs.names[state.i],
      pairs.names[state.j],
      name,
      k,
      place ? pairs.layers[place - 1] : null,
      value,
      nulls(metric(), state.i, state.j)[place],
      ...pairs.floors.map((kind) => floors[kind][place]),
    ]);
    return { columns, rows };
  });
  addButton("heat-map", "every pair at the chosen layer", () => {
    const { metric: name, k, turned } = metric();
    const rows = [];
    const layer = state.place ? pairs.layers[state.place - 1] : null;
    for (let i = 0; i < n; i += 1) {
      for (let j = turned ? 0 : i + 1; j < n; j += 1) {
        if (i === j) continue;
        rows.push([pairs.names[i], pairs.names[j], name, k, layer, values(metric(), i, j)[state.place]]);
      }
    }
    return { columns: ["run_a", "run_b", "metric", "k", "layer", "value"], rows };
  });
  drawPairs();

  // --- paths --------------------------------------------------------------------------------------------------------
  const ofPair = () => {
    const [a, b] = [pairs.names[state.i], pairs.names[state.j]];
    return paths.paths.flatMap((path) => {
      if (path.a === a && path.b === b) return [path];
      if (path.a !== b || path.b !== a) return [];
      const alpha = path.alpha.map((at) => 1 - at).reverse();
      return [{ ...path, a, b, alpha, value: [...path.value].reverse() }];
    });
  };
  const wanted = (path) => get("scaling").value === "both" || path.matched === (get("scaling").value === "matched");
  const pathRows = (reading) =>
    ofPair()
      .filter((path) => path.reading === reading.key && wanted(path))
      .flatMap(({ alpha, value, matched }) => {
        const [first, last] = [value[0], value[value.length - 1]];
        return alpha.map((at, i) => ({
          alpha: at,
          value: value[i] * reading.scale,
          chord: ((1 - at) * first + at * last) * reading.scale,
          kind: matched ? words.matched : words.plain,
          shown: fixed(value[i] * reading.scale, reading.key === "accuracy" ? 1 : 4),
        }));
      });
  const drawPaths = () => {
    get("paths-title").textContent =
      `The straight path from ${pairs.names[state.i]} (alpha 0) to ${pairs.names[state.j]} (alpha 1)`;
    const measured = ofPair().some(wanted);
    get("paths-absent").hidden = measured;
    get("paths-charts").hidden = !measured;
    then(async () => {
      if (!measured) return;
      for (const reading of paths.readings) {
        const name = `path-${reading.key}`;
        const rows = pathRows(reading);
        get(name).hidden = !rows.length;
        if (!rows.length) continue;
        if (!views[name]) {
          const spec = copy(charts.path);
          spec.title = { text: reading.title, anchor: "start", color: "currentColor", fontSize: 13, fontWeight: 600 };
          for (const { encoding } of spec.layer) encoding.y.axis.title = reading.unit;
          await embed(name, spec, rows);
        }
        await views[name].data("rows", rows).runAsync();
      }
    });
  };
  if (paths) {
    for (const { key } of paths.readings) {
      const chart = document.createElement("div");
      chart.id = `explore-path-${key}`;
      chart.className = "chart";
      get("paths-charts").append(chart);
    }
    get("scaling").addEventListener("change", drawPaths);
    addButton("paths", "the paths of the chosen pair", () => ({
      columns: ["run_a", "run_b", "matched", "reading", "alpha", "value", "n"],
      rows: ofPair()
        .filter(wanted)
        .flatMap((path) =>
          path.alpha.map((at, i) => [path.a, path.b, path.matched, path.reading, at, path.value[i], path.n]),
        ),
    }));
    drawPaths();
  }

  // --- training -----------------------------------------------------------------------------------------------------
  if (training) {
    const ALL = training.runs.length;
    const [run, logged] = [get("training-run"), get("training-metric")];
    fill(run, [...training.runs, "all runs"], Math.max(0, training.runs.indexOf(pairs.names[pairs.reference])));
    fill(logged, training.metrics, 0);
    const chosen = () =>
      training.curves.filter(
        (curve) =>
          curve.metric === training.metrics[logged.value] &&
          (Number(run.value) === ALL || curve.run === training.runs[run.value]),
      );
    const draw = () =>
      then(async () => {
        const curves = chosen();
        get("training-absent").hidden = curves.length > 0;
        get("training").hidden = !curves.length;
        if (!curves.length) return;
        const drawn = curves.map((curve) => training.runs.indexOf(curve.run));
        const spec = copy(charts.training);
        spec.params.find((one) => one.name === "labels").value = training.labels;
        const { color, strokeDash } = spec.layer[0].encoding;
        color.scale = { domain: drawn, range: drawn.map((at) => training.colours[at]) };
        strokeDash.scale = { domain: drawn, range: drawn.map((at) => (training.floors[at] ? [5, 3] : [1, 0])) };
        for (const { encoding } of spec.layer) encoding.y.axis.title = training.metrics[logged.value];
        const rows = curves.flatMap((curve, at) =>
          curve.step.map((step, i) => ({
            step,
            value: curve.value[i],
            run: drawn[at],
            name: training.labels[drawn[at]],
            shown: `${curve.value[i]}`,
          })),
        );
        const steps = [...new Set(rows.map((row) => row.step))];
        // Of few steps Vega puts ticks between them, and a line of one point cannot be seen.
        if (steps.length <= 8) for (const { encoding } of spec.layer) encoding.x.axis.values = steps;
        if (steps.length === 1) Object.assign(spec.layer[1].mark, { opacity: 1, size: 50 });
        await embed("training", spec, rows);
      });
    run.addEventListener("change", draw);
    logged.addEventListener("change", draw);
    addButton("training", "the training curves shown", () => ({
      columns: ["run", "step", "metric", "value"],
      rows: chosen().flatMap((curve) => curve.step.map((step, i) => [curve.run, step, curve.metric, curve.value[i]])),
    }));
    draw();
  }
})();
