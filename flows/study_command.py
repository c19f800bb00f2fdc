"""``colinear study``: read the settings, refuse what cannot work, run the flow, show the headline."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from tasks.settings import StudySpec

EXAMPLES = """examples:
  colinear study                                 the default study, in a small world that it makes itself
  colinear study smoke                           the same in a minute
  colinear study --set methods=sft,rft,dpo --set dpo.lr_ratio=1
  colinear study --set seed=1 --set data_seed=7  another LoRA initialisation, another data order
  colinear study my_study.toml --out runs/mine
  colinear study --rollouts rollouts.jsonl --set model.base=DIR_OR_HUB_ID
  colinear study --set model.base=DIR --set rollouts.problems=deepscaler --set rollouts.teacher=DIR
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
    study.add_argument("--rollouts", metavar="FILE", help="own rollouts, JSONL or parquet (see the README)")
    study.add_argument("--out", metavar="DIR", help="folder of the report (default: under runs/)")
    study.set_defaults(run=_study)


def study_spec(name: str | None, assignments: Sequence[str], rollouts: str | None) -> StudySpec:
    """The settings that a command line asks for. Raises `InputError`."""
    from tasks import presets, settings

    values: dict[str, Any]
    start = "own" if rollouts or any(word.startswith("model.base=") for word in assignments) else "tiny"
    if name is not None and name.endswith(".toml"):
        given = settings.load_toml(Path(name))
        values = _merged(presets.preset(str(given.pop("preset", start))), given)
    else:
        values = presets.preset(name or start)
    if rollouts is not None:
        values = _merged(values, {"rollouts": {"file": str(Path(rollouts).expanduser().absolute())}})
    return settings.build(settings.override(values, assignments))


def _merged(values: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    result = dict(values)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = _merged(result[key], value) if both else value
    return result


def _study(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from flows.commands import quiet

    spec = study_spec(arguments.study, arguments.assignments, arguments.rollouts)
    quiet()
    from tasks.preflight import preflight

    out = Path(arguments.out).absolute() if arguments.out else None
    preflight(spec, out)
    return _run(spec, out, Console(soft_wrap=True))


def _run(spec: StudySpec, out: Path | None, console: Console) -> int:
    from tasks import devices, home

    console.print(
        f"[bold]colinear study {spec.name}[/]  {len(spec.runs())} adapters on {devices.describe_machine()}; "
        f"state in {home.home()}",
        highlight=False,
    )
    devices.allow()
    devices.warm_up()
    from flows.commands import run_flow
    from flows.study_flow import study_flow

    outcome = run_flow(lambda: study_flow(spec, str(out) if out else None), console)
    console.print()
    from tasks.reporting.read import read_tables
    from tasks.reporting.terminal import headline_renderable

    console.print(headline_renderable(read_tables(Path(outcome.page).parent)))
    console.print(
        f"\n{outcome.computed} stages computed, {outcome.hits} found in the cache, {outcome.wall_seconds:.0f} s\n"
        f"report: {outcome.page}",
        highlight=False,
    )
    return 0
