"""The `colinear` command: thin; every subcommand calls a flow or a plain function.

Exit codes: 0 done; 1 a stage failed (which one, why, how to resume); 2 bad input, refused in one line; 130 interrupted
by Ctrl-C, 143 by SIGTERM.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import typer
from typer.main import get_command

from flows.cli.app import app
from flows.cli.study import study_spec

__all__ = ["main", "study_spec"]

NAME = "colinear"
LONGEST_SAID = 2400
"""Characters of a failure's line; its log has all."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    words = sys.argv[1:] if argv is None else list(argv)
    try:
        with _terminable():
            return _run(words)
    except typer.Exit as done:  # of --help
        return done.exit_code
    except typer.TyperException as error:
        return _refused(_misused(error, words))
    except KeyboardInterrupt:
        print("colinear: interrupted; finished stages are kept: run the same command again to go on", file=sys.stderr)
        return 130
    except _Terminated:
        print(
            "colinear: ended by SIGTERM; finished stages are kept: run the same command again to go on", file=sys.stderr
        )
        return 128 + signal.SIGTERM
    except Exception as error:
        from tasks.core.errors import InputError

        return _refused(str(error)) if isinstance(error, InputError) else _failed(error)


def _run(words: list[str]) -> int:
    """Parse the command line and run its command: without Typer's own treatment of errors, which has no one line."""
    command = get_command(app)
    if os.environ.get(f"_{NAME.upper()}_COMPLETE"):
        command.main(prog_name=NAME)  # answers the shell that asks for completions, and exits
    with command.make_context(NAME, words) as context:
        return int(command.invoke(context))


def _misused(error: typer.TyperException, words: Sequence[str]) -> str:
    """What is wrong with the command line, what was meant, and where its help is; empty where that has been shown."""
    near = getattr(error, "possibilities", None)
    said = f"{error.message}. Did you mean {near[0]!r}?" if near else error.format_message()
    if not said:  # no command was given
        return ""
    context = getattr(error, "ctx", None)  # an option without its value has none
    path = context.command_path if context else " ".join([NAME, *filter(str.isalpha, words[:1])])
    return f"{said}{'' if said[-1] in '.?' else '.'} See `{path} --help`."


def _refused(said: str) -> int:
    from tasks.core.secrets import redact

    if said:
        print(f"colinear: {redact(' '.join(said.split()))}", file=sys.stderr)
    return 2


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
