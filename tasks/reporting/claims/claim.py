"""What a claim is, and what became of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from tasks.core.results import RunInfo
from tasks.reporting.claims.measured import NOT_MEASURED, Measured, Missing
from tasks.reporting.claims.rules import FAILS, HOLDS, NO_POWER, Rule
from tasks.reporting.views.study import Study

Part = Measured | Missing
Reading = Callable[[Study], Sequence[Part]]
"""The parts of a claim, read from a study; a claim of several pairs holds where it holds for every one."""
Measure = Callable[[Study, RunInfo, RunInfo], Part]
"""What a claim reads of two runs."""


def of_methods(study: Study, measure: Measure, a: str, b: str) -> Part:
    """``measure`` of the runs that stand for two methods; one of them may be "base"."""
    main = {**study.geometry.main, "base": study.base}
    absent = [name for name in (a, b) if name not in main]
    return Missing(f"no run of {' or '.join(absent)}") if absent else measure(study, main[a], main[b])


def between(measure: Measure, *names: tuple[str, str]) -> Reading:
    """A reading of pairs of methods, one by one."""

    def read(study: Study) -> list[Part]:
        parts = [of_methods(study, measure, a, b) for a, b in names]
        return [replace(part, parts=len(names)) if isinstance(part, Measured) else part for part in parts]

    return read


def among(found: Callable[[Study], Sequence[tuple[RunInfo, RunInfo]]], measure: Measure, none: str) -> Reading:
    """A reading of the pairs of runs that are ``found``; ``none``: why there may be no such pair."""
    return lambda study: [measure(study, a, b) for a, b in found(study)] or [Missing(none)]


@dataclass(frozen=True)
class Claim:
    """One statement of the paper. ``paper``: its numbers, none where it gives none; ``words``: how they read, where
    that is more than their range. Numbers are shown times ``scale`` with ``decimals``, in ``unit``."""

    id: str
    source: str
    statement: str
    paper: tuple[float, ...]
    read: Reading
    rule: Rule
    unit: str = ""
    decimals: int = 3
    scale: float = 1.0
    words: str = ""
    open: bool = False
    """Whether the paper asks (or should have asked) rather than says."""


@dataclass(frozen=True)
class ClaimResult:
    """A claim's verdict with the part that decided it: of those with the verdict, the one nearest to (or farthest
    beyond) the edge. ``measured`` is None only where the verdict is "not measured"."""

    claim: Claim
    verdict: str
    measured: Measured | None
    detail: str
    needs: str = ""
    """Of a claim without power: what would decide it."""


def check(claim: Claim, study: Study) -> ClaimResult:
    """A claim read from a study and judged."""
    return judged(claim, tuple(claim.read(study)))


def judged(claim: Claim, parts: Sequence[Part]) -> ClaimResult:
    """A claim of several parts does not hold where one part does not, whatever is missing; it holds where all do."""
    found = [(part, claim.rule.judge(part)) for part in parts if isinstance(part, Measured)]
    missing = list(dict.fromkeys(part.why for part in parts if isinstance(part, Missing)))
    known = {one.verdict for _, one in found}
    if FAILS in known:
        verdict = FAILS
    elif missing or not found:
        verdict = NOT_MEASURED
    else:
        verdict = NO_POWER if NO_POWER in known else HOLDS
    said = [_told(part, one.verdict if len(parts) > 1 else "", claim) for part, one in found]
    if verdict == NOT_MEASURED:
        return ClaimResult(claim, verdict, None, "; ".join([*(missing or ["nothing to read it from"]), *said]))
    deciding = [(one.slack, i) for i, (_, one) in enumerate(found) if one.verdict == verdict]
    part, one = found[min(deciding)[1]]
    return ClaimResult(claim, verdict, part, "; ".join([*said, *missing]), one.needs)


def _told(part: Measured, verdict: str, claim: Claim) -> str:
    value = f"{claim.scale * part.value:.{claim.decimals}f}"
    aside = ", ".join(word for word in (part.detail, verdict) if word)
    return f"{part.what} {value} ({aside})" if aside else f"{part.what} {value}"
