"""Cosine, angles and orthogonal fraction to the reference over the layers, with the null and the noise floors."""

from __future__ import annotations

import polars as pl

from tasks.reporting.charts.lines import Line, crowd_note, few, lines_views, run_lines
from tasks.reporting.charts.picture import Picture, label_of
from tasks.reporting.charts.style import FAINT, Spec, figure, panels, quantity
from tasks.reporting.charts.svg import WIDTH
from tasks.reporting.notes import floor_note
from tasks.reporting.views.floors import KINDS
from tasks.reporting.views.pairs import Geometry
from tasks.reporting.views.profiles import Profile, layer_profiles, null_profile


def cosine_profile_picture(pair_metrics: pl.DataFrame, view: Geometry) -> Picture | None:
    """Cosine to the reference in every layer; a floor's line is that of a run that differs in its noise only."""
    profiles = layer_profiles(pair_metrics, view, "cosine")
    if not profiles or view.reference is None:
        return None
    reference, lines = view.reference, _lines(profiles, view)
    y = quantity("y", f"Cosine to {label_of(reference, view)}", pad=4, grid=True, tickCount=6)
    spec = figure(lines_views([lines], _layers(profiles), y)[0], 165)
    title, label = (
        f"Where in the network do they agree with {reference.run}?",
        f"Cosine to {reference.run} over the layers",
    )
    note = f"One value a layer, over all entries of its shared modules.{crowd_note(lines)} {floor_note(view)}"
    return Picture("layers", title, label, spec, note, "pairs")


def angle_picture(pair_metrics: pl.DataFrame, view: Geometry) -> Picture | None:
    """Largest principal angle of the top-1 and of the largest common left subspaces in every layer."""
    wanted = sorted({view.ks[0], view.ks[-1]}) if view.ks else []
    drawn = {k: found for k in wanted if (found := layer_profiles(pair_metrics, view, "angle_left", k))}
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
    title, label = (
        f"How far are their subspaces from those of {reference}?",
        f"Principal angles to {reference} over the layers",
    )
    return Picture("angles", title, label, panels(views), note.strip(), "pairs")


def outside_picture(pair_metrics: pl.DataFrame, view: Geometry) -> Picture | None:
    """Share of each run's update outside the reference's direction, layer by layer."""
    profiles = layer_profiles(pair_metrics, view, "orthogonal_fraction")
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
    label = f"Share of each update outside the direction of {reference} over the layers"
    return Picture("outside", f"How much of them is not {reference}?", label, spec, note, "pairs")


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
