"""What the paper says of paths, representations, accuracy, seeds, learning rates and on-policy training."""

from __future__ import annotations

from tasks.reporting.claims.accuracy_readings import accuracy, accuracy_hard
from tasks.reporting.claims.claim import Claim
from tasks.reporting.claims.function_readings import (
    against_direction,
    barrier,
    cka_fall,
    cka_last,
    cka_lowest,
    seed_barriers,
)
from tasks.reporting.claims.geometry_claims import ALL_METHODS, DFT, DPO, FIVE, FIVE_PAIRS, GRPO, RIFT, SFT, TABLE
from tasks.reporting.claims.pair_readings import pairs, rates, seeds, seeds_below_methods
from tasks.reporting.claims.rules import (
    Tolerances,
    above,
    apart,
    at_least,
    at_most,
    higher,
    near,
    same,
    within,
)
from tasks.reporting.claims.run_readings import depth_range

NATS = "nats/token"
ONLINE, DAPO = "online_grpo", "dapo"
"""Methods that train on their own samples; DAPO by the name that a study with it would use."""


def function_claims(t: Tolerances) -> tuple[Claim, ...]:
    """The claims, each with the range in which it holds at these tolerances."""
    return (
        Claim(
            "path-offline-grpo-rift", f"{TABLE}, LMC", "From Offline GRPO to RIFT the boxed answer's loss only falls.",
            (0.0,), against_direction(GRPO, RIFT, -1), at_most(t.likeness), "of the way", 2,
            words="4.93 to 2.25, monotone",
        ),
        Claim(
            "path-sft-offline-grpo", f"{TABLE}, LMC", "From SFT to Offline GRPO the boxed answer's loss only rises.",
            (0.0,), against_direction(SFT, GRPO, 1), at_most(t.likeness), "of the way", 2,
            words="2.06 to 4.93, monotone",
        ),
        Claim(
            "path-rift-dpo", f"{TABLE}, LMC", "There is a barrier between RIFT and DPO.",
            (3.82, 7.06, 8.64), barrier(RIFT, DPO), at_least(t.negligible), NATS, 4,
            words="losses 3.82, 7.06 and 8.64 above a = 0.5",
        ),
        Claim(
            "cka-sft-rift", f"{TABLE}, CKA", "SFT and RIFT have the same hidden states at every layer.",
            (0.99,), cka_lowest(SFT, RIFT), at_least(0.99), words="above 0.99",
        ),
        Claim(
            "cka-offline-grpo", f"{TABLE}, CKA",
            "Offline GRPO's last hidden states differ somewhat from SFT's and RIFT's.",
            (0.85,), cka_last((SFT, GRPO), (RIFT, GRPO)), within(*t.around(0.85)),
        ),
        Claim(
            "cka-dpo-falls", f"{TABLE}, CKA", "CKA of DPO with Offline GRPO and with DFT falls in the last third.",
            (0.93 - 0.45,), cka_fall((GRPO, DPO), (DFT, DPO)), above(),
            words="0.93 falling to 0.45 from layer 25 of 36",
        ),
        Claim(
            "lens-depth", f"{TABLE}, logit lens", "The methods do not differ in logit-lens depth.",
            (), depth_range(*ALL_METHODS), at_most(t.depth), "of the layers", words="no difference",
        ),
        Claim(
            "accuracy-five-equal", f"{TABLE}, accuracy", "The five imitation methods do not differ in accuracy.",
            (0.873, 0.882), accuracy(*FIVE_PAIRS), same(t.points), "points", 1, 100.0,
            "87.3 to 88.2 %, p at least 0.15",
        ),
        Claim(
            "accuracy-dpo-higher", f"{TABLE}, accuracy", "DPO is more accurate than each of the five.",
            (0.935,), accuracy(*((DPO, name) for name in FIVE)), higher(t.points), "points", 1, 100.0,
            "93.5 against 87.3 to 88.2 %, p < 1e-9",
        ),
        Claim(
            "accuracy-aime", f"{TABLE}, accuracy", "On AIME 2026 DPO is more accurate than each of the five.",
            (0.3,), accuracy_hard(*((DPO, name) for name in FIVE)), higher(t.points), "points", 1, 100.0,
            "30.0 against 3.3 to 10.0 %, n = 30, p = 0.07 against SFT",
        ),
        Claim(
            "seeds-cosine", f"{TABLE}, seeds", "One method at two seeds moves the weights in different directions.",
            (0.07, 0.36), seeds("cosine"), apart(*t.around(0.07, 0.36)),
        ),
        Claim(
            "seeds-below-methods", f"{TABLE}, seeds",
            "Two methods at one seed are nearer than one method at two seeds.",
            (0.64, 0.93), seeds_below_methods, above(), words="0.996 against 0.07 to 0.36",
        ),
        Claim(
            "seeds-u1", f"{TABLE}, seeds", "At two seeds the first output direction is the same.",
            (0.99,), seeds("u1_overlap"), near(0.99 - t.likeness),
        ),
        Claim(
            "seeds-v1", f"{TABLE}, seeds", "At two seeds the first input direction is another one.",
            (0.07,), seeds("v1_overlap"), apart(*t.around(0.07)),
        ),
        Claim(
            "seeds-no-barrier", f"{TABLE}, seeds", "There is no barrier between two seeds.",
            (0.004,), seed_barriers, at_most(t.negligible), NATS, 4, words="+0.004 at the midpoint",
        ),
        Claim(
            "lr-rotates", f"{TABLE}, learning rate", "Ten times the learning rate rotates the update.",
            (0.55,), rates("cosine"), within(*t.around(0.55)),
        ),
        Claim(
            "lr-norm", f"{TABLE}, learning rate", "Ten times the learning rate makes the update three times as large.",
            (3.0,), rates("norm_ratio"), within(3 / t.factor, 3 * t.factor), "times", 2,
        ),
        Claim(
            "online-cosine", f"{TABLE}, on-policy", "Online GRPO is orthogonal to SFT.",
            (0.025,), pairs("cosine", (ONLINE, SFT)), apart(*t.around(0.025)),
        ),
        Claim(
            "online-orthogonal", f"{TABLE}, on-policy",
            "Nearly all of online GRPO's update lies outside SFT's direction.",
            (0.998,), pairs("orthogonal_fraction", (ONLINE, SFT)), apart(0.998 - t.likeness, 1.0, distance=True),
        ),
        Claim(
            "online-norm", f"{TABLE}, on-policy", "Online GRPO's update is a tenth of SFT's.",
            (0.30 / 2.84,), pairs("norm_ratio", (ONLINE, SFT)),
            within(0.30 / 2.84 / t.factor, 0.30 / 2.84 * t.factor), "times",
        ),
        Claim(
            "online-dapo", f"{TABLE}, on-policy", "Online GRPO-DAPO points slightly against SFT.",
            (-0.16,), pairs("cosine", (DAPO, SFT)), apart(*t.around(-0.16)),
        ),
    )  # fmt: skip
