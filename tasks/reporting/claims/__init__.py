"""The paper's claims, each checked against a study: `claims_table` gives the verdicts, the rest how they are shown.

To add a claim: one entry in `geometry_claims`, `function_claims` or `open_questions`, with a reading (``*_readings``)
and one of the rules of `rules`.
"""

from tasks.reporting.claims.claim import Claim, ClaimResult
from tasks.reporting.claims.output import claims_json, claims_sentence, claims_tables, sensitivity_table
from tasks.reporting.claims.registry import CLAIMS, Sensitivity, Verdicts, claims_table, verdicts

__all__ = [
    "CLAIMS",
    "Claim",
    "ClaimResult",
    "Sensitivity",
    "Verdicts",
    "claims_json",
    "claims_sentence",
    "claims_table",
    "claims_tables",
    "sensitivity_table",
    "verdicts",
]
