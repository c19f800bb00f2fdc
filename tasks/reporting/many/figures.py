"""Figures over the studies: every training a dot, every method a colour."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from tasks.reporting.charts.lines import DASHES, SOLID, Line, lines_views
from tasks.reporting.charts.picture import KNOWN, Picture
from tasks.reporting.charts.style import (
    FAINT,
    INK,
    MARKERS,
    PALETTE,
    PAPER,
    Spec,
    at,
    figure,
    given,
    layer,
    log_axis,
    quantity,
    rows_axis,
    straight,
)
from tasks.reporting.formats import benchmark_name, learning_rate, span
from tasks.reporting.many.frames import BOTH, INITIALISATION, ORDER
from tasks.reporting.many.joined import Many
from tasks.reporting.many.rows import Rows, once
from tasks.reporting.views.accuracy import SHOWN
from tasks.reporting.views.study import REFERENCES

MOST_ROWS = 40
"""Groups in one figure; the table has all."""


def accuracy_picture(many: Many) -> Picture | None:
    """A row a method and learning rate: the difference to the base of each training, the mean as a bar."""
    shown = many.headline.filter(~pl.col("method").is_in(REFERENCES),
                          pl.col("difference").is_not_null())  # fmt: skip
    groups = list(many.by_method(once(shown)).items())
    if not groups:
        return None
    rows = groups[:MOST_ROWS]
    name = benchmark_name(many.benchmark)

    dots = [
        _dot(place, 100 * row["difference"], height, colour_of(method, many), filled=row["verdict"] in SHOWN)
        for place, ((method, *_), own) in enumerate(rows)
        for row, height in zip(own, _apart(place, len(own)), strict=True)
    ]
    x = quantity("value", f"{name} accuracy less that of the base, points", pad=8, tickCount=6)
    zero = straight({"type": "rule", "color": INK}, x=at(x, 0))
    spec = _dots([_name(many, *key) for key, _ in rows], dots, x, [zero])
    note = (
        "A dot a training, the upright bar their mean; the line at 0 is the base of its own study. Filled: differs "
        f"from the base (exact McNemar, Holm-adjusted over its study's main runs); open: not shown. n = "
        f"{span(shown['n'].to_list(), 0)} problems, one greedy answer each.{_cut(len(groups), len(rows))}"
    )
    numbers = shown.select("study", "run", "method", "lr", "seed", "data_seed", "training", "repeated", "n",
                           "accuracy", "difference", "difference_low", "difference_high", "p_value", "p_holm",
                           "verdict")  # fmt: skip
    title, label = "Does it change accuracy, and would it again?", "Accuracy against the base, every training"
    return Picture("accuracy", title, label, spec, note, "accuracy", numbers, "figure-accuracy.csv")


def cosines_picture(many: Many) -> Picture | None:
    """A row a method: cosine to SFT in each study; below them SFT beside itself."""
    groups = [(key, own) for key, own in many.between.items() if key[1] == "sft" and _known(own, "cosine")]
    itself = [(key, own) for key, own in many.floors.items() if key[2] in (ORDER, INITIALISATION, BOTH)]
    if not groups:
        return None
    rates = {key[3] for key, _ in groups}
    itself = [(key, own) for key, own in itself if key[0] == "sft" and key[1] in rates]
    rows = groups[: MOST_ROWS - len(itself)]

    dots = [
        _dot(place, value, height, colour_of(key[0], many))
        for place, (key, own) in enumerate(rows)
        for value, height in _heights(place, [row["cosine"] for row in own if row["cosine"] is not None])
    ]
    dots += [
        _dot(place, value, height, INK, "diamond")
        for place, (_, found) in enumerate(itself, len(rows))
        for value, height in _heights(place, found)
    ]
    bands = [(min(found) - 0.002, max(found) + 0.002, 0.45 if kind == ORDER else 0.25)
             for (_, _, kind), found in itself if len(rates) == 1]  # fmt: skip
    x = quantity("value", "Cosine to the update of SFT", (min([-0.05, *(dot["value"] for dot in dots)]), 1.03),
                 grid=True, tickCount=6)  # fmt: skip
    band = {"type": "rect", "color": FAINT}
    shades = [straight({**band, "opacity": dark}, x=at(x, low), x2={"datum": high}) for low, high, dark in bands]
    labels = [_name(many, method, lr, condition) for (method, _, lr, _, condition), _ in rows]
    labels += [f"sft, other {kind.replace(BOTH, 'order, init.')} {_rate(lr, rates)}".strip()
               for (_, lr, kind), _ in itself]  # fmt: skip
    spec = _dots(labels, dots, x, shades)
    floor = (
        "Diamonds: SFT beside itself, the noise floor" if itself else "No two SFTs of one rate were compared: no floor"
    )
    shaded = " (its range shaded)" if itself and len(rates) == 1 else ""
    note = (
        "A dot a pair of trainings from one study, one initialisation and one order of the data; the upright bar is "
        f"their mean. {floor}{shaded}.{_cut(len(groups), len(rows))}"
    )
    flat = [row for _, own in groups for row in own]
    numbers = pl.DataFrame(
        [(row["study"], row["run_a"], row["run_b"], row["lr_a"], row["lr_b"], row["cosine"]) for row in flat]
        + [(None, "sft", f"sft: other {kind}", lr, lr, value) for (_, lr, kind), own in itself for value in own],
        schema={"study": pl.String, "run": pl.String, "beside": pl.String, "lr": pl.Float64, "lr_beside": pl.Float64,
                "cosine": pl.Float64}, orient="row",
    )  # fmt: skip
    title, label = "Do they move the weights as SFT does, every time?", "Cosine to SFT in every study"
    return Picture("cosines", title, label, spec, note, "between", numbers, "figure-cosines.csv")


FEWEST_STUDIES = 3
"""Whose rollouts differ: two dots lie on a line whatever they say."""


def on_policy_picture(many: Many) -> Picture | None:
    """Cosine of DFT to SFT against how on-policy the rollouts of its study are; None where fewer than `FEWEST_STUDIES`
    tell both, or all of them the same of their rollouts."""
    cosines = {
        row["study"]: row["cosine"]
        for row in once(many.pairs)
        if row["one_start"] and {row["method_a"], row["method_b"]} == {"sft", "dft"} and row["cosine"] is not None
    }
    rows = [
        {"study": study.label, "unlikely": found["unlikely"], "nll": found["nll"], "cosine": cosines[study.label]}
        for study in many.studies
        for found in study.on_policy.filter(answers="all").iter_rows(named=True)
        if study.label in cosines
    ]
    numbers = pl.DataFrame(rows)
    if numbers.height < FEWEST_STUDIES or numbers["unlikely"].n_unique() < FEWEST_STUDIES:
        return None
    r = {name: numbers.select(pl.corr(name, "cosine")).item() for name in ("unlikely", "nll")}
    colour = colour_of("dft", many)
    dots = [{"x": 100 * row["unlikely"], "y": row["cosine"]} for row in rows]
    x = quantity("x", "Rollout tokens that the base gives a probability below .1, %", pad=8, tickCount=6)
    y = quantity("y", "Cosine of DFT to SFT", pad=6, grid=True, tickCount=6)
    mark = {"type": "point", "size": 40, "strokeWidth": 1.4, "stroke": colour, "fill": colour, "shape": "circle"}
    spec = figure({"layer": [{"data": {"values": dots}, **layer(mark, x=x, y=y)}]}, 165)
    note = (
        f"A dot a study: its DFT and SFT from one initialisation in one order of the data. Pearson's r = "
        f"{r['unlikely']:.2f} with that share and {r['nll']:.2f} with the tokens' mean negative log-likelihood under "
        f"the base, n = {numbers.height} studies."
    )
    title, label = "Does DFT follow SFT where the rollouts are on-policy?", "DFT's cosine to SFT by on-policyness"
    return Picture("on-policy", title, label, spec, note, "between", numbers, "figure-on-policy.csv")


_PANELS = (
    ("cosine_to_sft", "Does the direction depend on the learning rate?", "Cosine to SFT of the same study", False),
    ("norm", "How far do the weights move?", "Norm of the update", True),
    ("difference", "What does the learning rate do to accuracy?", "Accuracy less the base's, points", False),
)


def rate_pictures(many: Many) -> list[Picture]:
    """Cosine to SFT, norm and accuracy against the learning rate, a line a method through its means."""
    own = many.headline.select("study", "run", "difference")
    frame = many.runs.join(own, on=["study", "run"], how="left").with_columns(pl.col("difference") * 100)
    found = [_against_rate(many, once(frame), *panel) for panel in _PANELS]
    return [one for one in found if one is not None]


def _against_rate(many: Many, rows: Rows, column: str, title: str, label: str, log: bool) -> Picture | None:
    known = [row for row in rows if row[column] is not None and row["lr"] and (not log or row[column] > 0)]
    rates = sorted({row["lr"] for row in known})
    if len(rates) < 2:
        return None
    key = f"rate-{column.replace('_', '-')}"
    note = (
        f"A dot a training, a line a method through its means at each rate; dots of one rate are set apart sideways. "
        f"n = {len(known)} trainings at {len(rates)} rates."
    )
    columns = ("study", "run", "method", "seed", "data_seed", "lr", "reference_lr", column)
    numbers = pl.DataFrame([{name: row[name] for name in columns} for row in known], infer_schema_length=None)
    methods = [method for method in many.methods if any(row["method"] == method for row in known)]
    lines = []
    for place, method in enumerate(methods):
        aside, shape = 1.045 ** (place - (len(methods) - 1) / 2), MARKERS[place % len(MARKERS)]
        conditions = sorted({row["condition"] for row in known if row["method"] == method})
        for condition in conditions:
            own = [row for row in known if (row["method"], row["condition"]) == (method, condition)]
            of_rate = {lr: [row[column] for row in own if row["lr"] == lr] for lr in rates}
            means = [(lr * aside, sum(found) / len(found)) for lr, found in of_rate.items() if found]
            dots = [(row["lr"] * aside, row[column]) for row in own]
            name = method if condition == conditions[0] else f"{method}{_letter(many, condition)}"
            dash = SOLID if condition == conditions[0] else DASHES["order"]
            lines.append(Line(means, name, colour_of(method, many), shape, dash, dots))
    texts = [learning_rate(rate) for rate in rates]
    scale = {"domain": [rates[0] / 1.6, rates[-1] * 1.6], "type": "log", "nice": False}
    x = quantity("x", "Peak learning rate of the method (log scale)", values=rates,
                 labelExpr=f"{texts}[indexof({rates}, datum.value)]") | {"scale": scale}  # fmt: skip
    y = quantity("y", label, pad=6, grid=True)
    if log:
        y = log_axis("y", [row[column] for row in known], label, grid=True)
    (drawn,) = lines_views([lines], x, y)
    if column == "difference":
        drawn["layer"].insert(0, straight({"type": "rule", "color": INK}, y=at(y, 0)))
    return Picture(key, title, title, figure(drawn, 165), note, "rates", numbers, f"figure-{key}.csv")


def colour_of(method: str, many: Many) -> str:
    """A method's colour, the same as in a study's own report."""
    methods = list(dict.fromkeys([*KNOWN, *many.methods]))
    return PALETTE[methods.index(method) % len(PALETTE)]


def _dot(place: int, value: float, height: float, colour: str, shape: str = "circle", filled: bool = True) -> Spec:
    fill = colour if filled else PAPER
    return {"row": place, "value": value, "place": height, "colour": colour, "fill": fill, "shape": shape}


def _dots(labels: Sequence[str], dots: list[Spec], x: Spec, behind: list[Spec]) -> Spec:
    """Dots in rows; of each row the range as a grey line and the mean as an upright bar."""
    place = rows_axis(labels)
    rows = []
    for row in range(len(labels)):
        own = [dot["value"] for dot in dots if dot["row"] == row]
        rows.append({"place": row, "low": min(own), "high": max(own), "value": sum(own) / len(own), "above": row - 0.3,
                     "below": row + 0.3})  # fmt: skip
    mark = {"type": "point", "size": 30, "strokeWidth": 1.4, "opacity": 0.9, "stroke": given("colour"),
            "fill": given("fill"), "shape": given("shape")}  # fmt: skip
    means = [
        layer({"type": "rule", "strokeWidth": 2, "color": FAINT}, x={**x, "field": "low"}, x2={"field": "high"},
              y=place),
        layer({"type": "rule", "strokeWidth": 1.6, "color": INK}, x=x, y={**place, "field": "above"},
              y2={"field": "below"}),
    ]  # fmt: skip
    layers = [
        *behind,
        {"data": {"values": rows}, "layer": means},
        {"data": {"values": dots}, **layer(mark, x=x, y=place)},
    ]
    return figure({"layer": layers}, 19 * len(labels))


def _heights(place: int, values: Sequence[float]) -> list[tuple[float, float]]:
    return list(zip(values, _apart(place, len(values)), strict=True))


def _apart(place: int, n: int) -> list[float]:
    """Heights of ``n`` dots of one row: equal values must not hide each other."""
    return [place + 0.3 * ((i + 0.5) / n - 0.5) for i in range(n)]


def _name(many: Many, method: str, lr: float, condition: int) -> str:
    return f"{method} {learning_rate(lr)}{_letter(many, condition)}"


def _letter(many: Many, condition: int) -> str:
    """A number for other settings that differ; the tables say what they are."""
    return f" #{condition + 1}" if many.condition(condition) else ""


def _rate(lr: float, rates: set[float]) -> str:
    return learning_rate(lr) if len(rates) > 1 else ""


def _known(rows: Rows, column: str) -> bool:
    return any(row[column] is not None for row in rows)


def _cut(total: int, shown: int) -> str:
    return "" if total == shown else f" Shown: the first {shown} of {total} groups; the table has all."
