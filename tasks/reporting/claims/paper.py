"""What the paper (arXiv 2606.23740) says, claim by claim, and what became of each in a study.

To add a claim: one entry here, with a reading (`pair_readings`, `readings`) and one of the rules of `rules`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from itertools import product

from tasks.reporting.claims.before_readings import order_before_training
from tasks.reporting.claims.claim import Claim, ClaimResult, Part, Reading, judged
from tasks.reporting.claims.measured import NOT_MEASURED
from tasks.reporting.claims.pair_readings import (
    LEADING,
    Names,
    matched_dpo,
    order,
    overlap_gap,
    pairs,
    rates,
    seeds,
    seeds_below_methods,
)
from tasks.reporting.claims.readings import (
    accuracy,
    accuracy_hard,
    against_direction,
    barrier,
    cka_fall,
    cka_last,
    cka_lowest,
    depth_range,
    later_third,
    matched_accuracy,
    rank_above,
    rank_range,
    seed_barriers,
)
from tasks.reporting.claims.rules import (
    TOLERANCES,
    Rule,
    Tolerances,
    above,
    above_chance,
    apart,
    at_floor,
    at_least,
    at_most,
    higher,
    lower,
    near,
    ordered,
    same,
    within,
)
from tasks.reporting.views.study import Study

SFT, RFT, RIFT, GRPO, DFT, DPO = "sft", "rft", "rift", "offline_grpo", "dft", "dpo"
NAMES = {SFT: "SFT", RFT: "RFT", RIFT: "RIFT", GRPO: "Offline GRPO", DFT: "DFT", DPO: "DPO"}
CLUSTER = ((SFT, RFT), (SFT, RIFT), (RFT, RIFT))
TO_DPO = ((SFT, DPO), (RFT, DPO), (RIFT, DPO))

TABLE = "Reported numbers"


def _slug(pair: Names) -> str:
    return "-".join(name.replace("_", "-") for name in pair)


def _title(pair: Names) -> str:
    return f"{NAMES[pair[0]]} and {NAMES[pair[1]]}"


def _cosine(pair: Names, paper: float, rule: Rule, says: str) -> Claim:
    return Claim(
        f"cosine-{_slug(pair)}", f"{TABLE}, global cosine", f"{_title(pair)} {says} (cosine about {paper:g}).",
        (paper,), pairs("cosine", pair), rule,
    )  # fmt: skip


def _worst(pair: Names, paper: float, rule: Rule, says: str) -> Claim:
    return Claim(
        f"angle-worst-{_slug(pair)}", f"{TABLE}, median worst of top-10",
        f"{_title(pair)}: the worst angle of their leading left subspaces {says}.",
        (paper,), pairs("angle_left", pair, k=LEADING), rule, "degrees", 1,
    )  # fmt: skip


def _first(pair: Names, paper: float, degrees: float) -> Claim:
    # The paper's top-1 is the smallest of the ten angles between two ten-dimensional subspaces: for SFT and DPO half of
    # the modules lie below 54.6 degrees, cosine .58, which would make the mean |u1 u1'| at least .29, not .11, were it
    # the angle of the first vectors.
    return Claim(
        f"angle-first-{_slug(pair)}", f"{TABLE}, median top-1 angle",
        f"{_title(pair)}: the smallest angle of their leading left subspaces is at most about {paper:g} degrees.",
        (paper,), pairs("angle_min_left", pair, k=LEADING), near(paper + degrees, 1, distance=True), "degrees", 1,
    )  # fmt: skip


def _overlap(side: str, name: str, names: tuple[Names, ...], paper: tuple[float, ...], rule: Rule, says: str) -> Claim:
    return Claim(
        f"{side}-{name}", f"{TABLE}, mean abs {side} overlap", says, paper, pairs(f"{side}_overlap", *names), rule
    )  # fmt: skip


def _ratio(name: str, says: str, paper: tuple[float, ...], read: Reading, rule: Rule) -> Claim:
    return Claim(f"norm-{name}", f"{TABLE}, norms", says, paper, read, rule, "times", 2)


ALL_METHODS = tuple(NAMES)
FIVE = (SFT, RFT, RIFT, GRPO, DFT)
FIVE_PAIRS = tuple((a, b) for a, b in product(FIVE, FIVE) if FIVE.index(a) < FIVE.index(b))


def geometry_claims(t: Tolerances) -> tuple[Claim, ...]:
    """The claims, each with the range in which it holds at these tolerances."""
    return (
        *(
            _cosine(pair, paper, near(paper - t.likeness), "move the weights the same way")
            for pair, paper in zip(CLUSTER, (0.977, 0.967, 0.969), strict=True)
        ),
        *(
            _cosine(pair, paper, apart(*t.around(paper)), "move the weights partly the same way")
            for pair, paper in (((SFT, GRPO), 0.74), ((SFT, DFT), 0.572), ((RIFT, DFT), 0.536))
        ),
        Claim(
            "cosine-sft-dpo", f"{TABLE}, global cosine",
            "SFT and DPO move the weights in nearly orthogonal directions.",
            (0.057, 0.065), pairs("cosine", (SFT, DPO)), apart(*t.around(0.057, 0.065)),
        ),
        Claim(
            "cosine-cluster-dpo", f"{TABLE}, global cosine", "All of SFT, RFT and RIFT are nearly orthogonal to DPO.",
            (0.057, 0.065), pairs("cosine", *TO_DPO), apart(*t.around(0.057, 0.065)),
        ),
        Claim(
            "cosine-order", f"{TABLE}, global cosine",
            "Nearest to SFT are RFT and RIFT, then Offline GRPO, then DFT, then DPO.",
            (0.977, 0.967, 0.74, 0.572, 0.06),
            order("cosine", [(SFT, RFT), (SFT, RIFT)], [(SFT, GRPO)], [(SFT, DFT)], [(SFT, DPO)]),
            above(), words="0.977, 0.967 > 0.74 > 0.572 > 0.06",
        ),
        *(_first(pair, paper, t.degrees) for pair, paper in (
            ((SFT, RFT), 6.7), ((SFT, RIFT), 8.2), ((SFT, GRPO), 18.5), ((SFT, DFT), 26.7), ((SFT, DPO), 54.6),
        )),
        *(
            _worst(pair, paper, near(paper + t.degrees, 1, distance=True), "stays moderate")
            for pair, paper in (((SFT, RFT), 36.0), ((SFT, RIFT), 40.0))
        ),
        *(
            _worst(
                pair, paper, apart(paper - t.degrees, min(paper + t.degrees, 90.0), 1, distance=True),
                "is nearly right",
            )
            for pair, paper in (((SFT, GRPO), 76.0), ((SFT, DFT), 85.0), ((SFT, DPO), 90.0))
        ),
        _overlap("u1", "cluster", CLUSTER, (0.97, 0.98), near(0.97 - t.likeness),
                 "SFT, RFT and RIFT have the same first output direction."),
        _overlap("u1", "offline-grpo", ((SFT, GRPO),), (0.78, 0.80), apart(*t.around(0.78, 0.80)),
                 "Offline GRPO keeps most of SFT's first output direction."),
        _overlap("u1", "dft", ((SFT, DFT),), (0.64, 0.67), apart(*t.around(0.64, 0.67)),
                 "DFT keeps part of SFT's first output direction."),
        _overlap("u1", "dpo", ((SFT, DPO),), (0.11,), apart(*t.around(0.11)),
                 "DPO has another first output direction than SFT."),
        _overlap("v1", "cluster", (*CLUSTER, (SFT, GRPO)), (0.99, 1.0), near(0.99 - t.likeness),
                 "SFT, RFT, RIFT and Offline GRPO have the same first input direction."),
        _overlap("v1", "dft", ((SFT, DFT),), (0.94,), near(0.94 - t.likeness), "DFT has SFT's first input direction."),
        _overlap("v1", "dpo", ((SFT, DPO),), (0.66, 0.70), apart(*t.around(0.66, 0.70)),
                 "DPO keeps part of SFT's first input direction."),
        Claim(
            "v1-above-u1", f"{TABLE}, mean abs u1 and v1 overlap",
            "Where the first output direction differs (Offline GRPO, DFT, DPO), the first input direction agrees more, "
            "and by more than a shared lora_A explains.",
            (0.2, 0.29, 0.57), overlap_gap((SFT, GRPO), (SFT, DFT), (SFT, DPO)), above_chance(),
            words="0.2, 0.29, 0.57 more",
        ),
        _ratio("dpo", "DPO's update is 13 times smaller than SFT's (at a tenth of the learning rate).", (13.0,),
               pairs("norm_ratio", (SFT, DPO)),
               within(13 / t.factor, 13 * t.factor, 1)),
        _ratio("cluster", "The updates of RFT and RIFT have the size of SFT's.", (2.82 / 2.84, 3.04 / 2.84),
               pairs("norm_ratio", (RFT, SFT), (RIFT, SFT)), within(*t.around(2.82 / 2.84, 3.04 / 2.84))),
        Claim(
            "rank-dpo-highest", f"{TABLE}, effective rank", "DPO's update has the highest effective rank.",
            ((24.5 - 16) / 16,), rank_above([DPO], [SFT, RFT, RIFT, DFT, GRPO]), above(), "of SFT's", 3,
            words="24.5 against 16 and 14.8",
        ),
        Claim(
            "rank-offline-grpo-lowest", f"{TABLE}, effective rank",
            "Offline GRPO's update has the lowest effective rank.",
            ((16 - 14.8) / 16,), rank_above([SFT, RFT, RIFT, DFT, DPO], [GRPO]), above(), "of SFT's", 3,
            words="14.8 against 16 and 24.5",
        ),
        Claim(
            "rank-equal", f"{TABLE}, effective rank", "SFT, RFT, DFT and RIFT have one effective rank.",
            (0.0,), rank_range(SFT, RFT, DFT, RIFT), at_most(t.rank), "of SFT's", 3, words="all about 16",
        ),
        Claim(
            "orthogonal-offline-grpo", f"{TABLE}, orthogonal fraction",
            "Two thirds of Offline GRPO's update lie outside SFT's direction.",
            (0.67,), pairs("orthogonal_fraction", (GRPO, SFT)), apart(*t.around(0.67), distance=True),
        ),
        Claim(
            "orthogonal-rises", f"{TABLE}, orthogonal fraction",
            "Offline GRPO leaves SFT's direction most in the last layers: the last third is above the middle one.",
            (0.24, 0.31), later_third(GRPO, SFT), above(), words="0.79 to 0.86 in the final five, 0.55 in the middle",
        ),
    )  # fmt: skip


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


def claims_table(study: Study) -> list[ClaimResult]:
    """Every claim's verdict on a study, in the order of `CLAIMS`."""
    return list(verdicts(study).results)


def verdicts(study: Study) -> Verdicts:
    """Every claim's verdict, and each tolerance's share in it. A claim is read once and judged by each rule."""
    parts = {claim.id: tuple(claim.read(study)) for claim in CLAIMS}
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
