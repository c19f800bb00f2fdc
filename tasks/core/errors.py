"""What goes wrong: the user's input, or a stage at work."""

from __future__ import annotations

from collections.abc import Iterable

from tasks.core.secrets import redact
from tasks.core.visible import visible

LONGEST_MESSAGE = 1000
"""Characters of an `InputError`; what is longer loses its middle."""


class InputError(ValueError):
    """Bad input from the user: one line that names the field and the way out. The command exits with code 2.

    Whatever the input put into the message: it prints, it is short, and it holds no secret of the environment.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(visible(redact(message), LONGEST_MESSAGE))


class StageError(RuntimeError):
    """A stage failed while working: which one, why, how to resume. The command exits with code 1."""

    def __init__(self, message: str = "") -> None:
        super().__init__(visible(redact(message), 3 * LONGEST_MESSAGE))


def nearest(word: str, known: Iterable[str]) -> str:
    """The end of an error about ``word``: the known name that is most like it, or all of them."""
    import difflib

    options = list(known)
    near = difflib.get_close_matches(word, options, n=1)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; known: {', '.join(options)}" if options else ""
