"""The text of an answer without its decoration: what is compared. Pure string rules, each with a reason.

Only what math-verify 0.9.0 does not read, or reads as another value, is rewritten; ``docs/grading.md`` lists the rules.
"""

from __future__ import annotations

import re

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
_NO_UNIT = re.compile(  # words that change the value of the number in front of them
    r"\b(?:hundred|thousand|million|billion|trillion|dozen|half|halves|thirds?|fourths|fifths?|sixths?|sevenths?|"
    r"eighths?|ninths?|tenths?|hundredths?|thousandths?|pi|sqrt|and|or|to|plus|minus|times|over|mod|base|squared|cubed|"
    r"percent|pct|more|less)\b",
    re.IGNORECASE,
)
_MATH = re.compile(r"\$([^$]+)\$|\\\(([^\\]+)\\\)|\\\[([^\\]+)\\\]")
_TEXT = re.compile(r"\\(?:text|mathrm|textbf)\s*\{([^{}]*)\}")
_SEPARATOR = re.compile(r"(?<=[0-9])(?:,\\!|\{,\})(?=[0-9]{3})")
_MIXED = re.compile(r"([-−]?)\s*([0-9]{1,9})\s+([0-9]{1,9})\s*/\s*([0-9]{1,9})")
_ROOT = re.compile(r"√\s*([0-9]+|[A-Za-z])")
_SYMBOLS = str.maketrans(
    {"°": r"^\circ", "∞": r"\infty ", "½": r"\frac{1}{2}", "⅓": r"\frac{1}{3}", "⅔": r"\frac{2}{3}",
     "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}"}
)  # fmt: skip
_EDGES = re.compile(r"\\begin\{|\\end\{|\\left(?![a-z])|\\right(?![a-z])|\\[{}\\]|[{}]")


def tidy(text: str, *, units: bool) -> str:
    """``text`` without decoration; an amount of money or a number with separators as a bare number.

    ``units``: words behind a number may go as well ("72 dollars").
    """
    text = text[: MAX_FORMULA + 1].strip().strip("*").strip()
    if math := _MATH.fullmatch(text):
        text = next(group for group in math.groups() if group is not None).strip()
    text = text.rstrip(".,").rstrip() or text
    text = _SEPARATOR.sub("", text)
    text = _ROOT.sub(r"\\sqrt{\1}", text.translate(_SYMBOLS)).replace("{:}", ":")
    plain = _TEXT.sub(r" \1", text).replace("{,}", ",").replace(r"\!", "").strip()
    if mixed := _MIXED.fullmatch(plain):  # math-verify multiplies: 1 1/2 would be 1/2
        minus, whole, above, below = mixed.groups()
        return f"{'-' if minus else ''}{whole}\\frac{{{above}}}{{{below}}}"
    amount = _AMOUNT.fullmatch(plain.replace("~", " "))
    if amount is None or (amount["sign"] and amount["minus"]):
        return text
    if amount["unit"] and (not units or _NO_UNIT.search(amount["unit"])):
        return text
    number = ("-" if amount["sign"] or amount["minus"] else "") + re.sub(r"[^0-9.]", "", amount["number"])
    if INTEGER.fullmatch(number):
        number = str(int(number))  # 007 -> 7, -0 -> 0
    return number + (r"\%" if amount["percent"] else "")


def same_text(answer: str, gold: str) -> bool:
    r"""Whether both are the same characters but for ``\text{}`` and the amount of white space.

    Such an answer is right whatever a parser makes of it: a date, a name, a sentence. Case counts: x is not X.
    """
    return bool(gold) and _words(answer) == _words(gold)


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
