"""How numbers and lists read, the same in HTML, Markdown, the terminal and the figures."""

from __future__ import annotations

import math
from collections.abc import Sequence

NOT_MEASURED = "not measured"
"""What a missing value prints as: never 0, which would be a measurement."""

NOT_FINITE = "not finite"
"""What an infinite value prints as: it was measured, and there is no number to show."""

_LONG = 1e6
"""From here on a number with decimals is written as a power of ten: nobody counts thirty digits."""


_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(value: float | None, decimals: int) -> str:
    """``value`` with ``decimals`` places, or `NOT_MEASURED` for None and NaN; never a negative zero. A long one with
    decimals is a power of ten: ``'4.50×10¹²'``."""
    if value is None or math.isnan(value):
        return NOT_MEASURED
    if math.isinf(value):
        return NOT_FINITE
    if decimals and abs(value) >= _LONG:
        return significant(value)
    rounded = f"{float(value):.{decimals}f}"
    return rounded.removeprefix("-") if float(rounded) == 0 else rounded


def size(value: float | None, decimals: int) -> str:
    """`number`, but no size other than 0 prints as 0 or by its last digit alone: ``'2.680'``, ``'3.10×10⁻⁹'``."""
    small = value is not None and 0 < abs(value) < 10.0 ** (1 - decimals)
    return significant(value) if small else number(value, decimals)


def finite(value: float | None) -> float | None:
    """None for what JSON cannot hold."""
    return value if value is not None and math.isfinite(value) else None


def percent(share: float | None) -> str:
    """``0.632 -> '63.2'``; the unit stands in the column's header."""
    return number(None if share is None else 100 * share, 1)


def points(difference: float | None) -> str:
    """A difference of two shares in percentage points with its sign: ``0.042 -> '+4.2'``."""
    if difference is None or math.isnan(difference):
        return NOT_MEASURED
    rounded = round(100 * difference, 1)
    return f"{rounded:+.1f}" if rounded else "0.0"


def points_interval(low: float | None, high: float | None) -> str:
    """An interval of a difference in points, with a place more, so that it can be held against whole points:
    ``'[+0.15, +1.97]'``."""
    if low is None or high is None:
        return "no interval"
    ends = (number(100 * end, 2) for end in (low, high))
    return "[" + ", ".join(end if end.startswith("-") or not float(end) else f"+{end}" for end in ends) + "]"


def p_value(p: float | None) -> str:
    """Two digits where p is small, so that 0.049 and 0.051 stay apart; ``'0.0003'``, ``'2×10⁻⁹'``."""
    if p is None or math.isnan(p):
        return NOT_MEASURED
    if p < 1e-4:
        mantissa, exponent = f"{p:.0e}".split("e")
        return f"{mantissa}×10{str(int(exponent)).translate(_RAISED)}" if p > 0 else "0"
    return f"{p:.2f}" if p >= 0.1 else f"{p:.3f}" if p >= 1e-3 else f"{p:.4f}"


def significant(value: float | None, digits: int = 3) -> str:
    """Three significant digits, for measures that span orders of magnitude: ``'0.0123'``, ``'4.50×10⁻⁶'``."""
    if value is None or math.isnan(value):
        return NOT_MEASURED
    if math.isinf(value):
        return NOT_FINITE
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    if -4 <= int(exponent) < 5:
        return f"{float(f'{value:.{digits - 1}e}'):.{max(digits - 1 - int(exponent), 0)}f}"
    return f"{mantissa}×10{str(int(exponent)).translate(_RAISED)}"


def learning_rate(lr: float | None) -> str:
    """``0.001 -> '1e-3'``."""
    if lr is None:
        return "unknown"
    mantissa, exponent = f"{lr:.3e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def seconds(value: float | None) -> str:
    """Seconds as a person reads them: ``'0.4 s'``, ``'4 min 29 s'``."""
    if value is None or math.isnan(value):
        return "not recorded"
    if value < 99.5:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def listed(words: Sequence[str], last: str = "and") -> str:
    """``['a', 'b', 'c'] -> 'a, b and c'``."""
    return " ".join([", ".join(words[:-1]), last, words[-1]]) if len(words) > 1 else "".join(words)


_TITLES = {
    "heldout": "Held-out",
    "hard": "Hard",
    "gsm8k": "GSM8K",
    "math500": "MATH-500",
    "aime": "AIME",
    "aime2024": "AIME 2024",
    "aime2025": "AIME 2025",
    "aime2026": "AIME 2026",
}


def benchmark_name(benchmark: str) -> str:
    """A benchmark as it stands in a header; one without a title of its own keeps its name."""
    return _TITLES.get(benchmark, benchmark)


def in_sentence(benchmark: str) -> str:
    """A benchmark as it stands within a sentence, before "problems" or "set": only words are put in small letters."""
    name = benchmark_name(benchmark)
    return name.lower() if benchmark in ("heldout", "hard") else name


def span(values: Sequence[float | None], decimals: int) -> str:
    """Lowest to highest of the values that are known: ``'1.2'``, ``'1.2 to 1.8'``."""
    known = [value for value in values if value is not None and not math.isnan(value)]
    if not known:
        return NOT_MEASURED
    low, high = number(min(known), decimals), number(max(known), decimals)
    return low if low == high else f"{low} to {high}"
