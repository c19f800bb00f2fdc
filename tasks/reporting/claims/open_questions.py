"""What the paper leaves open, or says without a comparison that it takes: asked of every study."""

from __future__ import annotations

from tasks.reporting.claims.accuracy_readings import accuracy, matched_accuracy
from tasks.reporting.claims.before_readings import order_before_training
from tasks.reporting.claims.claim import Claim
from tasks.reporting.claims.function_claims import NATS
from tasks.reporting.claims.function_readings import barrier
from tasks.reporting.claims.geometry_claims import CLUSTER, DPO, FIVE, RIFT
from tasks.reporting.claims.pair_readings import matched_dpo, pairs
from tasks.reporting.claims.rules import Tolerances, apart, at_floor, at_least, lower, ordered, same

SOURCE = "What the paper leaves open"
_BASE = "base 93 to 94 %, DPO 93.5 %, the five 87.3 to 88.2 %"


def open_questions(t: Tolerances) -> tuple[Claim, ...]:
    """The questions, each with the range in which the answer is yes at these tolerances."""
    return (
        Claim(
            "open-base-dpo", SOURCE, "DPO stays at the base's accuracy.",
            (0.935,), accuracy((DPO, "base")), same(t.points), "points", 1, 100.0, _BASE, open=True,
        ),
        Claim(
            "open-base-five", SOURCE, "Each of the five imitation methods loses accuracy against the base.",
            (0.873, 0.882), accuracy(*((name, "base") for name in FIVE)), lower(t.points), "points", 1, 100.0,
            _BASE, open=True,
        ),
        Claim(
            "open-dpo-rate-cosine", SOURCE, "At SFT's learning rate DPO is still nearly orthogonal to SFT.",
            (), matched_dpo("cosine"), apart(*t.around(0.057, 0.065)), words="future work", open=True,
        ),
        Claim(
            "open-dpo-rate-accuracy", SOURCE, "At SFT's learning rate DPO still stays at the base's accuracy.",
            (), matched_accuracy, same(t.points), "points", 1, 100.0, "future work", open=True,
        ),
        Claim(
            "open-path-matched", SOURCE, "The barrier between RIFT and DPO is there when both updates have one norm.",
            (), barrier(RIFT, DPO, matched=True), at_least(t.negligible), NATS, 4, words="not measured", open=True,
        ),
        Claim(
            "open-path-solution", SOURCE,
            "The barrier between RIFT and DPO is there in the loss of the whole solution.",
            (), barrier(RIFT, DPO, "solution"), at_least(t.negligible), NATS, 4, words="not measured", open=True,
        ),
        Claim(
            "open-noise-floor", SOURCE, "SFT, RFT and RIFT are as near to each other as one method in two data orders.",
            (), pairs("cosine", *CLUSTER), at_floor(), words="no noise floor", open=True,
        ),
        Claim(
            "open-gradient-order", SOURCE, 
            "The order of the methods, by their cosine to SFT, is there before the first step.",
            (), order_before_training, ordered(), decimals=2, words="not asked", open=True,
        ),
    )  # fmt: skip
