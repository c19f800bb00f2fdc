"""Cosine, angles and orthogonal fraction to the reference over the layers, with the null and the noise floors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from tasks.core.contracts import RunInfo
from tasks.reporting.charts.picture import Picture, apart, crowd_note, label_of, legend, line_style, lone
from tasks.reporting.charts.svg import FAINT, INK, inline_svg
from tasks.reporting.notes import floor_note
from tasks.reporting.views.floors import KINDS
from tasks.reporting.views.pairs import Geometry
from tasks.reporting.views.profiles import Profile, layer_profiles, null_profile

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

_DASHES = {"order": "--", "initialisation": ":"}


def cosine_profile_picture(pair_metrics: pl.DataFrame, view: Geometry) -> Picture | None:
    """Cosine to the reference in every layer; a floor's line is that of a run that differs in its noise only."""
    profiles = layer_profiles(pair_metrics, view, "cosine")
    if not profiles or view.reference is None:
        return None
    reference = view.reference

    def draw(canvas: Canvas) -> None:
        axes = canvas.subplots()
        _lines(axes, profiles, view)
        axes.set(xlabel="Layer (0 = nearest the input)", ylabel=f"Cosine to {label_of(reference, view)}")
        axes.set_ylim(top=1.02)
        legend(canvas, axes)

    svg = inline_svg("layers", f"Cosine to {reference.run} over the layers", 3.7, draw)
    crowd = crowd_note(len(profiles), len(_coloured(profiles, view)))
    note = f"One value a layer, over all entries of its shared modules.{crowd} {floor_note(view)}"
    return Picture("layers", f"Where in the network do they agree with {reference.run}?", svg, note, "pairs")


def angle_picture(pair_metrics: pl.DataFrame, view: Geometry) -> Picture | None:
    """Largest principal angle of the top-1 and of the largest common left subspaces in every layer."""
    wanted = sorted({view.ks[0], view.ks[-1]}) if view.ks else []
    panels = {k: found for k in wanted if (found := layer_profiles(pair_metrics, view, "angle_left", k))}
    if not panels or view.reference is None:
        return None
    reference = view.reference.run

    def draw(canvas: Canvas) -> None:
        every = canvas.subplots(len(panels), 1, sharex=True, squeeze=False).ravel()
        for axes, (k, profiles) in zip(every, panels.items(), strict=True):
            _lines(axes, profiles, view)
            axes.set_title("Top-1 direction" if k == 1 else f"Worst of the top-{k} subspace", loc="left")
            axes.set(ylabel="Angle, degrees", ylim=(-2, 92), yticks=(0, 30, 60, 90))
        every[-1].set_xlabel("Layer (0 = nearest the input)")
        legend(canvas, every[0])

    svg = inline_svg("angles", f"Principal angles to {reference} over the layers", 0.9 + 1.9 * len(panels), draw)
    first = next(iter(panels.values()))
    crowd = crowd_note(len(first), len(_coloured(first, view)))
    null = "Grey dashes: mean over random subspaces of the same shape. " if null_profile(first)[0] else ""
    note = (
        f"Largest principal angle between the left singular subspaces of each run and {reference}, one value a layer "
        f"over its modules; 0 = the same subspace, 90 = a direction at a right angle to it. {null}"
        f"{_floor_lines(first, view)}{crowd}"
    )
    return Picture("angles", f"How far are their subspaces from those of {reference}?", svg, note.strip(), "pairs")


def outside_picture(pair_metrics: pl.DataFrame, view: Geometry) -> Picture | None:
    """Share of each run's update outside the reference's direction, layer by layer."""
    profiles = layer_profiles(pair_metrics, view, "orthogonal_fraction")
    if not profiles or view.reference is None:
        return None
    reference = view.reference.run

    def draw(canvas: Canvas) -> None:
        axes = canvas.subplots()
        _lines(axes, profiles, view)
        axes.set(xlabel="Layer (0 = nearest the input)", ylabel="Share of the norm", ylim=(-0.02, 1.04))
        legend(canvas, axes)

    svg = inline_svg("outside", f"Share of each update outside the direction of {reference} over the layers", 3.7, draw)
    note = (
        f"Orthogonal fraction |dW - proj dW| / |dW| of each run against {reference}, projected module by module, one "
        "value a layer over all entries of its modules; 0 = a multiple of the reference's update, 1 = nothing in "
        f"common. {_floor_lines(profiles, view)}{crowd_note(len(profiles), len(_coloured(profiles, view)))}"
    )
    return Picture("outside", f"How much of them is not {reference}?", svg, note, "pairs")


def _floor_lines(profiles: dict[str, Profile], view: Geometry) -> str:
    drawn = [kind for kind in KINDS if any(_twin(info, view) == kind for info in view.runs if info.run in profiles)]
    names = " and ".join(f"the floor of the {KINDS[kind]}" for kind in drawn)
    return f"Black broken lines: {names}." if drawn else "No run here is a noise floor of the reference."


def _twin(info: RunInfo, view: Geometry) -> str | None:
    return view.twin(info, view.reference) if view.reference else None


def _coloured(profiles: dict[str, Profile], view: Geometry) -> list[RunInfo]:
    return apart([info for info in view.runs if info.run in profiles], view)


def _lines(axes: Axes, profiles: dict[str, Profile], view: Geometry) -> None:
    shown = _coloured(profiles, view)
    for info in view.runs:
        profile = profiles.get(info.run)
        if profile is None:
            continue
        twin = _twin(info, view)
        if twin is not None:
            name = f"{label_of(info, view)} (floor: {KINDS[twin]})"
            ink = {"color": INK, "linestyle": _DASHES[twin], "linewidth": 1.4, **lone(len(profile.layers))}
            axes.plot(profile.layers, profile.values, label=name, **ink)
        elif info in shown:
            axes.plot(profile.layers, profile.values, **line_style(info, view, len(profile.layers)))
        else:
            axes.plot(profile.layers, profile.values, color=FAINT, linewidth=0.6, alpha=0.8)
    layers, nulls = null_profile(profiles)
    if layers:
        axes.plot(layers, nulls, color=FAINT, linestyle="--", linewidth=1.6, label="random subspaces (null)")
    ticks = sorted({layer for profile in profiles.values() for layer in profile.layers})
    axes.set_xticks(ticks[:: -(-len(ticks) // 12)])
    axes.grid(axis="y", alpha=0.5)
