r"""The reward: is the final answer of a completion equal to the gold answer? Judged by math-verify 0.9.0.

Three steps. *Locate* the final answer: the last ``\boxed{...}`` or the final line ``#### 72`` / ``A: 72`` /
``Answer: 72``, whichever comes last; where there is none, math-verify searches the end of the text by its own rules.
*Tidy* it: a currency sign, thousands separators, a closing full stop, and, where the gold is a plain number, words
of unit behind a number. *Compare* with the gold by math-verify.

Deviations from calling math-verify on the whole completion: the location rules above (so ``final answer is 3`` in the
middle of a text never wins over the box after it), the tidying, and a limit on what is parsed: a located answer of
more than `MAX_FORMULA` characters counts as unreadable, and only the last `MAX_FREE` characters are searched where no
answer is marked. Two plain integers are compared as such, which gives what math-verify gives
(``tests/grading/test_fast_path.py``).

Everything else is judged in one child process, started at the first need: math-verify's own time limit is a signal,
which only a main thread can take and which cannot interrupt ``9^{9^{9}}`` inside the C of an integer power. The child
has a main thread, and a watchdog that ends it `HARD_SECONDS` after a formula began; that formula is unreadable then.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import IO, Any

from tasks.contracts import Progress, StageError, no_progress

GRADER: str
"""``"math-verify <version>"``, looked up on first use."""

MAX_FORMULA = 500
"""Most characters of a located answer (or gold) that are parsed."""
MAX_FREE = 1000
"""Characters at the end of a completion that are searched when it marks no answer."""
SOFT_SECONDS = 2
"""Time limit of one parse or one comparison, taken by math-verify itself in the child."""
HARD_SECONDS = 6.0
"""Time limit of one whole judgement; past it the child ends and a new one is started."""


def __getattr__(name: str) -> str:
    if name == "GRADER":
        return f"math-verify {metadata.version('math-verify')}"
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@dataclass(frozen=True)
class Grade:
    """``reward`` 1.0 or 0.0; ``extracted``: the answer that was read, None where nothing could be read."""

    reward: float
    extracted: str | None


@dataclass(frozen=True)
class Agreement:
    """Given labels against grades: how many rows carry a label, on how many both agree, and where they do not."""

    n: int
    agree: int
    disagreements: tuple[int, ...]

    @property
    def share(self) -> float | None:
        """``agree / n``; None where no label was given."""
        return self.agree / self.n if self.n else None


def grade(completion: str, gold: str) -> Grade:
    r"""Reward of one completion. ``gold`` is a bare answer (``72``, ``1,234``, ``\frac{1}{2}``) or a marked one.

    Safe in any thread and in worker processes. Raises `StageError` where math-verify cannot be started.
    """
    return _judge(*_question(completion, gold))


def grade_many(completions: Sequence[str], golds: Sequence[str], progress: Progress = no_progress) -> list[Grade]:
    """`grade` of every pair, in order; pairs with the same located answer and gold are judged once.

    Raises ValueError where the two sequences differ in length.
    """
    if len(completions) != len(golds):
        raise ValueError(f"grade_many: {len(completions)} completions but {len(golds)} golds")
    known: dict[_Question, Grade] = {}
    grades: list[Grade] = []
    for completion, gold in zip(completions, golds, strict=True):
        question = _question(completion, gold)
        if question not in known:
            known[question] = _judge(*question)
        grades.append(known[question])
        if len(grades) % 100 == 0 or len(grades) == len(golds):
            progress(len(grades), len(golds), "completions graded")
    return grades


def agreement(rewards_given: Sequence[float | None], grades: Sequence[Grade]) -> Agreement:
    """Where given labels and grades agree. Rows without a label (None) do not count; indices refer to the sequences."""
    if len(rewards_given) != len(grades):
        raise ValueError(f"agreement: {len(rewards_given)} rewards but {len(grades)} grades")
    labelled = [i for i, given in enumerate(rewards_given) if given is not None]
    differ = tuple(i for i in labelled if rewards_given[i] != grades[i].reward)
    return Agreement(n=len(labelled), agree=len(labelled) - len(differ), disagreements=differ)


# --- locating the final answer ---------------------------------------------------------------------------------------

_BRACES = re.compile(r"\\(?:boxed|fbox)\s*\{|\\[{}]|[{}]")
_HASHES = re.compile(r"^[ \t]*####[ \t]*(?=[-+−$€£¥\\.\d])(.*)$", re.MULTILINE)
_LAST_LINE = re.compile(r"(?:####|(?:A|Answer|Final answer)\s*:)\s*(?=\S)(.*)", re.IGNORECASE)
_BOX_GAP = 70  # math-verify reads boxes up to this far apart as one answer ("$\boxed{3}$ and $\boxed{4}$")

_Question = tuple[str, str, bool]  # the answer's text, the gold's text, whether the answer was marked


def _question(completion: str, gold: str) -> _Question:
    """The texts that decide the grade; equal questions have equal grades."""
    gold_text = _tidy(_locate(gold) or gold, units=False)
    located = _locate(completion)
    if located is None:
        return completion[-MAX_FREE:], gold_text, False
    return _tidy(located, units=_NUMBER.fullmatch(gold_text) is not None), gold_text, True


def _locate(text: str) -> str | None:
    """The text of the last marked answer, None where nothing is marked. Linear in the length of the text."""
    start, found = -1, None
    for match in _HASHES.finditer(text):
        start, found = match.start(), match[1]
    body = text.rstrip()
    line_start = body.rfind("\n") + 1
    if line := _LAST_LINE.fullmatch(body[line_start:].strip(" \t*")):
        start, found = line_start, line[1]
    boxes = _boxes(text)
    if not boxes or boxes[-1][0] < start:
        return found
    first = len(boxes) - 1
    while first > 0 and boxes[first][0] - boxes[first - 1][2] < _BOX_GAP:
        first -= 1
    if first < len(boxes) - 1 and boxes[-1][2] - boxes[first][0] <= MAX_FORMULA:
        # Several boxes close together: math-verify decides what they say, on the text from the first to the last.
        return text[boxes[first][0] : boxes[-1][2]]
    return text[boxes[-1][1] : boxes[-1][2] - 1]


def _boxes(text: str) -> list[tuple[int, int, int]]:
    r"""Closed, outermost ``\boxed{...}``: (start of the command, start of its content, end past the closing brace)."""
    opened: list[tuple[int, int] | None] = []
    boxes: list[tuple[int, int, int]] = []
    for match in _BRACES.finditer(text):
        token = match[0]
        if token == "}" and opened:
            if (box := opened.pop()) is not None:
                while boxes and boxes[-1][0] > box[0]:  # a box within this one
                    boxes.pop()
                boxes.append((*box, match.end()))
        elif token == "{":
            opened.append(None)
        elif len(token) > 2:
            opened.append((match.start(), match.end()))
    return boxes


# --- tidying ---------------------------------------------------------------------------------------------------------

_NUMBER = re.compile(r"-?(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)")
_INTEGER = re.compile(r"-?[0-9]{1,15}")
_AMOUNT = re.compile(
    r"(?P<sign>[-−]?)\s*(?:\\?\$|[€£¥])?\s*(?P<minus>[-−]?)"
    r"(?P<number>[1-9][0-9]{0,2}(?:,[0-9]{3})+(?:\.[0-9]+)?|[0-9]+(?:\.[0-9]+)?|\.[0-9]+)"
    r"\s*\$?(?P<percent>\\?%)?(?P<unit>(?:\s+[A-Za-z]{2,}){1,4})?"
)
_NO_UNIT = re.compile(  # words that change the value of the number in front of them
    r"\b(?:hundred|thousand|million|billion|trillion|dozen|half|halves|thirds?|fourths|fifths?|sixths?|sevenths?|"
    r"eighths?|ninths?|tenths?|hundredths?|thousandths?|pi|sqrt|and|or|to|plus|minus|times|over|mod|base|squared|cubed|"
    r"percent|pct|more|less)\b",
    re.IGNORECASE,
)
_MATH = re.compile(r"\$([^$]+)\$|\\\(([^\\]+)\\\)|\\\[([^\\]+)\\\]")
_TEXT = re.compile(r"\\(?:text|mathrm|textbf)\s*\{([^{}]*)\}")


def _tidy(text: str, units: bool) -> str:
    """``text`` without decoration; an amount of money or a number with separators as a bare number.

    ``units``: words behind a number may go as well ("72 dollars").
    """
    text = text[: MAX_FORMULA + 1].strip().strip("*").strip()
    if math := _MATH.fullmatch(text):
        text = next(group for group in math.groups() if group is not None).strip()
    text = text.rstrip(".").rstrip() or text
    plain = _TEXT.sub(r" \1", text).replace("{,}", ",").replace(r"\!", "").strip()
    amount = _AMOUNT.fullmatch(plain)
    if amount is None or (amount["sign"] and amount["minus"]):
        return text
    if amount["unit"] and (not units or _NO_UNIT.search(amount["unit"])):
        return text
    number = ("-" if amount["sign"] or amount["minus"] else "") + amount["number"].replace(",", "")
    if _INTEGER.fullmatch(number):
        number = str(int(number))  # 007 -> 7, -0 -> 0
    return number + (r"\%" if amount["percent"] else "")


# --- comparing -------------------------------------------------------------------------------------------------------


def _judge(answer: str, gold: str, marked: bool) -> Grade:
    if marked and _INTEGER.fullmatch(answer) and _INTEGER.fullmatch(gold):
        return Grade(float(answer == gold), answer)  # both are canonical: see `_tidy`
    if len(gold) > MAX_FORMULA or (marked and (not answer or len(answer) > MAX_FORMULA)):
        return Grade(0.0, None)
    if not marked and re.search(r"[\d$\\\[]", answer) is None:
        return Grade(0.0, None)  # none of math-verify's patterns matches without one of these
    same, read = _CHILD.ask(_boxed(answer) if marked else answer, _boxed(gold))
    return Grade(float(same), None if read is None else answer if marked else read)


def _boxed(text: str) -> str:
    return text if "\\boxed" in text else rf"\boxed{{{text}}}"


class _Child:
    """One child process that judges with math-verify; started when first asked, again after it died."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._inherited: subprocess.Popen[str] | None = None

    def ask(self, answer: str, gold: str) -> tuple[bool, str | None]:
        """Whether math-verify finds ``answer`` equal to ``gold``, and what it read; (False, None) past the limit."""
        with self._lock:
            process = self._process if self._process is not None and self._process.poll() is None else self._start()
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                process.stdin.write(json.dumps([answer, gold]) + "\n")
                process.stdin.flush()
                reply = process.stdout.readline()
            except BrokenPipeError:
                reply = ""
            if not reply:  # the watchdog ended it, or the formula took the interpreter down
                self.close()
                return False, None
        same, read = json.loads(reply)
        return same, read

    def _start(self) -> subprocess.Popen[str]:
        code = f"import sys, json; sys.path[:] = json.loads(sys.argv[1]); from {__name__} import _serve; _serve()"
        environment = {**os.environ, "POLARS_MAX_THREADS": "1"}
        process = subprocess.Popen(
            [sys.executable, "-c", code, json.dumps(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="ascii",
            env=environment,
        )
        self._process = process
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            self.close()
            raise StageError("grading: math-verify did not start; `python -c 'import math_verify'` shows why")
        return process

    def close(self) -> None:
        """End the child. It also ends by itself when this process does, since its input closes."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    _close_quietly(pipe)

    def forget(self) -> None:
        """In a forked process: the parent's child is not ours, and its pipes must not be flushed or waited for here."""
        self._inherited, self._process, self._lock = self._process, None, threading.Lock()


def _close_quietly(pipe: IO[str]) -> None:
    try:
        pipe.close()
    except BrokenPipeError:
        return  # a dead child's unread request: nothing is lost


_CHILD = _Child()
atexit.register(_CHILD.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_CHILD.forget)


def _serve() -> None:
    """The child: one JSON line ``[answer, gold]`` in, one line ``[same, read]`` out, until the input ends."""
    import faulthandler
    import logging
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    replies = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)  # whatever a library prints must not look like a reply
    logging.disable(logging.CRITICAL)
    _compare(r"\boxed{\frac{1}{2}}", r"\boxed{0.5}")  # loads sympy and the grammar before the clock runs
    replies.write("ready\n")
    replies.flush()
    for line in sys.stdin:
        faulthandler.dump_traceback_later(HARD_SECONDS, exit=True)
        reply = json.dumps(_compare(*json.loads(line)))
        faulthandler.cancel_dump_traceback_later()
        replies.write(reply + "\n")
        replies.flush()


def _compare(answer: str, gold: str) -> tuple[bool, str | None]:
    """What math-verify says of two marked texts. Needs the main thread (its time limits are signals)."""
    from math_verify import parse, verify

    read: list[Any] = parse(answer, parsing_timeout=SOFT_SECONDS)
    if not read:
        return False, None
    same = verify(parse(gold, parsing_timeout=SOFT_SECONDS), read, timeout_seconds=SOFT_SECONDS)
    return bool(same), next((item for item in reversed(read) if isinstance(item, str)), None) or answer
