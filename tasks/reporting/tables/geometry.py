"""Views of the geometry as rows of strings: cosines of all pairs, sizes and ranks of the updates, the base's share."""

from __future__ import annotations

import polars as pl

from tasks.core.contracts import RunInfo
from tasks.reporting.formats import number, significant, size
from tasks.reporting.notes import MOST_LISTED, count, floor_note, named
from tasks.reporting.tables.views import NO_UPDATE, Cell, Table, said
from tasks.reporting.views.join import spectrum_value
from tasks.reporting.views.pairs import REACHED, ZERO, Geometry

_SIZES = (
    ("norm", "Frobenius norm", 3),
    ("effective_rank", "Effective rank", 2),
    ("participation_rank", "Participation rank", 2),
    ("stable_rank", "Stable rank", 2),
)
_BASE_MEASURES = (
    ("intruder_dimensions", "Intruder dimensions", 2),
    ("base_rotation_left", "Rotation of the base, left, deg", 2),
    ("base_rotation_right", "Rotation of the base, right, deg", 2),
    ("spectrum_shift", "Spectrum shift", 5),
    ("update_sparsity", "Update sparsity", 4),
)


def matrix_table(view: Geometry) -> Table:
    """The numbers of the heat-map; the base has no update, hence no direction."""
    names = [info.run for info in view.runs]
    rows = [(Cell("base"), *(Cell(NO_UPDATE) for _ in names))]
    rows += [(Cell(info.run), *(_cosine_cell(info, other, view) for other in view.runs)) for info in view.runs]
    note = f"Over all entries of {count(view.modules, 'shared module')}. {floor_note(view)}"
    return Table("cosines", "Cosine between updates", ("Run", *names), tuple(rows), note, marks={0: "base"})


def _cosine_cell(info: RunInfo, other: RunInfo, view: Geometry) -> Cell:
    cosine, standing = view.cosine(info.run, other.run), view.standing(info, other)
    if cosine is None:
        return Cell(view.missing(info.run, other.run, "cosine"))
    return Cell(number(cosine, 3), said(standing if standing in REACHED else ""))


def spectrum_table(spectra: pl.DataFrame, view: Geometry) -> Table:
    """Size and rank of every update."""
    rows = [(Cell("base"), *(Cell(NO_UPDATE) for _ in _SIZES))]
    for info in view.runs:
        nothing = spectrum_value(spectra, info.run, "norm") == 0  # which has no rank, where it was measured
        values = [(spectrum_value(spectra, info.run, metric), decimals) for metric, _, decimals in _SIZES]
        said_of = (ZERO if value is None and nothing else size(value, decimals) for value, decimals in values)
        rows.append((Cell(info.run), *(Cell(text) for text in said_of)))
    return Table(
        "spectra",
        "Size and rank of the updates",
        ("Run", *(title for _, title, _ in _SIZES)),
        tuple(rows),
        "Frobenius norm of the update, scaling included, over all modules. Ranks from the singular values s of each "
        "module, mean over modules: effective rank exp(H(p)), participation rank 1 / sum p^2, both with p = s / sum s; "
        f"stable rank sum s^2 / max s^2.{_rates_note(view)}",
        marks={0: "base", **_twin_marks(view)},
    )


def _rates_note(view: Geometry) -> str:
    """Whose sizes measure a learning rate of their own; empty where all runs had the reference's or it is unknown."""
    rate = view.reference.lr if view.reference else None
    others = [
        f"{info.run} ({significant(info.lr / rate)} times)"
        for info in view.runs
        if info.lr and rate and info.lr != rate
    ]
    if not others or view.reference is None:
        return ""
    return (
        f" Trained at another learning rate than {view.reference.run}, so that their sizes measure that as well: "
        f"{named(others, MOST_LISTED)}."
    )


def base_table(spectra: pl.DataFrame, view: Geometry) -> Table | None:
    """What the updates do to the base's own spectrum; None where the base's weights were not at hand."""
    found = spectra.filter(pl.col("metric").is_in([metric for metric, *_ in _BASE_MEASURES]), pl.col("module") == "*")
    if found.is_empty():
        return None
    keys = []
    for metric, title, decimals in _BASE_MEASURES:
        for k in found.filter(pl.col("metric") == metric)["k"].unique().sort().to_list():
            keys.append((metric, k, title if k is None else f"{title}, top-{k}", decimals))
    rows = [(Cell("base"), *(Cell("itself") for _ in keys))]
    for info in view.runs:
        values = (number(spectrum_value(found, info.run, metric, k), decimals) for metric, k, _, decimals in keys)
        rows.append((Cell(info.run), *(Cell(value) for value in values)))
    return Table(
        "base-measures",
        "What the updates do to the base's weights",
        ("Run", *(title for _, _, title, _ in keys)),
        tuple(rows),
        "Intruder dimensions: how many of the top-k left singular vectors of W + dW have a cosine below 0.5 with every "
        "one of W's, mean over modules. Rotation: largest principal angle between the top-k singular subspaces of W "
        "and W + dW, median over modules. Spectrum shift: |s(W + dW) - s(W)| / |s(W)|, mean over modules. Update "
        "sparsity: share of entries that stay as they are once the merged weight is stored in bfloat16.",
        marks={0: "base", **_twin_marks(view)},
    )


def _twin_marks(view: Geometry) -> dict[int, str]:
    return {i: "floor" for i, info in enumerate(view.runs, 1) if view.reference and view.twin(info, view.reference)}
