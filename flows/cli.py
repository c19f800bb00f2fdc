"""The `colinear` command: thin; every subcommand calls a flow or a plain function.

Exit codes: 0 done; 1 a stage failed (which one, why, how to resume); 2 bad input, refused in one line; 130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Sequence

from flows.compare_command import add_compare
from flows.doctor_command import add_doctor
from flows.report_command import add_report
from flows.serve_command import add_serve
from flows.study_command import EXAMPLES, add_study, study_spec
from flows.sweep_command import add_sweep
from flows.ui_command import add_ui

__all__ = ["main", "study_spec"]


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
    parser = argparse.ArgumentParser(
        prog="colinear",
        description="Do these training methods change the model in the same way, and does it matter?",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_study(commands)
    add_sweep(commands)
    add_compare(commands)
    add_report(commands)
    add_ui(commands)
    add_serve(commands)
    add_doctor(commands)
    presets = commands.add_parser("presets", help="list the named studies")
    presets.set_defaults(run=_presets)
    return parser


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


def _presets(_: argparse.Namespace) -> int:
    from tasks import presets, sweep_presets

    for name in presets.PRESETS:
        print(f"{name:11} {presets.summary(name)}")
    for name in sweep_presets.SWEEPS:
        print(f"{name:11} {sweep_presets.summary(name)} (colinear sweep)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
