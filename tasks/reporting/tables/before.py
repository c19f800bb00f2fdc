"""Gradients before the first step beside the cosines of the trained updates, as rows of strings."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from tasks.core.results import RunInfo
from tasks.reporting.formats import number
from tasks.reporting.metrics import GRADIENT
from tasks.reporting.notes import interval
from tasks.reporting.tables.pairs import MOST_PAIRS
from tasks.reporting.tables.views import Cell, Cells, Table, said
from tasks.reporting.views.before import Before, Start, before_of, trained_as
from tasks.reporting.views.pairs import Geometry, across_note
from tasks.reporting.views.study import Study

MOST_LAYERS = 13
"""Columns of the table of layers; the frame beside the page has all."""

NOISE = "noise alone"
"""Where the parts of the rows agree in nothing: a cosine without their noise is not defined."""

_NOTE = (
    "No training: the gradient of each method's own loss at the base, on the same rows of the rollouts. At lora_A as "
    "initialised, which all methods share, lora_B's gradient is the weights' gradient times lora_A transposed; it is "
    "what LoRA sees first. Halves: the cosine of one method's gradient on half of the rows with that on the other "
    "half, of the first and of the second method: how much of it is no noise. Without row noise: the inner product of "
    "the two methods' gradients on different rows over the geometric mean of that of each with itself; it may exceed "
    "1, and is what more rows lead to. [low, high]: 95 % over draws of rows (jackknife of 8 parts). Whole weights: "
    "the cosine on these rows before the multiplication with lora_A, of small models only."
)

Pair = tuple[RunInfo, RunInfo]


def before_tables(study: Study) -> list[Table]:
    """Every two methods: the cosine of their gradients, its noise, and the cosine after training; then by layer."""
    view, before = study.geometry, before_of(study.gradients)
    if before is None:
        return []
    runs = sorted(trained_as(view).values(), key=lambda info: info != view.reference)
    pairs = [(a, b) for a, b in combinations(runs, 2) if before.of(a.method, b.method)]
    if not pairs:
        return []
    return [_overall(before, pairs[:MOST_PAIRS], view), *_by_layer(before, pairs[:MOST_PAIRS], view)]


def _overall(before: Before, pairs: Sequence[Pair], view: Geometry) -> Table:
    header = (*("Method", "and", "Gradient cosine", "Halves", "Without row noise", "Whole weights", "Trained cosine"),)
    rows = []
    for a, b in pairs:
        found = before.of(a.method, b.method) or Start(None)
        halves = f"{GRADIENT.text(found.own)}, {GRADIENT.text(found.other)}"
        value = found.corrected.value
        corrected = Cell(NOISE if value is None else GRADIENT.text(value), said(interval(found.corrected, 3)))
        trained = Cell(GRADIENT.text(view.cosine(a.run, b.run)), said(across_note(view, a, b)))
        rows.append(
            Cells(
                a.run,
                b.run,
                Cell(GRADIENT.text(found.value), said(interval(found, 3))),
                halves,
                corrected,
                GRADIENT.text(found.dense),
                trained,
            )
        )
    used = ", ".join(f"{method} {n}" for method, n in before.examples.items())
    note = f"{_NOTE} Completions or pairs that each method has of these rows: {used}."
    return Table("before", "Before the first step: do the gradients agree?", header, rows, note, words=2)


def _by_layer(before: Before, pairs: Sequence[Pair], view: Geometry) -> list[Table]:
    if not before.layers:
        return []
    step = -(-(len(before.layers) - 1) // (MOST_LAYERS - 1)) or 1
    layers = sorted({*before.layers[::step], before.layers[-1]})
    cut = "" if len(layers) == len(before.layers) else f"One layer in {step} and the last; gradients.parquet has all. "
    rows = [Cells(a.run, b.run, *(_cell(before, view, a, b, layer) for layer in layers)) for a, b in pairs]
    header = ("Method", "and", *(f"Layer {layer}" for layer in layers))
    note = f"{cut}The cosine of lora_B's gradients in the layer's modules, below it that of the trained updates."
    return [Table("before-layers", "Before the first step, layer by layer", header, rows, note, words=2)]


def _cell(before: Before, view: Geometry, a: RunInfo, b: RunInfo, layer: int) -> Cell:
    found = before.of(a.method, b.method, layer)
    after = view.by_layer(a.run, b.run, "cosine").get(layer)
    return Cell(GRADIENT.text(found.value if found else None), said(f"trained {number(after, 3)}" if after else ""))
