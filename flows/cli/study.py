"""``colinear study``: read the settings, refuse what cannot work, run the flow, show the headline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from tasks.settings.study import StudySpec


def study_spec(name: str | None, assignments: Sequence[str], rollouts: str | None) -> StudySpec:
    """The settings that a command line asks for. Raises `InputError`."""
    from tasks.core.small_files import expanded
    from tasks.settings import study as settings

    values: dict[str, Any]
    start = "own" if rollouts or any(word.startswith("model.base=") for word in assignments) else "tiny"
    if name is not None and name.endswith(".toml"):
        given = settings.load_toml(Path(name))
        values = merged(preset_values(str(given.pop("preset", start)), rollouts), given)
    else:
        values = preset_values(name or start, rollouts)
    if rollouts is not None:
        values = merged(values, {"rollouts": {"file": str(expanded(rollouts).absolute())}})
    return settings.build(settings.override(values, assignments))


def preset_values(name: str, rollouts: str | None) -> dict[str, Any]:
    """A preset's values; without its teacher where rollouts are given, for then nobody need be asked."""
    from tasks.settings import presets

    values = presets.preset(name)
    if rollouts is not None and "problems" in values.get("rollouts", {}):
        kept = {key: value for key, value in values["rollouts"].items() if key in ("holdout", "truncated")}
        values = {**values, "rollouts": kept}
    return values


def merged(values: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """``values`` with ``over`` on top, section by section."""
    result = dict(values)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if both else value
    return result


def run(
    preset: str | None,
    assignments: Sequence[str],
    rollouts: str | None,
    folder: str | None,
    *,
    dry_run: bool,
    on: str | None,
    tflops: float | None,
    tokens: float | None,
) -> int:
    """Run a study, or with ``dry_run`` print its plan."""
    from rich.console import Console

    from flows.cli.commands import quiet
    from tasks.core.errors import InputError
    from tasks.engines import named

    spec = study_spec(preset, assignments, rollouts)
    quiet()
    out = Path(folder).absolute() if folder else None
    if dry_run:
        from flows.cli import plan

        return plan.dry_run(spec, out, on=on, tflops=tflops, completion=tokens)
    for option, given in (("--on", on), ("--tflops", tflops), ("--tokens", tokens)):
        if given is not None:
            raise InputError(f"{option}: it is for --dry-run; leave it out to run the study")
    named.allow(spec.rollouts)
    from flows.cluster.ray_cluster import connect
    from flows.servers import embedded
    from tasks.planning.preflight import preflight

    connect()
    preflight(spec, out)
    embedded.begin()  # Prefect is imported beside it
    return _run(spec, out, Console(soft_wrap=True))


def _run(spec: StudySpec, out: Path | None, console: Console) -> int:
    from rich.markup import escape

    from flows.cluster.ray_cluster import machine
    from flows.notes.rollouts import unjudged
    from tasks.core import home
    from tasks.workers import devices

    console.print(
        f"[bold]colinear study {escape(spec.name)}[/]  {len(spec.runs())} adapters on {machine()}; state in "
        f"{escape(str(home.home()))}",
        highlight=False,
    )
    for note in unjudged(spec):
        console.print(note, highlight=False, markup=False)
    devices.allow()
    devices.warm_up_if_new()
    from flows.cli.commands import run_flow
    from flows.study_flow import study_flow

    outcome = run_flow(lambda: study_flow(spec, str(out) if out else None), console)
    console.print()
    from tasks.reporting.render.terminal import headline_renderable
    from tasks.reporting.views.read import read_study

    console.print(headline_renderable(read_study(Path(outcome.page).parent)))
    console.print(
        f"\n{outcome.computed} stages computed, {outcome.hits} found in the cache, {outcome.wall_seconds:.0f} s\n"
        f"report: {outcome.page}",
        highlight=False, markup=False,
    )  # fmt: skip
    return 0
