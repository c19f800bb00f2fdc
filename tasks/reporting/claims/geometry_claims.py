"""What the paper (arXiv 2606.23740) says of the updates: cosines, angles, overlaps, sizes and ranks."""

from __future__ import annotations

from itertools import product

from tasks.reporting.claims.claim import Claim, Reading
from tasks.reporting.claims.pair_readings import LEADING, Names, order, overlap_gap, pairs
from tasks.reporting.claims.rules import Rule, Tolerances, above, above_chance, apart, at_most, near, within
from tasks.reporting.claims.run_readings import later_third, rank_above, rank_range

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
