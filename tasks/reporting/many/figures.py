"""Figures over the studies: every training a dot, every method a colour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl

from tasks.reporting.charts.picture import KNOWN, MARKERS, PALETTE, Picture
from tasks.reporting.charts.svg import FAINT, INK, PAPER, inline_svg
from tasks.reporting.formats import benchmark_name, learning_rate
from tasks.reporting.many.direction_tables import BOTH, INITIALISATION, ORDER
from tasks.reporting.many.joined import Many
from tasks.reporting.many.rows import Rows, between, by_method, floors, once
from tasks.reporting.views.join import REFERENCES, SHOWN

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

MOST_ROWS = 40
"""Groups in one figure; the table has all."""

DOTS = 5.5


@dataclass(frozen=True)
class Drawn:
    """A figure and the numbers that it shows."""

    picture: Picture
    numbers: pl.DataFrame


def accuracy_drawn(many: Many, scores: pl.DataFrame) -> Drawn | None:
    """A row a method and learning rate: the difference to the base of each training, the mean as a bar."""
    shown = scores.filter(pl.col("benchmark") == many.benchmark, ~pl.col("method").is_in(REFERENCES),
                          pl.col("difference").is_not_null())  # fmt: skip
    groups = list(by_method(once(shown), many).items())
    if not groups:
        return None
    rows = groups[:MOST_ROWS]
    name = benchmark_name(many.benchmark)

    def draw(canvas: Canvas) -> None:
        axes = canvas.subplots()
        axes.axvline(0, color=INK, linewidth=1)
        for place, ((method, *_), own) in enumerate(rows):
            colour = colour_of(method, many)
            _mean(axes, place, [100 * row["difference"] for row in own])
            for row, height in zip(own, _apart(place, len(own)), strict=True):
                filled = row["verdict"] in SHOWN
                axes.plot(100 * row["difference"], height, "o", color=colour, markersize=DOTS, markeredgewidth=1.4,
                          markerfacecolor=colour if filled else PAPER, alpha=0.9)  # fmt: skip
        _names(axes, [_name(many, *key) for key, _ in rows])
        axes.set_xlabel(f"{name} accuracy less that of the base, points")

    svg = inline_svg("accuracy", "Accuracy against the base, every training", 0.8 + 0.27 * len(rows), draw)
    low, high = min(shown["n"]), max(shown["n"])
    note = (
        "A dot a training, the upright bar their mean; the line at 0 is the base of its own study. Filled: differs "
        f"from the base (exact McNemar, Holm-adjusted over its study's main runs); open: not shown. n = "
        f"{_ends(low, high)} problems, one greedy answer each.{_cut(len(groups), len(rows))}"
    )
    numbers = shown.select("study", "run", "method", "lr", "seed", "data_seed", "training", "repeated", "n",
                           "accuracy", "difference", "difference_low", "difference_high", "p_value", "p_holm",
                           "verdict")  # fmt: skip
    return Drawn(Picture("accuracy", "Does it change accuracy, and would it again?", svg, note, "accuracy"), numbers)


def cosines_drawn(many: Many, pairs: pl.DataFrame, across: pl.DataFrame) -> Drawn | None:
    """A row a method: cosine to SFT in each study; below them SFT beside itself."""
    groups = [(key, own) for key, own in between(pairs, many).items() if key[1] == "sft" and _known(own, "cosine")]
    itself = [(key, own) for key, own in floors(across).items() if key[2] in (ORDER, INITIALISATION, BOTH)]
    if not groups:
        return None
    rates = {key[3] for key, _ in groups}
    itself = [(key, own) for key, own in itself if key[0] == "sft" and key[1] in rates]
    rows = groups[: MOST_ROWS - len(itself)]

    def draw(canvas: Canvas) -> None:
        axes = canvas.subplots()
        if len(rates) == 1:
            for (_, _, kind), found in itself:
                axes.axvspan(min(found) - 0.002, max(found) + 0.002, color=FAINT, alpha=0.45 if kind == ORDER else 0.25,
                             linewidth=0)  # fmt: skip
        for place, ((method, *_), own) in enumerate(rows):
            known = [row["cosine"] for row in own if row["cosine"] is not None]
            _mean(axes, place, known)
            axes.plot(known, _apart(place, len(known)), "o", color=colour_of(method, many), markersize=DOTS, alpha=0.85)
        for place, (_, found) in enumerate(itself, len(rows)):
            _mean(axes, place, found)
            axes.plot(found, _apart(place, len(found)), "D", color=INK, markersize=4, alpha=0.8)
        labels = [_pair_name(many, key) for key, _ in rows]
        _names(axes, [*labels, *(f"sft, other {kind.replace(BOTH, 'order, init.')} {_rate(lr, rates)}".strip()
                                 for (_, lr, kind), _ in itself)])  # fmt: skip
        axes.set(xlabel="Cosine to the update of SFT", xlim=(min(-0.05, axes.get_xlim()[0]), 1.03))
        axes.grid(axis="x", alpha=0.5)

    svg = inline_svg("cosines", "Cosine to SFT in every study", 0.8 + 0.27 * (len(rows) + len(itself)), draw)
    floor = (
        "Diamonds: SFT beside itself, the noise floor" if itself else "No two SFTs of one rate were compared: no floor"
    )
    band = " (its range shaded)" if itself and len(rates) == 1 else ""
    note = (
        "A dot a pair of trainings from one study, one initialisation and one order of the data; the upright bar is "
        f"their mean. {floor}{band}.{_cut(len(groups), len(rows))}"
    )
    flat = [row for _, own in groups for row in own]
    numbers = pl.DataFrame(
        [(row["study"], row["run_a"], row["run_b"], row["lr_a"], row["lr_b"], row["cosine"]) for row in flat]
        + [(None, "sft", f"sft: other {kind}", lr, lr, value) for (_, lr, kind), own in itself for value in own],
        schema={"study": pl.String, "run": pl.String, "beside": pl.String, "lr": pl.Float64, "lr_beside": pl.Float64,
                "cosine": pl.Float64}, orient="row",
    )  # fmt: skip
    return Drawn(Picture("cosines", "Do they move the weights as SFT does, every time?", svg, note, "between"), numbers)


_PANELS = (
    ("cosine_to_sft", "Does the direction depend on the learning rate?", "Cosine to SFT of the same study", False),
    ("norm", "How far do the weights move?", "Norm of the update", True),
    ("difference", "What does the learning rate do to accuracy?", "Accuracy less the base's, points", False),
)


def rates_drawn(many: Many, runs: pl.DataFrame, scores: pl.DataFrame) -> list[Drawn]:
    """Cosine to SFT, norm and accuracy against the learning rate, a line a method through its means."""
    own = scores.filter(pl.col("benchmark") == many.benchmark).select("study", "run", "difference")
    frame = runs.join(own, on=["study", "run"], how="left").with_columns(pl.col("difference") * 100)
    found = [_against_rate(many, once(frame), *panel) for panel in _PANELS]
    return [one for one in found if one is not None]


def _against_rate(many: Many, rows: Rows, column: str, title: str, label: str, logarithmic: bool) -> Drawn | None:
    known = [row for row in rows if row[column] is not None and row["lr"] and (not logarithmic or row[column] > 0)]
    rates = sorted({row["lr"] for row in known})
    if len(rates) < 2:
        return None
    methods = [method for method in many.methods if any(row["method"] == method for row in known)]

    def draw(canvas: Canvas) -> None:
        axes = canvas.subplots()
        if column == "difference":
            axes.axhline(0, color=INK, linewidth=1)
        for number, method in enumerate(methods):
            _line(axes, [row for row in known if row["method"] == method], column, method, many, number, len(methods))
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(_no_ticks())
        axes.set_xticks(rates, [learning_rate(rate) for rate in rates])
        axes.set_xlim(rates[0] / 1.6, rates[-1] * 1.6)
        if logarithmic:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axes.yaxis.set_minor_formatter(_two_and_five)
        axes.set(xlabel="Peak learning rate of the method (log scale)", ylabel=label)
        axes.grid(axis="y", alpha=0.5)
        handles, labels = axes.get_legend_handles_labels()
        canvas.legend(handles, labels, loc="outside upper left", ncols=3, handlelength=2, columnspacing=1.2)

    key = f"rate-{column.replace('_', '-')}"
    note = (
        f"A dot a training, a line a method through its means at each rate; dots of one rate are set apart sideways. "
        f"n = {len(known)} trainings at {len(rates)} rates."
    )
    columns = ("study", "run", "method", "seed", "data_seed", "lr", "reference_lr", column)
    numbers = pl.DataFrame([{name: row[name] for name in columns} for row in known], infer_schema_length=None)
    return Drawn(Picture(key, title, inline_svg(key, title, 3.6, draw), note, "rates"), numbers)


def _line(axes: Axes, rows: Rows, column: str, method: str, many: Many, number: int, total: int) -> None:
    aside = 1.045 ** (number - (total - 1) / 2)
    means: dict[tuple[int, float], list[float]] = {}
    for row in rows:
        means.setdefault((row["condition"], row["lr"]), []).append(row[column])
    style: dict[str, Any] = {"color": colour_of(method, many), "marker": MARKERS[number % len(MARKERS)]}
    for place, condition in enumerate(sorted({condition for condition, _ in means})):
        points = sorted((lr, sum(own) / len(own)) for (one, lr), own in means.items() if one == condition)
        axes.plot([lr * aside for lr, _ in points], [value for _, value in points], linewidth=1.3, markersize=0.01,
                  color=style["color"], linestyle="-" if place == 0 else "--")  # fmt: skip
    axes.plot([row["lr"] * aside for row in rows], [row[column] for row in rows], linestyle="none", markersize=5,
              label=method, alpha=0.85, **style)  # fmt: skip


def _two_and_five(value: float, _: float) -> str:
    """A label where a decade on a log axis has its 2 and its 5."""
    mantissa = float(f"{value:.6e}".split("e")[0])
    return f"{value:g}" if mantissa in (2.0, 5.0) else ""


def _no_ticks() -> Any:
    from matplotlib.ticker import NullLocator

    return NullLocator()


def colour_of(method: str, many: Many) -> str:
    """A method's colour, the same as in a study's own report."""
    methods = list(dict.fromkeys([*KNOWN, *many.methods]))
    return PALETTE[methods.index(method) % len(PALETTE)]


def _mean(axes: Axes, place: int, values: Sequence[float]) -> None:
    mean = sum(values) / len(values)
    axes.plot([min(values), max(values)], [place, place], color=FAINT, linewidth=2, zorder=0)
    axes.plot([mean, mean], [place - 0.3, place + 0.3], color=INK, linewidth=1.6)


def _apart(place: int, n: int) -> list[float]:
    """Heights of ``n`` dots of one row: equal values must not hide each other."""
    return [place + 0.3 * ((i + 0.5) / n - 0.5) for i in range(n)]


def _names(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.locator_params(axis="x", nbins=6)


def _name(many: Many, method: str, lr: float, condition: int) -> str:
    return f"{method} {learning_rate(lr)}{_letter(many, condition)}"


def _pair_name(many: Many, key: tuple[Any, ...]) -> str:
    method, _, lr, _, condition = key
    return _name(many, method, lr, condition)


def _letter(many: Many, condition: int) -> str:
    """A number for other settings that differ; the tables say what they are."""
    return f" #{condition + 1}" if many.condition(condition) else ""


def _rate(lr: float, rates: set[float]) -> str:
    return learning_rate(lr) if len(rates) > 1 else ""


def _known(rows: Rows, column: str) -> bool:
    return any(row[column] is not None for row in rows)


def _ends(low: int, high: int) -> str:
    return str(low) if low == high else f"{low} to {high}"


def _cut(total: int, shown: int) -> str:
    return "" if total == shown else f" Shown: the first {shown} of {total} groups; the table has all."
