r"""Where a completion says its final answer: the last ``\boxed{...}``, ``#### 72``, ``A: 72`` or ``Answer: 72``."""

from __future__ import annotations

import re

MAX_FORMULA = 500
"""Most characters of a located answer (or gold) that are parsed."""

_BRACES = re.compile(r"\\(?:boxed|fbox)\s*\{|\\[{}]|[{}]")
_HASHES = re.compile(r"^[ \t]*####[ \t]*(?=[-+−$€£¥\\.\d])(.*)$", re.MULTILINE)
_LAST_LINE = re.compile(r"(?:####|(?:A|Answer|Final answer)\s*:)\s*(?=\S)(.*)", re.IGNORECASE)
_SAID = re.compile(r"\banswer\s+is\s*:?\s*(?=\S)([^:]*)\Z", re.IGNORECASE)
_BOX_GAP = 70  # math-verify reads boxes up to this far apart as one answer ("$\boxed{3}$ and $\boxed{4}$")


def locate(text: str) -> str | None:
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


def said(text: str) -> str | None:
    """What stands behind "the answer is" on the last line; None where it does not say so.

    math-verify finds numbers and formulas there, but neither words nor the letter of a choice.
    """
    line = text.rstrip().rsplit("\n", 1)[-1][-MAX_FORMULA:]
    match = _SAID.search(line)
    return match[1].strip(" \t*") if match else None


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
