"""The text of an answer without its decoration: what is compared. Pure string rules, each with a reason.

Only what math-verify 0.9.0 does not read, or reads as another value, is rewritten; ``docs/grading.md`` lists the rules.
"""

from __future__ import annotations

import re
from decimal import Context, Decimal

from tasks.grading.locate import MAX_FORMULA

NUMBER = re.compile(r"-?(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)")
INTEGER = re.compile(r"-?[0-9]{1,15}")

_THIN = r"(?:\\[,; ]|[ ~\u2009\u202f\u00a0])"  # spaces that people put between groups of three digits
_AMOUNT = re.compile(
    r"(?P<sign>[-−]?)\s*(?:\\?\$|[€£¥])?\s*(?P<minus>[-−]?)"
    rf"(?P<number>[1-9][0-9]{{0,2}}(?:(?:,[0-9]{{3}})+|(?:{_THIN}[0-9]{{3}})+)(?:\.[0-9]+)?"
    r"|[0-9]+(?:\.[0-9]+)?|\.[0-9]+)"
    r"\s*\$?(?P<percent>\\?%)?(?P<unit>(?:\s+[A-Za-z]{2,}){1,4}|\s+[A-Za-z]+/[A-Za-z]+)?"
)
_CLOCK = re.compile(r"([0-9]{1,2})(?::00)?(?:\\[,; ]|[\s~])*(?:[ap]\.?m\.?|o'clock)", re.IGNORECASE)
_NO_UNIT = re.compile(  # words that change the value of the number in front of them
    r"\b(?:hundred|thousand|million|billion|trillion|dozen|half|halves|thirds?|fourths|fifths?|sixths?|sevenths?|"
    r"eighths?|ninths?|tenths?|hundredths?|thousandths?|pi|sqrt|and|or|to|plus|minus|times|over|mod|base|squared|cubed|"
    r"percent|pct|more|less)\b",
    re.IGNORECASE,
)
_MATH = re.compile(r"\$([^$]+)\$|\\\(([^\\]+)\\\)|\\\[([^\\]+)\\\]")
_TEXT = re.compile(r"\\(?:text(?:bf|it|rm|sf|normal)?|mathrm|emph|[mh]box)\s*\{([^{}]*)\}")
_STYLE = re.compile(  # what changes how a formula looks, not what it says
    r"\\(?:(?:text)?color\s*\{[^{}]*\}|underline|bold(?:symbol)?|bm|math(?:bf|it|sf|tt)|ensuremath)\s*(\{)"
    r"|\\color\s*\{[^{}]*\}\s*"
    r"|\\(?:displaystyle|textstyle|normalsize|small|large|Large|LARGE|huge|Huge|bf|it|rm|sf)(?![A-Za-z])\s*"
)
_CONSTANT = re.compile(r"(\\[A-Za-z]+)?\s*\\(?:math(?:rm|it|sf)|text|textrm|operatorname|rm)\s*\{\s*([ie])\s*\}")
_IMAGINARY = re.compile(r"(?<=[0-9])i(?![A-Za-z])")
_POWER = re.compile(
    r"(?<![A-Za-z0-9_.\\])([0-9]+(?:\.[0-9]*)?|\.[0-9]+)[eE]([-+−]?)([0-9]{1,9})(?![A-Za-z0-9]|\.[0-9])"
)
_MOST_PLACES = 400
"""Digits that a power of ten may become; more are written as a power."""
_AGAIN = re.compile(  # a repeating decimal: its integer part, the digits that do not repeat, those that do
    r"(?<![0-9.])([0-9]*)\.([0-9]*?)(?:\\(?:overline|bar)\s*\{([0-9]+)\}|\\dot\s*\{?([0-9])\}?|\(([0-9]+)\)"
    r"|([0-9])\6{2,}\s*(?:\.{3}|…|\\[lc]?dots\b))(?![0-9])"
)
_SIDES = re.compile(r"(.*[^<>!=\s]\s*=)\s*([^=]+)", re.DOTALL)
_COMMA = re.compile(r",\s*(?=[-+−.0-9])")
_SEPARATOR = re.compile(r"(?<=[0-9])(?:,\\!|\{,\})(?=[0-9]{3})")
_MIXED = re.compile(r"([-−]?)\s*([0-9]{1,9})\s+([0-9]{1,9})\s*/\s*([0-9]{1,9})")
_ROOT = re.compile(r"√\s*([0-9]+|[A-Za-z])")
_SYMBOLS = str.maketrans(
    {"°": r"^\circ", "∞": r"\infty ", "∅": r"\emptyset ", "Ø": r"\emptyset ", "½": r"\frac{1}{2}",
     "⅓": r"\frac{1}{3}", "⅔": r"\frac{2}{3}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}"}
)  # fmt: skip
_BETWEEN = re.compile(r",\s|;|\b(?:and|or)\b")
_THOUSANDS = re.compile(r"(?<![0-9.,])[1-9][0-9]{0,2}(?:,[0-9]{3})+(?![0-9]|,[0-9])")
_BRACE = re.compile(r"\\[{}]|[{}]")
_LETTER = re.compile(r"\(?([A-J])(?:\)?[.:]?|\))")
_LETTERED = re.compile(r"(?:\(([A-J])\)|([A-J])[.):])\s+((?:\w|\$|[-+−.]?[0-9]|\\(?:d?frac|sqrt|text)).*)", re.DOTALL)
_CAPITALISED = re.compile(r"[A-Z][a-z]{2,}")
_WIDE = Context(prec=1000)
_EDGES = re.compile(r"\\begin\{|\\end\{|\\left(?![a-z])|\\right(?![a-z])|\\[{}\\]|[{}]")


def tidy(text: str, *, units: bool, lists: bool = False) -> str:
    """``text`` without decoration; an amount of money or a number with separators as a bare number.

    ``units``: words behind a number may go as well ("72 dollars"). ``lists``: a comma stands between two answers
    (`several`), as in ``81,256`` for ``81, 256``, and separates no thousands.
    """
    text = text[: MAX_FORMULA + 1].strip().strip("*").strip()
    if INTEGER.fullmatch(text):
        return str(int(text))  # most answers: nothing of what follows is in them
    if math := _MATH.fullmatch(text):
        text = next(group for group in math.groups() if group is not None).strip()
    text = _AGAIN.sub(_repeating, _unstyled(text))
    text = text.rstrip(".,").rstrip() or text
    text = _SEPARATOR.sub("", text)
    text = _ROOT.sub(r"\\sqrt{\1}", text.translate(_SYMBOLS)).replace("{:}", ":").replace("varnothing", "emptyset")
    text = powers(text)
    text = _IMAGINARY.sub(" i", _CONSTANT.sub(lambda m: f"{m[1]} {m[2]}" if m[1] else m[2], text))
    if lists:
        return _apart(text)
    if (sides := _SIDES.fullmatch(text)) and (number := _number(sides[2], units)):
        return sides[1] + number
    return _number(text, units) or text


def _number(text: str, units: bool) -> str | None:
    """``text`` as a bare number, None where it is none."""
    plain = _TEXT.sub(r" \1", text).replace("{,}", ",").replace(r"\!", "").strip()
    if mixed := _MIXED.fullmatch(plain):  # math-verify multiplies: 1 1/2 would be 1/2
        minus, whole, above, below = mixed.groups()
        return f"{'-' if minus else ''}{whole}\\frac{{{above}}}{{{below}}}"
    if units and (clock := _CLOCK.fullmatch(plain)):
        return str(int(clock[1]))
    amount = _AMOUNT.fullmatch(plain.replace("~", " "))
    if amount is None or (amount["sign"] and amount["minus"]):
        return None
    if amount["unit"] and (not units or _NO_UNIT.search(amount["unit"])):
        return None
    number = ("-" if amount["sign"] or amount["minus"] else "") + re.sub(r"[^0-9.]", "", amount["number"])
    if INTEGER.fullmatch(number):
        number = str(int(number))  # 007 -> 7, -0 -> 0
    return number + (r"\%" if amount["percent"] else "")


def several(text: str) -> bool:
    """Whether a comma in ``text`` separates answers: ``81, 256`` or ``1,2,3``, but not ``1,234``."""
    return "," in text and _COMMA.search(tidy(text, units=True)) is not None


def _apart(text: str) -> str:
    """Numbers of a list without separators of thousands; a comma separates those where nothing else parts the list."""
    if _BETWEEN.search(text):
        return _THOUSANDS.sub(lambda number: number[0].replace(",", ""), text)
    return _COMMA.sub(", ", text)


def powers(text: str) -> str:
    """``text`` with its computer's powers of ten written out: ``1e-05`` is 0.00001, not e - 5."""
    return _POWER.sub(_positional, text)


def _positional(power: re.Match[str]) -> str:
    exponent = int(power[3]) * (-1 if power[2] in ("-", "−") else 1)
    if exponent and abs(exponent) + len(power[1]) > _MOST_PLACES:
        return rf"{power[1]}\times10^{{{exponent}}}"
    return format(Decimal(power[1]).scaleb(exponent, _WIDE), "f")


def _repeating(decimal: re.Match[str]) -> str:
    """``0.1\\overline{6}`` as the fraction that it is: (16 - 1) / 90."""
    whole, first, again = decimal[1] or "0", decimal[2], decimal[3] or decimal[4] or decimal[5] or decimal[6]
    nines = "9" * len(again) + "0" * len(first)
    return rf"\frac{{{int(whole + first + again) - int(whole + first)}}}{{{nines}}}"


def _unstyled(text: str) -> str:
    """``text`` without colours, underlines, bold letters and sizes; their arguments stay."""
    place = 0
    while style := _STYLE.search(text, place):
        place = style.start()
        if style[1] and (end := _closing(text, style.end())) is not None:
            text = text[:place] + text[style.end() : end] + text[end + 1 :]
        else:  # no argument, or a cut one
            text = text[:place] + text[style.end() - len(style[1] or "") :]
    if text.startswith("{") and _closing(text, 1) == len(text) - 1 and "," not in text:
        text = text[1:-1]
    return text.strip()


def _closing(text: str, start: int) -> int | None:
    """Where the brace is closed that was opened before ``start``."""
    depth = 1
    for match in _BRACE.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if not depth:
            return match.start()
    return None


def choices(answer: str, gold: str) -> tuple[str, str]:
    """Answer and gold by what they have in common where one carries the letter of a choice: ``C. 5`` is C, and is 5."""
    (a, said), (b, meant) = _choice(answer), _choice(gold)
    if a and b:
        return a, b
    return (said if a and said else answer), (meant if b and meant else gold)


def _choice(text: str) -> tuple[str | None, str | None]:
    """The letter of a choice and what stands behind it."""
    plain = _TEXT.sub(r"\1 ", text).strip()
    if match := _LETTER.fullmatch(plain):
        return match[1], None
    if match := _LETTERED.fullmatch(plain):
        return match[1] or match[2], match[3]
    return None, None


def same_text(answer: str, gold: str) -> bool:
    r"""Whether both are the same characters but for ``\text{}``, the amount of white space, and words' first capitals.

    Such an answer is right whatever a parser makes of it: a date, a name, a sentence. Other case counts: x is not X.
    """
    return bool(gold) and list(map(_small, _words(answer))) == list(map(_small, _words(gold)))


def _small(word: str) -> str:
    """A word in small letters where its capitals say nothing: True, Yes, TRUE; not ABC, X, Ab."""
    known = word.lower() in ("true", "false", "yes", "no", "none")
    return word.lower() if known or _CAPITALISED.fullmatch(word) else word


def balanced(text: str) -> bool:
    r"""Whether braces, ``\begin``/``\end`` and ``\left``/``\right`` pair up; where not, the formula was cut."""
    depth = {"{": 0, "b": 0, "l": 0}
    for match in _EDGES.finditer(text):
        token = match[0]
        if token.startswith("\\begin") or token.startswith("\\end"):
            depth["b"] += 1 if token[1] == "b" else -1
            depth["{"] += 1
        elif token in ("\\left", "\\right"):
            depth["l"] += 1 if token == "\\left" else -1
        elif len(token) == 1:
            depth["{"] += 1 if token == "{" else -1
        if min(depth.values()) < 0:
            return False
    return not any(depth.values())


def _words(text: str) -> list[str]:
    return _TEXT.sub(r" \1 ", text).split()
