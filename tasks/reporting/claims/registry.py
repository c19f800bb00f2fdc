"""Every claim, and their verdicts on a study."""

from __future__ import annotations

from tasks.reporting.claims.claim import Claim, ClaimResult, check
from tasks.reporting.claims.evidence import evidence_of
from tasks.reporting.claims.function_claims import FUNCTION_CLAIMS
from tasks.reporting.claims.geometry_claims import GEOMETRY_CLAIMS
from tasks.reporting.claims.open_questions import OPEN_QUESTIONS
from tasks.reporting.join import StudyTables

CLAIMS: tuple[Claim, ...] = (*GEOMETRY_CLAIMS, *FUNCTION_CLAIMS, *OPEN_QUESTIONS)


def claims_table(tables: StudyTables) -> list[ClaimResult]:
    """Every claim's verdict on a study, in the order of `CLAIMS`."""
    evidence = evidence_of(tables)
    return [check(claim, evidence) for claim in CLAIMS]
