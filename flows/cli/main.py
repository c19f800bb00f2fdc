"""The `colinear` command: thin; every subcommand calls a flow or a plain function.

Exit codes: 0 done; 1 a stage failed (which one, why, how to resume); 2 bad input, refused in one line; 130 interrupted
by Ctrl-C, 143 by SIGTERM.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from flows.cli.compare import add_compare
from flows.cli.doctor import add_doctor
from flows.cli.report import add_report
from flows.cli.serve import add_serve
from flows.cli.study import EXAMPLES, add_study, study_spec
from flows.cli.sweep import add_sweep
from flows.cli.ui import add_ui

__all__ = ["main", "study_spec"]

LONGEST_SAID = 2400
"""Characters of a failure's line; its log has all."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    from tasks.core.contracts import InputError

    arguments = _parser().parse_args(argv)
    try:
        with _terminable():
            return int(arguments.run(arguments))
    except InputError as error:
        from tasks.core.secrets import redact

        print(f"colinear: {redact(' '.join(str(error).split()))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("colinear: interrupted; finished stages are kept: run the same command again to go on", file=sys.stderr)
        return 130
    except _Terminated:
        print(
            "colinear: ended by SIGTERM; finished stages are kept: run the same command again to go on", file=sys.stderr
        )
        return 128 + signal.SIGTERM
    except Exception as error:
        return _failed(error)


class _Terminated(BaseException):
    """SIGTERM came (a batch system takes the machine back): workers write their checkpoints, and the command ends."""


@contextmanager
def _terminable() -> Iterator[None]:
    """Within it SIGTERM ends the command as Ctrl-C does. A flow has Prefect's own handling, which hands it on to us."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: object) -> None:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


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
    from tasks.core import home
    from tasks.core.secrets import redact
    from tasks.core.visible import visible

    told = " ".join(redact(str(error)).split()) or type(error).__name__
    try:
        if "make room" not in told:
            told += home.full_disk([home.home()])
        log = home.subfolder("logs") / "failure.log"
        log.write_text(redact("".join(traceback.format_exception(error))), encoding="utf-8", errors="backslashreplace")
        where = f"full traceback in {log}"
    except (OSError, RuntimeError) as unwritten:  # the latter: of a user in $COLINEAR_HOME that there is not
        where = f"its traceback could not be written ({getattr(unwritten, 'strerror', '') or unwritten})"
    print(f"colinear: {visible(told, LONGEST_SAID)}", file=sys.stderr)
    print(f"colinear: {where}; finished stages are kept: run the same command again to go on", file=sys.stderr)
    return 1


def _presets(_: argparse.Namespace) -> int:
    from tasks.settings import presets, sweep_presets

    for name in presets.PRESETS:
        print(f"{name:11} {presets.summary(name)}")
    for name in sweep_presets.SWEEPS:
        print(f"{name:11} {sweep_presets.summary(name)} (colinear sweep)")
    return 0
