"""``colinear sweep``: read the settings, refuse what cannot work, run the flow, show what the page says first."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.core.errors import InputError
from tasks.core.small_files import expanded
from tasks.core.visible import dated_folder

if TYPE_CHECKING:
    from tasks.settings.study import StudySpec
    from tasks.settings.sweeps import SweepSpec

START = "tiny-sweep"
PREFIX = "sweep."


def asked(
    preset: str | None,
    assignments: Sequence[str],
    rollouts: str | None = None,
    *,
    seeds: str | None = None,
    lrs: str | None = None,
    methods: str | None = None,
    grid: Sequence[str] = (),
) -> tuple[StudySpec, SweepSpec]:
    """The settings that a command line asks for. Raises `InputError`."""
    from flows.cli.study import merged
    from tasks.settings import study as settings
    from tasks.settings.sweeps import build_sweep

    study, sweep = _start(preset, rollouts, assignments)
    of_study = [text for text in assignments if not text.startswith(PREFIX)]
    if methods is not None:
        of_study.append(f"methods={methods}")
    if rollouts is not None:
        study = merged(study, {"rollouts": {"file": str(expanded(rollouts).absolute())}})
    for text in assignments:
        if text.startswith(PREFIX):
            key, _, value = text.removeprefix(PREFIX).partition("=")
            sweep[key] = value
    for key, given, example in (("seeds", seeds, "0,1"), ("lrs", lrs, "1e-4,1e-3")):
        if given is not None:
            sweep[key] = list(_listed(given))
            if not sweep[key]:
                raise InputError(f"--{key}: no values; give some, such as --{key} {example}")
    axes: dict[str, list[str]] = {}
    for axis in grid:
        key, separator, values = axis.partition("=")
        if not separator or not key:
            raise InputError(f"--grid {axis}: expected section.key=value,value")
        if key in axes:
            raise InputError(f"--grid {key}: given twice; list all its values in one")
        axes[key] = list(_listed(values))
    if axes:
        sweep["grid"] = {**sweep.get("grid", {}), **axes}
    return settings.build(settings.override(study, of_study)), build_sweep(sweep)


def _start(name: str | None, rollouts: str | None, assignments: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Values of the study and of the sweep before the command line's own are put on top."""
    from flows.cli.study import merged, preset_values
    from tasks.settings import study as settings
    from tasks.settings.sweep_presets import SWEEPS, sweep_preset

    own = rollouts is not None or any(word.startswith("model.base=") for word in assignments)
    start = "own" if own else START

    def values(of: str) -> tuple[dict[str, Any], dict[str, Any]]:
        return sweep_preset(of) if of in SWEEPS or rollouts is None else (preset_values(of, rollouts), {})

    if name is None or not name.endswith(".toml"):
        study, sweep = values(name or start)
        return study, dict(sweep)
    given = settings.load_toml(Path(name))
    study, sweep = values(str(given.pop("preset", start if own else "tiny")))
    cells = given.pop("sweep", {})
    if not isinstance(cells, dict):
        raise InputError(f"{name}: sweep: expected a section with keys such as seeds and lrs")
    return merged(study, given), {**sweep, **cells}


def _listed(text: str) -> Iterator[str]:
    """The parts of a comma-separated text; commas within brackets do not part."""
    depth, part = 0, ""
    for letter in text:
        depth += (letter in "[{") - (letter in "]}")
        if letter == "," and depth <= 0:
            yield from [part.strip()] if part.strip() else []
            part = ""
        else:
            part += letter
    yield from [part.strip()] if part.strip() else []


def run(
    preset: str | None,
    assignments: Sequence[str],
    rollouts: str | None,
    folder: str | None,
    *,
    seeds: str | None,
    lrs: str | None,
    methods: str | None,
    grid: Sequence[str],
) -> int:
    """Run a sweep."""
    from rich.console import Console
    from rich.markup import escape

    from flows.cli.commands import quiet
    from tasks.engines import named
    from tasks.settings.sweeps import cells

    spec, sweep = asked(preset, assignments, rollouts, seeds=seeds, lrs=lrs, methods=methods, grid=grid)
    cells(spec, sweep)
    quiet()
    named.allow(spec.rollouts)
    from flows.cluster.ray_cluster import connect, machine
    from tasks.core import home
    from tasks.workers import devices

    connect()
    from flows.cli.commands import run_flow
    from flows.servers.prefect_server import settle
    from flows.sweep_flow import check_cells, sweep_flow

    out = Path(folder or dated_folder(spec.name)).absolute()
    chosen = check_cells(spec, sweep, out)
    console = Console(soft_wrap=True)
    console.print(
        f"[bold]colinear sweep {escape(spec.name)}[/]  {len(chosen)} cells on {machine()}; state in "
        f"{escape(str(home.home()))}",
        highlight=False,
    )
    devices.allow()
    devices.warm_up_if_new()
    outcome = run_flow(lambda: sweep_flow(spec, sweep, str(out)), console)
    for flow_run in outcome.flow_runs:
        settle(flow_run)
    _say(outcome, console)
    return 0


def _say(outcome: Any, console: Any) -> None:
    if outcome.page is not None:
        record = json.loads((Path(outcome.page).parent / "many.json").read_text(encoding="utf-8"))
        for line in ["", *(f"! {text}" for text in record["warnings"]), *(f"- {text}" for text in record["headline"])]:
            console.print(line, highlight=False, markup=False)
    counts = outcome.counts
    paths = f", of paths between seeds {counts['path_computed']} and {counts['path_hits']}" if outcome.page else ""
    console.print(
        f"\n{counts['cells']} cells: {counts['done']} done, {counts['diverged']} diverged; {counts['diverged_runs']} "
        f"runs diverged\n{counts['computed']} stages computed, {counts['hits']} found in the cache{paths}; "
        f"{outcome.wall_seconds:.0f} s\nreport: {outcome.page or outcome.out}",
        highlight=False, markup=False,
    )  # fmt: skip
