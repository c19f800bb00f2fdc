// The two charts that answer to a reader: choices in, rows of the embedded numbers out. Nothing here measures anything.
"use strict";
(() => {
  const section = document.getElementById("explore");
  const { pairs, charts, words } = JSON.parse(document.getElementById("explore-data").textContent);
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
  const embed = async (name, spec, rows, clicked) => {
    views[name]?.finalize();
    spec.data.values = rows;
    views[name] = (await vegaEmbed(get(name), spec, options)).view;
    views[name].addEventListener("click", (_, item) => item?.datum && clicked(item.datum));
  };
  const fill = (select, labels, chosen) =>
    select.replaceChildren(...labels.map((label, i) => new Option(label, i, i === chosen, i === chosen)));
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

  // A place is 0 for all layers, then each layer.
  const n = pairs.names.length;
  const state = { i: pairs.other, j: pairs.reference, metric: 0, place: 0 };
  const metric = () => pairs.metrics[state.metric];
  const index = (i, j) => (i < j ? (i * (2 * n - i - 1)) / 2 + j - i - 1 : index(j, i));
  const values = (i, j) => ((i > j && metric().turned) || metric().values)[index(i, j)];
  const nulls = () => (metric().nulls.length === 1 ? metric().nulls[0] : metric().nulls[index(state.i, state.j)]);
  const layer = () => (state.place ? pairs.layers[state.place - 1] : null);
  const where = () => (state.place ? `layer ${layer()}` : "all layers");
  const shown = (value) => fixed(value, metric().decimals, metric().unit);
  const beside = () => {
    const floors = pairs.floors.map((name, at) => [words.floors[at], metric().floors[name]]);
    return [...floors, [words.null, nulls()]];
  };

  const profileRows = () =>
    [[words.pair, values(state.i, state.j)], ...beside()].flatMap(([kind, line]) =>
      pairs.layers
        .map((layer, at) => ({ layer, kind, value: line[at + 1], shown: shown(line[at + 1]) }))
        .filter(({ value }) => value !== null),
    );
  const ordered = (both) =>
    pairs.names.flatMap((_, i) => pairs.names.map((_, j) => [i, j]).filter(([i, j]) => i < j || (both && i > j)));
  const heatRows = () => {
    const { domain, nearer, decimals } = metric();
    return ordered(true).map(([i, j]) => {
      const value = values(i, j)[state.place];
      const share = (value - domain[0]) / (domain[1] - domain[0]);
      const bright = nearer === "low" ? 1 - share : share;
      const text = value === null ? "n/m" : fixed(value, n > 8 ? Math.min(decimals, 2) : decimals);
      const [a, b] = [pairs.labels[i], pairs.labels[j]];
      return {
        i,
        j,
        a,
        b,
        value,
        shown: shown(value),
        where: where(),
        spoken: `${a} against ${b}, ${where()}: ${shown(value)}`,
        text: n > 12 ? "" : text.replace(/^(-?)0\./, "$1."),
        ink: value === null ? "currentColor" : bright > 0.55 ? "#000000" : "#ffffff",
      };
    });
  };
  const profileSpec = () => {
    const spec = structuredClone(charts.profile);
    const { axis, unit, domain } = metric();
    const every = Math.ceil(pairs.layers.length / 12);
    for (const { encoding } of spec.layer) {
      encoding.x.scale.domain = [pairs.layers[0], pairs.layers.at(-1)];
      encoding.x.axis.values = pairs.layers.filter((_, i) => i % every === 0);
      if (!encoding.y) continue;
      encoding.y.scale = { domain, nice: unit !== "degrees" };
      encoding.y.axis = { title: axis, tickCount: 6, ...(unit === "degrees" && { values: [0, 30, 60, 90] }) };
    }
    return spec;
  };
  const heatSpec = () => {
    const spec = structuredClone(charts["heat-map"]);
    const { axis, domain, nearer } = metric();
    const narrow = get("heat-map").clientWidth < 420;
    spec.params.find((one) => one.name === "labels").value = pairs.labels;
    spec.layer[0].encoding.color.legend.title = axis;
    Object.assign(spec.layer[0].encoding.color.scale, { domain, reverse: nearer === "low" });
    spec.height = Math.max(240, Math.min(36 * n + 120, 560));
    if (narrow) spec.layer[2].mark.fontSize = 9;
    for (const { encoding } of spec.layer)
      for (const side of [encoding.x, encoding.y]) {
        side.scale.domain = pairs.names.map((_, i) => i);
        Object.assign(side.axis, n > 16 && { labelFontSize: 8 }, narrow && { labelFontSize: 10, labelLimit: 84 });
      }
    return spec;
  };

  const say = () => {
    const { title, nearer, over, turned } = metric();
    get("value").textContent = shown(values(state.i, state.j)[state.place]);
    get("what").textContent = `${title}: ${pairs.names[state.i]} against ${pairs.names[state.j]}, ${where()}`;
    get("beside").textContent = beside().map(([name, line]) => `${name} ${shown(line[state.place])}`).join(" · ");
    get("place").textContent = where();
    get("layer").setAttribute("aria-valuetext", where());
    get("bright").textContent = nearer ? "Bright: alike." : "Bright: the higher value.";
    get("pairs-how").textContent =
      `${title}${over && ` of a layer: ${over}`}. ` +
      (turned ? "The heat-map has the first run in its rows, the second in its columns. " : "");
  };
  const update = () => {
    say();
    then(async () => {
      await views.profile?.signal("layer", layer() ?? -1).data("rows", profileRows()).runAsync();
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
  };
  const choosePlace = (place) => {
    get("layer").value = state.place = place;
    update();
  };
  const draw = () => {
    then(async () => {
      if (pairs.layers.length)
        await embed("profile", profileSpec(), profileRows(), ({ layer }) => {
          if (pairs.layers.includes(layer)) choosePlace(pairs.layers.indexOf(layer) + 1);
        });
      await embed("heat-map", heatSpec(), heatRows(), ({ i, j }) => i !== undefined && choosePair(i, j));
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
    draw();
  });
  addButton("profile", "the chosen pair over the layers", () => {
    const { metric: name, k, floors } = metric();
    const [a, b] = [pairs.names[state.i], pairs.names[state.j]];
    const kinds = pairs.floors.map((kind) => `floor_${kind.replace(" ", "_")}`);
    return {
      columns: ["run_a", "run_b", "metric", "k", "layer", "value", "null", ...kinds],
      rows: values(state.i, state.j).map((value, place) => [
        ...[a, b, name, k, place ? pairs.layers[place - 1] : null, value, nulls()[place]],
        ...pairs.floors.map((kind) => floors[kind][place]),
      ]),
    };
  });
  addButton("heat-map", "every pair at the chosen layer", () => {
    const { metric: name, k, turned } = metric();
    const row = ([i, j]) => [pairs.names[i], pairs.names[j], name, k, layer(), values(i, j)[state.place]];
    return { columns: ["run_a", "run_b", "metric", "k", "layer", "value"], rows: ordered(turned).map(row) };
  });
  draw();
})();
