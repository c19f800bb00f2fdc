r"""Where a completion says its final answer: the last ``<answer>``, ``\boxed{...}``, ``A: 72`` or ``#### 72``."""

from __future__ import annotations

import re
from decimal import Decimal
from itertools import pairwise

MAX_FORMULA = 500
"""Most characters of a located answer (or gold) that are parsed."""

_THOUGHT = re.compile(
    r"<(/?)(?:think|thinking|thought|reasoning)>|<\|(?:begin|(end))_of_thought\|>|\[(/?)THINK\]", re.IGNORECASE
)
_TAG = re.compile(r"<(/?)answer>", re.IGNORECASE)
_BRACES = re.compile(r"\\(?:boxed|fbox)\s*\{|\\[{}]|[{}]")
_HASHES = re.compile(  # a bare number alone on its line: what else stands behind #### is a heading
    r"^[ \t]*####[ \t]*([-+−]?[ \t]?\\?[$€£¥]?[ \t]?[-−]?\.?\d[\d,]*(?:\.\d+)?(?:/\d+|\\?%)?)[ \t\r]*$", re.MULTILINE
)
_NUMBERED = r"(?:step\b|\d{1,9}[.):][ \t]+[^\W\d])"  # "#### 2. Solve", "#### Step 2"
_LAST_LINE = re.compile(rf"(?:####(?![ \t]*{_NUMBERED})|(?:A|Answer|Final answer)\s*:)\s*(?=\S)(.*)", re.IGNORECASE)
_HEADING = re.compile(rf"^[ \t]*#{{1,6}}[ \t]*{_NUMBERED}.*$", re.MULTILINE | re.IGNORECASE)
_SAID = re.compile(r"\banswer\s+is\s*:?\s*(?=\S)([^:]*)\Z", re.IGNORECASE)
PROSE = re.compile(r"\W*[A-Za-z]{2,}\s+(?!\s*=)")  # "She has 18 eggs left.", "The largest $n$ is": no formula
_VERB = re.compile(
    r"(?<![\w\\$])(?:is|are|was|were|be|equals?)\b[ \t]*"
    r"(?:(?:equal to|exactly|only|just|simply|thus|therefore)\b)?[ \t:]*"
)
_NAMED = re.compile(r"[A-Za-z]")
_ASIDE = re.compile(r",\s*(?:which|so|because|since|where|as)\b.*\Z", re.DOTALL)
_SYMBOL = re.compile(r"[\d$\\]")
_COUNT = re.compile(r"(\d[\d,]{0,40})[ \t]+[a-z]{2,}[^\d=]*\Z")  # "6 values of $n$"
_ANNOTATION = re.compile(r"<<[^<>\n]*>>")  # GSM8K's calculator calls: 3 + 4 = <<3+4=7>>7
_STATED = re.compile(r"\banswer(?:\s+is\b|\s+would\s+be\b|\s*[:=])", re.IGNORECASE)
_SENTENCE = re.compile(r"[.!?][*)\"']{0,3}\s(?=\s*[A-Z*(])")
_DIGIT = re.compile(r"\d")
_NUMBERS = re.compile(
    r"(?<![\w^/:.,\\−-])[-−]?[$€£¥]?[-−]?(?:\d{1,3}(?:,\d{3}){1,9}|\d{1,40})(?:\.\d{1,40})?(?![\w^/:]|[.,]\d)(?: ?%)?"
)
_RESULT = re.compile(rf"(?<![<>!=])=[ ]?({_NUMBERS.pattern})")
_BOX_GAP = 70  # math-verify reads boxes up to this far apart as one answer ("$\boxed{3}$ and $\boxed{4}$")


def spoken(text: str) -> str:
    """What a completion says, its thought left out: behind the last ``</think>``, before a ``<think>`` without end."""
    start, end = 0, len(text)
    for match in _THOUGHT.finditer(text):
        if match[1] or match[2] or match[3]:
            start, end = match.end(), len(text)
        else:
            end = min(end, match.start())
    return text[start:end]


def tagged(text: str) -> str | None:
    """What stands in the last ``<answer>``, None where there is none; to the end of the text where none is closed.

    (A server that stops at ``</answer>`` leaves it out.)
    """
    opened, closed = None, None
    for match in _TAG.finditer(text):
        if not match[1]:
            opened = match.end()
        elif opened is not None:
            opened, closed = None, text[opened : match.start()]
    return text[opened:].strip() if closed is None and opened is not None else closed and closed.strip()


def locate(text: str) -> str | None:
    """The text of the last marked answer, None where nothing is marked. Linear in the length of the text.

    ``####`` is no mark where there is a box: then it is a heading.
    """
    start, found = -1, None
    body = text.rstrip()
    line_start = body.rfind("\n") + 1
    line = _LAST_LINE.fullmatch(body[line_start:].strip(" \t*"))
    boxes = _boxes(text)
    if line and not (boxes and line[0].startswith("#")):
        start, found = line_start, line[1]
    elif not boxes:
        for match in _HASHES.finditer(text):
            start, found = match.start(), match[1]
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


def predicate(marked: str) -> str:
    """Of a marked answer that is a sentence ("The largest $n$ is 34.") what it says: all behind its verb.

    Behind the last "is", "are", "equals" or the like with a digit or a formula behind it, up to ", which" or ", so". Of
    a count ("there are 6 values of $n$") the number. What is no sentence, or says nothing with a digit or a formula,
    stays as it is.
    """
    verbs = [
        m for m in _VERB.finditer(marked) if _NAMED.search(marked, 0, m.start()) and _SYMBOL.search(marked, m.end())
    ]
    if not verbs:
        return marked
    behind = _ASIDE.sub("", marked[verbs[-1].end() :])
    count = _COUNT.match(behind)
    return count[1] if count else behind


def unheaded(text: str) -> str:
    """``text`` without its numbered headings, whose numbers answer nothing."""
    return _HEADING.sub("", text)


def concluded(text: str) -> str | None:
    """The number that the closing sentence gives as the answer, None where it does not tell which one that is.

    For an answer that is a number, where nothing is marked. Of several numbers in the last sentence that has one it is
    the result of its own calculation ("3 + 4 = 7 DVDs"), else the one that repeats the last result before it ("... =
    50 miles. So she runs 50 miles in 7 hours."). Formulas, and what is said to be "the answer", are math-verify's.
    """
    text = _ANNOTATION.sub("", text.rstrip())
    line_start = text.rfind("\n") + 1
    if _STATED.search(text):
        return None
    places = [line_start, *(match.end() for match in _SENTENCE.finditer(text, line_start)), len(text)]
    spans = [(a, b) for a, b in pairwise(places) if _DIGIT.search(text, a, b)]
    if not spans or "\\" in (closing := text[slice(*spans[-1])]):
        return None
    numbers = [match[0] for match in _NUMBERS.finditer(closing)]
    if len(numbers) == 1 and not _DIGIT.search(_NUMBERS.sub("", closing)):
        return numbers[0]
    results = list(_RESULT.finditer(closing))
    if results and (_DIGIT.search(closing, 0, closing.index("=")) or not _DIGIT.search(closing, results[-1].end())):
        return results[-1][1]
    if not (before := _RESULT.findall(text, 0, spans[-1][0])):
        return None
    result = _amounts(before[-1])[0]
    return next((number for number in reversed(numbers) if result in _amounts(number)), None)


def _amounts(number: str) -> list[Decimal]:
    """What a number may stand for: its value; for a percentage the hundredth of it too."""
    value = Decimal(re.sub(r"[^0-9.-]", "", number.replace("−", "-")))
    return [value, value / 100] if number.endswith("%") else [value]


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
