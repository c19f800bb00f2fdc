"""``colinear study``: read the settings, refuse what cannot work, run the flow, show the headline."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.core.contracts import InputError
from tasks.core.small_files import expanded

if TYPE_CHECKING:
    from rich.console import Console

    from tasks.settings.study import StudySpec

EXAMPLES = """examples:
  colinear study                                 the default study, in a small world that it makes itself
  colinear study smoke                           the same in a minute
  colinear study --set methods=sft,rft,dpo --set matched=dpo    DPO at its own rate and at that of the others
  colinear study --set seed=1 --set data_seed=7  another LoRA initialisation, another data order
  colinear study my_study.toml --out runs/mine
  colinear study --rollouts rollouts.jsonl --set model.base=DIR_OR_HUB_ID
  colinear study --set model.base=DIR --set rollouts.problems=deepscaler --set rollouts.teacher=DIR
  colinear study paper --dry-run --on 8xH100     what the paper's protocol takes, on these GPUs
  colinear presets                               the named studies
"""


def add_study(commands: Any) -> None:
    """Add the subcommand to ``argparse``'s subparsers."""
    study = commands.add_parser(
        "study",
        help="train methods on identical rollouts and compare them",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    study.add_argument(
        "study", nargs="?", metavar="PRESET|FILE.toml", help="default: tiny, or own for a model.base of one's own"
    )
    study.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE", dest="assignments", help="may be repeated"
    )
    study.add_argument("--rollouts", metavar="FILE", help="own rollouts: a file or folder (docs/own-data.md)")
    study.add_argument("--out", metavar="DIR", help="folder of the report (default: under runs/)")
    study.add_argument(
        "--dry-run", action="store_true", help="print the plan (stages, operations, time, memory, disk); run nothing"
    )
    study.add_argument("--on", metavar="GPUS", help="with --dry-run: plan for others than this machine's, like 8xH100")
    study.add_argument(
        "--tflops", type=float, metavar="N", help="with --dry-run: a device's peak in matrix products, where known"
    )
    study.add_argument(
        "--tokens", type=float, metavar="N", help="with --dry-run: mean tokens of a completion, where you know them"
    )
    study.set_defaults(run=_study)


def study_spec(name: str | None, assignments: Sequence[str], rollouts: str | None) -> StudySpec:
    """The settings that a command line asks for. Raises `InputError`."""
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


def _study(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from flows.cli.commands import quiet
    from tasks.engines import named

    spec = study_spec(arguments.study, arguments.assignments, arguments.rollouts)
    quiet()
    out = Path(arguments.out).absolute() if arguments.out else None
    if arguments.dry_run:
        from flows.cli.plan import dry_run

        return dry_run(spec, out, on=arguments.on, tflops=arguments.tflops, completion=arguments.tokens)
    if only := next((name for name in ("on", "tflops", "tokens") if getattr(arguments, name) is not None), None):
        raise InputError(f"--{only}: it is for --dry-run; leave it out to run the study")
    named.allow(spec.rollouts)
    from flows.cluster.ray_cluster import connect
    from tasks.planning.preflight import preflight

    connect()
    preflight(spec, out)
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
    devices.warm_up()
    from flows.cli.commands import run_flow
    from flows.study_flow import study_flow

    outcome = run_flow(lambda: study_flow(spec, str(out) if out else None), console)
    console.print()
    from tasks.reporting.render.terminal import headline_renderable
    from tasks.reporting.views.read import read_tables

    console.print(headline_renderable(read_tables(Path(outcome.page).parent)))
    console.print(
        f"\n{outcome.computed} stages computed, {outcome.hits} found in the cache, {outcome.wall_seconds:.0f} s\n"
        f"report: {outcome.page}",
        highlight=False, markup=False,
    )  # fmt: skip
    return 0
