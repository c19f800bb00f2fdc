"""Every claim, their verdicts on a study, and how far these hang on the tolerances."""

from __future__ import annotations

from dataclasses import dataclass, fields

from tasks.reporting.claims.claim import Claim, ClaimResult, Part, judged
from tasks.reporting.claims.evidence import evidence_of
from tasks.reporting.claims.function_claims import function_claims
from tasks.reporting.claims.geometry_claims import geometry_claims
from tasks.reporting.claims.measured import NOT_MEASURED
from tasks.reporting.claims.open_questions import open_questions
from tasks.reporting.claims.rules import TOLERANCES, Tolerances
from tasks.reporting.views.join import StudyTables


def claims_at(tolerances: Tolerances) -> tuple[Claim, ...]:
    """Every claim and open question, with the ranges that these tolerances give."""
    return (*geometry_claims(tolerances), *function_claims(tolerances), *open_questions(tolerances))


CLAIMS: tuple[Claim, ...] = claims_at(TOLERANCES)

HALF, TWICE = 0.5, 2.0


@dataclass(frozen=True)
class Sensitivity:
    """Which verdicts are others when one tolerance is halved or doubled: claim -> its verdict then.

    ``size``: the tolerance; ``half`` and ``twice``: what it then is (of a factor its root and its square).
    """

    tolerance: str
    size: float
    half: tuple[float, dict[str, str]]
    twice: tuple[float, dict[str, str]]


@dataclass(frozen=True)
class Verdicts:
    """What became of every claim, in the order of `CLAIMS`, and how far that hangs on each tolerance."""

    results: tuple[ClaimResult, ...]
    sensitivity: tuple[Sensitivity, ...]


def claims_table(tables: StudyTables) -> list[ClaimResult]:
    """Every claim's verdict on a study, in the order of `CLAIMS`."""
    return list(verdicts(tables).results)


def verdicts(tables: StudyTables) -> Verdicts:
    """Every claim's verdict, and each tolerance's share in it. A claim is read once and judged by each rule."""
    evidence = evidence_of(tables)
    parts = {claim.id: tuple(claim.read(evidence)) for claim in CLAIMS}
    results = tuple(judged(claim, parts[claim.id]) for claim in CLAIMS)
    found = {result.claim.id: result.verdict for result in results}

    def changed(name: str, times: float) -> tuple[float, dict[str, str]]:
        tolerances = TOLERANCES.changed(name, times)
        return getattr(tolerances, name), _other(found, _verdicts(claims_at(tolerances), parts))

    sensitivity = tuple(
        Sensitivity(field.name, getattr(TOLERANCES, field.name), changed(field.name, HALF), changed(field.name, TWICE))
        for field in fields(TOLERANCES)
    )
    return Verdicts(results, sensitivity)


def _verdicts(claims: tuple[Claim, ...], parts: dict[str, tuple[Part, ...]]) -> dict[str, str]:
    return {claim.id: judged(claim, parts[claim.id]).verdict for claim in claims}


def _other(found: dict[str, str], then: dict[str, str]) -> dict[str, str]:
    return {id: verdict for id, verdict in then.items() if verdict != found[id] and verdict != NOT_MEASURED}
