"""A line a run: over the layers of the network, the indexes of singular values, and the steps of training."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from tasks.core.frames import LEADING, REST
from tasks.reporting.charts.lines import Line, crowd_note, few, lines_views, run_lines
from tasks.reporting.charts.picture import Picture, apart, colour_of, label_of
from tasks.reporting.charts.style import FAINT, Spec, figure, heading, log_axis, panels, quantity, unnamed
from tasks.reporting.charts.svg import WIDTH
from tasks.reporting.formats import benchmark_name
from tasks.reporting.metrics import REVERSED, TRAJECTORY
from tasks.reporting.notes import count, floor_note
from tasks.reporting.tables.record import LOSS, losses
from tasks.reporting.tables.trajectories import on_the_way
from tasks.reporting.views.floors import KINDS
from tasks.reporting.views.pairs import LAYERS, Geometry
from tasks.reporting.views.similarity import POOLINGS, similarity_of
from tasks.reporting.views.study import Study, Updates


@dataclass(frozen=True)
class Profile:
    """One run against the reference: a value a layer, and the null's mean there (None where it has none)."""

    layers: list[int]
    values: list[float]
    nulls: list[float | None]


def layer_profiles(study: Updates, metric: str, k: int | None = None) -> dict[str, Profile]:
    """Run -> its profile of ``metric`` against the reference. A metric that depends on which run is first is that of
    the run first and the reference second."""
    view, profiles = study.geometry, {}
    if view.reference is None:
        return {}
    for info in view.runs:
        along = view.along(info.run, view.reference.run, metric, k).items()
        known = [(layer, one.value, one.null) for layer, one in along if one.value is not None]
        if known:
            profiles[info.run] = Profile(*map(list, zip(*known, strict=True)))
    return profiles


def null_profile(profiles: dict[str, Profile]) -> tuple[list[int], list[float]]:
    """Layers and the null's mean there, averaged over the runs (equal where their shapes are); empty without a null."""
    found: dict[int, list[float]] = {}
    for profile in profiles.values():
        for layer, null in zip(profile.layers, profile.nulls, strict=True):
            if null is not None:
                found.setdefault(layer, []).append(null)
    layers = sorted(found)
    return layers, [sum(found[layer]) / len(found[layer]) for layer in layers]


FILE = "pair_metrics.parquet"


def cosine_profile_picture(study: Updates) -> Picture | None:
    """Cosine to the reference in every layer; a floor's line is that of a run that differs in its noise only."""
    view = study.geometry
    profiles = layer_profiles(study, "cosine")
    if not profiles or view.reference is None:
        return None
    reference, lines = view.reference, _lines(profiles, view)
    y = quantity("y", f"Cosine to {label_of(reference, view)}", pad=4, grid=True, tickCount=6)
    spec = figure(lines_views([lines], _layers(profiles), y)[0], 165)
    title = f"Where in the network do they agree with {reference.run}?"
    label = f"Cosine to {reference.run} over the layers"
    note = f"One value a layer, over all entries of its shared modules.{crowd_note(lines)} {floor_note(view)}"
    numbers = _numbers(study, "cosine")
    return Picture("layers", title, label, spec, note, "pairs", numbers, FILE)


def angle_picture(study: Updates) -> Picture | None:
    """Largest principal angle of the top-1 and of the largest common left subspaces in every layer."""
    view = study.geometry
    wanted = sorted({view.ks[0], view.ks[-1]}) if view.ks else []
    drawn = {k: found for k in wanted if (found := layer_profiles(study, "angle_left", k))}
    if not drawn or view.reference is None:
        return None
    reference, first = view.reference.run, next(iter(drawn.values()))
    y = quantity("y", "Angle, degrees", (-2, 92), grid=True, values=[0, 30, 60, 90], minExtent=20)
    groups = [_lines(profiles, view) for profiles in drawn.values()]
    views = [
        {"title": "Top-1 direction" if k == 1 else f"Worst of the top-{k} subspace", "width": WIDTH - 46, "height": 100}
        | lines
        for k, lines in zip(drawn, lines_views(groups, _layers(first), y), strict=True)
    ]
    null = "Grey dashes: mean over random subspaces of the same shape. " if null_profile(first)[0] else ""
    note = (
        f"Largest principal angle between the left singular subspaces of each run and {reference}, one value a layer "
        f"over its modules; 0 = the same subspace, 90 = a direction at a right angle to it. {null}"
        f"{_floor_lines(first, view)}{crowd_note(groups[0])}"
    )
    title = f"How far are their subspaces from those of {reference}?"
    label = f"Principal angles to {reference} over the layers"
    numbers = _numbers(study, "angle_left").filter(pl.col("k").is_in(wanted))
    return Picture("angles", title, label, panels(views), note.strip(), "pairs", numbers, FILE)


def outside_picture(study: Updates) -> Picture | None:
    """Share of each run's update outside the reference's direction, layer by layer."""
    view = study.geometry
    profiles = layer_profiles(study, "orthogonal_fraction")
    if not profiles or view.reference is None:
        return None
    reference, lines = view.reference.run, _lines(profiles, view)
    y = quantity("y", "Share of the norm", (-0.02, 1.04), grid=True, values=[0, 0.2, 0.4, 0.6, 0.8, 1])
    spec = figure(lines_views([lines], _layers(profiles), y)[0], 165)
    note = (
        f"Orthogonal fraction |dW - proj dW| / |dW| of each run against {reference}, projected module by module, one "
        "value a layer over all entries of its modules; 0 = a multiple of the reference's update, 1 = nothing in "
        f"common. {_floor_lines(profiles, view)}{crowd_note(lines)}"
    )
    title = f"How much of them is not {reference}?"
    label = f"Share of each update outside the direction of {reference} over the layers"
    numbers = _numbers(study, *(name for pair in REVERSED.items() for name in pair))
    return Picture("outside", title, label, spec, note, "pairs", numbers, FILE)


def _numbers(study: Updates, *metrics: str) -> pl.DataFrame:
    return study.drawn(LAYERS, study.geometry.near, pl.col("metric").is_in(metrics))


def _floor_lines(profiles: dict[str, Profile], view: Geometry) -> str:
    found = {view.replicate(info, view.reference) for info in view.runs if view.reference and info.run in profiles}
    names = " and ".join(f"the floor of the {KINDS[kind]}" for kind in KINDS if kind in found)
    return f"Black broken lines: {names}." if names else "No run here is a noise floor of the reference."


def _lines(profiles: dict[str, Profile], view: Geometry) -> list[Line]:
    """Those of the runs, and of random subspaces where they were measured."""
    points = {run: list(zip(own.layers, own.values, strict=True)) for run, own in profiles.items()}
    null = list(zip(*null_profile(profiles), strict=True))
    return [*run_lines(points, view), *([Line(null, "random subspaces (null)", FAINT, dash=(5, 3))] if null else [])]


def _layers(profiles: dict[str, Profile]) -> Spec:
    ticks = sorted({layer for profile in profiles.values() for layer in profile.layers})
    return quantity("x", "Layer (0 = nearest the input)", values=few(ticks), format="d", pad=6)


NOISE = 1e-6
"""Share of a run's first mean singular value below which one is rounding: a log axis would show little else."""


def spectra_picture(study: Updates) -> Picture | None:
    """Mean singular value over the modules against its index, on a log scale."""
    view, spectra = study.geometry, study.spectra
    means = mean_spectra(spectra)
    lines = run_lines({run: line for run, line in means.items() if line}, view, floors=False)
    if not lines:
        return None
    x = quantity("x", "Index of the singular value", pad=6, format="d", tickMinStep=1)
    y = log_axis("y", [value for line in means.values() for _, value in line], "Singular value (mean)", grid=True)
    modules = spectra.filter(pl.col("metric") == "singular_value", pl.col("module") != "*")["module"].n_unique()
    note = (
        f"Singular values of each module's update, largest first, mean over {count(modules, 'module')} (those that "
        "have so many), log scale. Below a millionth of a run's first they are rounding and left out."
        f"{crowd_note(lines)}"
    )
    title, label = "In how many directions do they move?", "Singular values of every update"
    spec = figure(lines_views([lines], x, y)[0], 165)
    rows = [(run, k, value) for run, line in means.items() for k, value in line]
    numbers = pl.DataFrame(rows, schema=["run", "k", "mean_singular_value"], orient="row")
    return Picture("spectra", title, label, spec, note, "spectra", numbers, "spectra.parquet")


def mean_spectra(spectra: pl.DataFrame) -> dict[str, list[tuple[int, float]]]:
    """Run -> (k, mean over modules of the k-th singular value), k ascending, without what is rounding."""
    means = (
        spectra.filter(pl.col("metric") == "singular_value", pl.col("module") != "*", pl.col("value").is_not_null())
        .group_by("run", "k")
        .agg(pl.col("value").mean())
        .sort("run", "k")
    )
    found: dict[str, list[tuple[int, float]]] = {}
    for run, k, value in means.iter_rows():
        found.setdefault(run, []).append((k, value))
    return {run: [entry for entry in rows if entry[1] > NOISE * rows[0][1]] for run, rows in found.items()}


def cka_picture(study: Study) -> Picture | None:
    """Two panels of debiased CKA; a layer without a value is a gap."""
    view = study.geometry
    found = similarity_of(study.cka)
    if found is None:
        return None
    base = study.base.run
    names = {base: base, **({view.reference.run: label_of(view.reference, view)} if view.reference else {})}
    drawn = {}
    for other in names:
        runs = [info.run for info in view.runs if info.run != other and found.profile(info.run, other)]
        points = {run: [(layer, found.value(run, other, layer)) for layer in found.layers] for run in runs}
        if points:
            drawn[other] = run_lines(points, view)
    if not drawn:
        return None
    x = quantity("x", "Layer (0 = the embedding)", values=few(found.layers), format="d")
    y = quantity("y", "CKA, debiased", pad=4, grid=True, tickCount=5, minExtent=26)
    views = [
        {"title": f"Against {names[other]}", "width": WIDTH - 56, "height": 100, **lines}
        for other, lines in zip(drawn, lines_views(list(drawn.values()), x, y), strict=True)
    ]
    note = (
        f"Debiased linear CKA of the hidden states at {POOLINGS.get(found.pooling, found.pooling)}, {found.rows} rows; "
        f"1 = equal up to rotation and scale. Black broken line: noise floor. Its CSV has the biased values too, the "
        f"table the reasons for gaps.{crowd_note(next(iter(drawn.values())))}"
    )
    label = "CKA of hidden states over the layers"
    against = view.near | (pl.col("run_a") == base) | (pl.col("run_b") == base)
    numbers = study.cka.filter(against)
    title = "Do they represent the problems alike?"
    return Picture("cka", title, label, panels(views), note, "cka", numbers, "cka.parquet")


def truncation_picture(study: Study) -> Picture | None:
    """Accuracy over k, of the leading k directions from the base to the whole update, and of the rest back again."""
    view, frame = study.geometry, study.truncation.filter(benchmark=study.primary)
    if frame.is_empty():
        return None
    points: dict[str, dict[str, dict[int, float]]] = {LEADING: {}, REST: {}}
    for run, part, k, value in frame.select("run", "part", "k", "accuracy").iter_rows():
        points[part].setdefault(run, {})[k] = 100 * value
    for run, own in points[LEADING].items():  # without its first 0 directions an update is whole, without all the base
        points[REST].setdefault(run, {}).update({0: own[max(own)], max(own): own[0]})
    ticks = sorted({k for own in points[LEADING].values() for k in own})
    base = next(iter(points[LEADING].values()))[0]
    level = Line([(k, base) for k in (ticks[0], ticks[-1])], study.base.run, FAINT, dash=(5, 3))
    groups = [
        [*run_lines({run: sorted(own.items()) for run, own in lines.items()}, view, floors=False), level]
        for lines in points.values()
    ]
    heights = [value for lines in points.values() for own in lines.values() for value in own.values()]
    pad = max(0.5, 0.05 * (max(heights) - min(heights)))
    x = quantity("x", "k, directions of every module", values=few(ticks), format="d", pad=6)
    y = quantity("y", "Accuracy, %", (min(heights) - pad, max(heights) + pad), grid=True, tickCount=5, minExtent=26)
    views = [
        {"title": title, "width": WIDTH - 56, "height": 110, **lines}
        for title, lines in zip(
            ("The k leading directions alone", "The update without them"), lines_views(groups, x, y), strict=True
        )
    ]
    note = (
        f"{benchmark_name(study.primary)} problems, n = {max(frame['n']):,}, greedy answers; singular directions of "
        f"each module's update, largest first. Above from the base (k = 0) to the whole update (k = {ticks[-1]}), "
        f"below from the whole update to the base.{crowd_note(groups[0])}"
    )
    label = "Accuracy of truncated updates and of their complements over the number of directions"
    title = "What does each direction carry?"
    return Picture("truncation", title, label, panels(views), note, "truncation", frame, "truncation.parquet")


def trajectories_picture(study: Study) -> Picture | None:
    """Over the steps: cosine to the end and to the first gradient, rank-1 share, and the accuracy where it was asked;
    a panel for each that was measured."""
    view, frame = study.geometry, on_the_way(study)
    panels_of = [(one.axis, one.name, one.scale) for one in TRAJECTORY if one.axis and frame[one.name].count()] + (
        [("Accuracy", "accuracy", 100.0)] if frame["accuracy"].count() else []
    )
    if frame["step"].n_unique() < 2 or not panels_of:
        return None
    x = quantity("x", "Optimiser step", (0, max(frame["step"])), format="d", tickCount=6, tickMinStep=1)
    views = []
    for place, (title, name, scale) in enumerate(panels_of):
        points = {
            str(run): [(step, scale * value) for step, value in group.select("step", name).sort("step").iter_rows()]
            for (run,), group in frame.filter(pl.col(name).is_not_null()).group_by("run", maintain_order=True)
        }
        y = quantity("y", pad=4, grid=True, tickCount=4, minExtent=26)
        (lines,) = lines_views([run_lines(points, view, floors=False)], x, y, legend=not place)
        head = {"title": f"{title}, %" if scale == 100 else title, "width": WIDTH - 56, "height": 90}
        views.append(head | (lines if place == len(panels_of) - 1 else unnamed(lines)))
    note = (
        "Each training's update after so many steps: its cosine with the whole update, with one step down the gradient "
        "of its loss at the base (runs of the same initialisation), the share of its square in the first singular "
        "direction of its modules. Broken: replicates. Every panel has a height of its own."
        f"{crowd_note(run_lines(dict.fromkeys(frame['run'], ()), view, floors=False))}"
    )
    label = "Cosine to the end and to the first gradient, and rank-1 share, over the steps of every training"
    title = "How did the updates become what they are?"
    return Picture("trajectories", title, label, panels(views), note, "trajectories", frame, "trajectories.parquet")


MOST_PANELS = 12
"""Runs that are all drawn; of more, the reference with the nearest and the farthest to it."""


def training_picture(study: Study) -> Picture | None:
    """Small multiples: every method has a loss of its own, so each panel has its own height."""
    view = study.geometry
    every = [(info, *losses(study, info.run)) for info in study.trained]
    every = [curve for curve in every if curve[1]]
    if not every:
        return None
    shown = apart([info for info, *_ in every], view)
    curves = every if len(every) <= MOST_PANELS else [curve for curve in every if curve[0] in shown]
    steps = [step for _, own, _ in curves for step in own]
    ends = (min(steps), max(steps)) if min(steps) < max(steps) else (steps[0] - 0.5, steps[0] + 0.5)
    lines = [
        [Line(list(zip(own, values, strict=True)), info.run, colour_of(info, view))] for info, own, values in curves
    ]
    x = quantity("x", "Optimiser step", ends, format="d", tickCount=4, tickMinStep=1)
    y = quantity("y", pad=4, grid=True, tickCount=4, minExtent=30)
    drawn = lines_views(lines, x, y, legend=False)
    views = [
        {
            "title": heading(label_of(info, view)),
            "width": 136,
            "height": 54,
            **(one if place >= len(curves) - 2 else unnamed(one)),
        }
        for place, ((info, *_), one) in enumerate(zip(curves, drawn, strict=True))
    ]
    n = max(len(steps) for _, steps, _ in curves)
    note = (
        f"Loss of each method as logged, up to {n} points a run, not smoothed. Every method minimises its own loss, so "
        f"the heights of two panels cannot be compared.{_cut(len(every), len(curves))}"
    )
    label = "Training loss of every run"
    spec, numbers = panels(views, columns=2), study.training.filter(pl.col("metric") == LOSS)
    return Picture("training", "Did training settle?", label, spec, note, "training", numbers, "training.parquet")


def _cut(total: int, shown: int) -> str:
    if shown == total:
        return ""
    return f" Shown: {shown} of {total} runs, the nearest and the farthest; training.parquet has all."
