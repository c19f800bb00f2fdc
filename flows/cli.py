"""The `colinear` command: thin; every subcommand calls a flow or a plain function.

Exit codes: 0 done; 1 a stage failed (which one, why, how to resume); 2 bad input, refused in one line; 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tasks.settings import StudySpec

EXAMPLES = """examples:
  colinear study                                 the default study, in a small world that it makes itself
  colinear study smoke                           the same in a minute
  colinear study --set methods=sft,rft,dpo --set dpo.lr_ratio=1
  colinear study --set seed=1 --set data_seed=7  another LoRA initialisation, another data order
  colinear study my_study.toml --out runs/mine
  colinear study --rollouts rollouts.jsonl --set model.base=DIR_OR_HUB_ID
  colinear presets                               the named studies
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    from tasks.contracts import InputError

    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except InputError as error:
        print(f"colinear: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("colinear: interrupted; finished stages are kept: run the same command again to go on", file=sys.stderr)
        return 130
    except Exception as error:
        return _failed(error)


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="colinear",
        description="Do these training methods change the model in the same way, and does it matter?",
        epilog=EXAMPLES,
        formatter_class=raw,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    study = commands.add_parser(
        "study", help="train methods on identical rollouts and compare them", epilog=EXAMPLES, formatter_class=raw
    )
    study.add_argument("study", nargs="?", metavar="PRESET|FILE.toml", help="default: tiny, or own with --rollouts")
    study.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE", dest="assignments", help="may be repeated"
    )
    study.add_argument("--rollouts", metavar="FILE", help="own rollouts, JSONL or parquet (see the README)")
    study.add_argument("--out", metavar="DIR", help="folder of the report (default: under runs/)")
    study.set_defaults(run=_study)
    presets = commands.add_parser("presets", help="list the named studies")
    presets.set_defaults(run=_presets)
    return parser


def study_spec(name: str | None, assignments: Sequence[str], rollouts: str | None) -> StudySpec:
    """The settings that a command line asks for. Raises `InputError`."""
    from tasks import presets, settings

    values: dict[str, Any]
    if name is not None and name.endswith(".toml"):
        own = settings.load_toml(Path(name))
        start = presets.preset(str(own.pop("preset", "own" if rollouts else "tiny")))
        values = _merged(start, own)
    else:
        values = presets.preset(name or ("own" if rollouts else "tiny"))
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

    from tasks import home

    spec = study_spec(arguments.study, arguments.assignments, arguments.rollouts)
    home.quiet_environment()
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")  # our display says it; the API has all
    from tasks.preflight import preflight

    out = Path(arguments.out).absolute() if arguments.out else None
    preflight(spec, out)
    return _run(spec, out, Console(soft_wrap=True))


def _run(spec: StudySpec, out: Path | None, console: Any) -> int:
    from tasks import devices, home
    from tasks.events import listening

    console.print(
        f"[bold]colinear study {spec.name}[/]  {len(spec.runs())} adapters on {devices.describe_machine()}; "
        f"state in {home.home()}",
        highlight=False,
    )
    devices.allow()
    devices.warm_up()
    from flows.embedded import load_tables, prepare, settle
    from flows.study_flow import study_flow
    from flows.terminal import StudyDisplay
    from tasks.store import open_store

    load_tables()
    opening = threading.Thread(target=_quietly, args=(open_store,), daemon=True)  # overlaps with Prefect's start
    opening.start()
    prepare()
    opening.join()
    display = StudyDisplay(console)
    try:
        with display, listening(display):
            outcome = study_flow(spec, str(out) if out else None)
    except BaseException:
        devices.stop()  # nothing of ours outlives the command, however it ends
        raise
    settle(outcome.flow_run)
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


def _failed(error: Exception) -> int:
    """Say which stage failed and how to go on; what we did wrong is in the log in full."""
    from tasks import home

    log = home.subfolder("logs") / "failure.log"
    log.write_text("".join(traceback.format_exception(error)))
    print(f"colinear: {' '.join(str(error).split()) or type(error).__name__}", file=sys.stderr)
    print(
        f"colinear: full traceback in {log}; finished stages are kept: run the same command again to go on",
        file=sys.stderr,
    )
    return 1


def _quietly(function: Any) -> None:
    """The flow will call it again and report; here it only has to be begun."""
    from tasks.contracts import StageError

    try:
        function()
    except StageError:
        return


def _presets(_: argparse.Namespace) -> int:
    from tasks import presets

    for name in presets.PRESETS:
        print(f"{name:8} {presets.summary(name)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
