"""The catalogue of metrics: what each one means, how it reads, and where a report shows it.

A new metric of updates is one function where it is computed (`PAIR_METRICS`, `RANKS` or `BASE_METRICS` in
`tasks.geometry`) and one entry here, under the same name: the tables, the explorer, the pages of many studies
and docs/metrics.md take it from here. ``python -m tasks.reporting.metrics docs/metrics.md`` makes
the tables of that page anew.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tasks.core.frames import LEADING, REST
from tasks.reporting.formats import number, size

Ks = Literal["", "first", "wider", "widest", "common", "own"]
"""Which subspace dimensions k stand in columns: none; 1; the largest three of all pairs above 1; the last of those; the
largest of all pairs; each pair's own largest, where that is larger."""

INVERSE = "inverse"
"""What `Metric.turned` says of a metric whose value with the two runs changed round is one over it."""


@dataclass(frozen=True)
class Column:
    """One column of a table. In ``title`` the dimension stands for ``{k}``; ``decimals``: other than the metric's."""

    title: str
    ks: Ks = ""
    decimals: int | None = None

    def called(self, k: int | None) -> str:
        """Its title at this dimension; without one it says k."""
        return self.title.replace("{k}", "k" if k is None else str(k))


@dataclass(frozen=True)
class Metric:
    """One measured quantity. ``definition``, ``formula`` and ``source`` are for readers who do not know it."""

    name: str
    """As the frames have it."""
    title: str
    """Where it stands alone, as in the explorer; ``{k}`` is its subspace dimension."""
    definition: str
    formula: str
    source: str
    over: str
    """What it is taken over, and how the parts are joined to one value."""
    unit: str = ""
    scale: float = 1.0
    """What a value of the frames is multiplied by to be in ``unit``."""
    axis: str = ""
    decimals: int = 3
    nearer: Literal["high", "low", ""] = ""
    """Which end means that two updates are alike; empty: neither."""
    bounds: tuple[float, float] | None = None
    """Its smallest and largest value; None: it has no such range."""
    drawn: tuple[float, float] | None = None
    """Ends of an axis, which is wider where its values go beyond; None: ``bounds``."""
    null: bool = False
    """Whether random subspaces of the same shape give it a value to be held against."""
    turned: str = ""
    """What the frame calls it with the two runs changed round, or `INVERSE`; empty: the same either way."""
    first: str = ""
    """Title at k = 1, where that is another one."""
    least_k: int = 1
    """The smallest k at which it tells more than another metric does."""
    columns: tuple[Column, ...] = ()
    """In the table of its kind: of pairs, of updates, or of updates beside their base."""
    beside: bool = False
    """Whether its interval, null and percentile stand beside every value of the table of pairs."""
    many: Column | None = None
    """On pages of many studies."""
    joined: str = ""
    """Its column in the joined frames of many studies, where that is not its name."""
    is_size: bool = False
    """Whether it reads as a size, none of which but 0 prints as 0."""
    note: str = ""
    """What is said of it below a table; ``{modules}`` is their number."""

    @property
    def column(self) -> str:
        """Its column in the joined frames of many studies."""
        return self.joined or self.name

    def text(self, value: float | None, decimals: int | None = None) -> str:
        """``value`` as a reader sees it."""
        scaled = None if value is None else self.scale * value
        return (size if self.is_size else number)(scaled, self.decimals if decimals is None else decimals)

    def called(self, k: int | None) -> str:
        """Its title at this dimension."""
        title = self.first if k == 1 and self.first else self.title
        return title.replace("{k}", "" if k is None else str(k)).rstrip()


_ENTRIES, _MEDIAN, _MEAN = "over all entries of its modules", "median over its modules", "mean over its modules"
_UNIT, _RIGHT_ANGLE = (0.0, 1.0), (0.0, 90.0)
_BJORCK = "Björck and Golub 1973"
_LORA = "Hu et al. 2021 (LoRA), arXiv 2106.09685, section 7.2"
_PAPER = "arXiv 2606.23740"
_ECKART = "approximation: Eckart and Young 1936; difference: Bonett and Price 2012"
_LMC = "linear mode connectivity: Frankle et al. 2020, arXiv 1912.05671"

PAIR = (
    Metric(
        "cosine", "Cosine", "How much two updates point the same way: 1 the same direction, 0 at a right angle.",
        "<dW_a, dW_b>_F / (|dW_a|_F |dW_b|_F)", "Ilharco et al. 2023 (task arithmetic), arXiv 2212.04089", _ENTRIES,
        axis="Cosine", nearer="high", bounds=(-1.0, 1.0), drawn=_UNIT, null=True, beside=True,
        columns=(Column("Cosine"),), many=Column("Cosine"),
    ),
    Metric(
        "activation_cosine", "Activation-weighted cosine",
        "The same of what two updates do to the inputs that occur: the cosine of `dW_a x` and `dW_b x` over all inputs "
        "x that the base has on held-out texts, S = E[x x^T]. Where it is above the cosine, the updates differ in what "
        "inputs do not reach.",
        "tr(dW_a S dW_b^T) / (|dW_a S^.5|_F |dW_b S^.5|_F)",
        "this project; S as in Jin et al. 2023 (RegMean), arXiv 2212.09849", _ENTRIES,
        axis="Cosine", nearer="high", bounds=(-1.0, 1.0), drawn=_UNIT, null=True, beside=True,
        columns=(Column("Cosine, weighted by activations"),),
        note="Weighted by activations: what the updates do to the inputs that the modules have under the base.",
    ),
    Metric(
        "angle_left", "Largest angle of the top-{k} left subspaces",
        "The largest principal angle between the spaces that the k leading output directions of two updates span: 0 "
        "the same space, 90 some direction of the one is at a right angle to the other.",
        "acos(s_k(U_a^T U_b))", _BJORCK, _MEDIAN,
        unit="degrees", axis="Angle", decimals=1, nearer="low", bounds=_RIGHT_ANGLE, null=True, beside=True,
        first="Angle of the first left singular vectors",
        columns=(
            Column("Angle of u1 and u1', deg", "first"),
            Column("Worst of top-{k} angles, deg", "wider"),
            Column("Worst at the largest k, deg", "own"),
        ),
        many=Column("Angle of u1 and u1', deg", "first"), joined="angle",
        note="Angles: principal angles between left singular subspaces, degrees, median over {modules}; worst: the "
        "largest of them, smallest: that of the two directions in which the subspaces are nearest, the other reading "
        'of a "top-1 angle".',
    ),
    Metric(
        "angle_min_left", "Smallest angle of the top-{k} left subspaces",
        "The smallest principal angle between those spaces: that of the two directions in which they are nearest.",
        "acos(s_1(U_a^T U_b))", _BJORCK, _MEDIAN,
        unit="degrees", axis="Angle", decimals=1, nearer="low", bounds=_RIGHT_ANGLE, null=True, beside=True, least_k=2,
        columns=(Column("Smallest of top-{k} angles, deg", "widest"),),
    ),
    Metric(
        "u1_overlap", "First left singular vectors |u1 u1'|",
        "How much the first output directions of two updates agree, whatever their sign.",
        "|<u_1, u_1'>|", _PAPER, _MEAN,
        axis="Overlap", nearer="high", bounds=_UNIT, null=True,
        columns=(Column("|u1 u1'|"),), many=Column("|u1 u1'|"),
        note="u1, v1: first left and right singular vectors, phi: overlap of the subspaces, mean over modules;",
    ),
    Metric(
        "v1_overlap", "First right singular vectors |v1 v1'|",
        "How much the first input directions of two updates agree; a shared lora_A alone brings them near.",
        "|<v_1, v_1'>|", _PAPER, _MEAN,
        axis="Overlap", nearer="high", bounds=_UNIT, null=True,
        columns=(Column("|v1 v1'|"),), many=Column("|v1 v1'|"),
    ),
    Metric(
        "phi_left", "phi, top-{k} left", "The share of one top-k space of output directions that lies in the other's.",
        "|U_a^T U_b|_F^2 / k", _LORA, _MEAN,
        axis="phi", nearer="high", bounds=_UNIT, null=True, columns=(Column("phi, top-{k}", "common"),),
    ),
    Metric(
        "norm_ratio", "Norm of the first over the second", "How many times as large the first update is.",
        "|dW_a|_F / |dW_b|_F", _PAPER, _ENTRIES,
        axis="Ratio", decimals=2, turned=INVERSE, is_size=True,
        columns=(Column("Norm ratio"),), many=Column("Norm, times"),
        note="norm ratio and orthogonal fraction (share of the first run's norm outside the second's direction, module "
        "by module) of the first run against the second.",
    ),
    Metric(
        "orthogonal_fraction", "Share of the first outside the second",
        "The share of the first update's norm that is no multiple of the second, module by module.",
        "|dW_a - P dW_a|_F / |dW_a|_F, P on the line of dW_b", _PAPER, _ENTRIES,
        axis="Share", nearer="low", bounds=_UNIT, null=True, turned="orthogonal_fraction_reverse",
        columns=(Column("Orthogonal fraction"),),
    ),
    Metric(
        "visible_overlap", "Entries that both change in bfloat16",
        "Of the entries that either update changes once the merged weights are stored in bfloat16, the share that both "
        "change. Chance: the second update with its rows and columns in a random order, so that it has what the base's "
        "small weights alone give.",
        "|{dW_a shows} and {dW_b shows}| / |either|", "after Mukherjee et al. 2025, arXiv 2505.11711",
        _ENTRIES, axis="Share", nearer="high", bounds=_UNIT, null=True, beside=True,
        columns=(Column("Changed by both, of those by either"),),
        note="Changed by both: of the entries that either update changes in bfloat16, beside the same with the second "
        "update's rows and columns shuffled.",
    ),
    Metric(
        "angle_right", "Largest angle of the top-{k} right subspaces",
        "The largest principal angle between the spaces that the k leading input directions span.",
        "acos(s_k(V_a^T V_b))", _BJORCK, _MEDIAN,
        unit="degrees", axis="Angle", decimals=1, nearer="low", bounds=_RIGHT_ANGLE, null=True,
        first="Angle of the first right singular vectors",
    ),
    Metric(
        "angle_min_right", "Smallest angle of the top-{k} right subspaces",
        "The smallest principal angle between those spaces.",
        "acos(s_1(V_a^T V_b))", _BJORCK, _MEDIAN,
        unit="degrees", axis="Angle", decimals=1, nearer="low", bounds=_RIGHT_ANGLE, null=True, least_k=2,
    ),
    Metric(
        "phi_right", "phi, top-{k} right", "The share of one top-k space of input directions that lies in the other's.",
        "|V_a^T V_b|_F^2 / k", _LORA, _MEAN,
        axis="phi", nearer="high", bounds=_UNIT, null=True,
    ),
    Metric(
        "lora_a_cosine", "Cosine of the trained lora_A",
        "How alike the trained lora_A of two adapters are: near 1, they began from one initialisation.",
        "<A_a, A_b>_F / (|A_a|_F |A_b|_F)", "this project", _ENTRIES,
        axis="Cosine", nearer="high", bounds=(-1.0, 1.0), drawn=_UNIT,
    ),
)  # fmt: skip
"""Of two updates a and b, in the order in which they are shown."""

UPDATE = (
    Metric(
        "norm", "Frobenius norm", "The size of the update, LoRA's scaling included, over all modules.",
        "|dW|_F", _PAPER, _ENTRIES, is_size=True,
        columns=(Column("Frobenius norm"),),
        note="Frobenius norm of the update, scaling included, over all modules.",
    ),
    Metric(
        "effective_rank", "Effective rank",
        "In how many directions the update moves, by the entropy of its singular values: from 1 to their number.",
        "exp(-sum p log p), p = s / sum s", "Roy and Vetterli 2007", _MEAN, decimals=2, is_size=True,
        columns=(Column("Effective rank"),),
        note="Ranks from the singular values s of each module, mean over modules: effective rank exp(H(p)),",
    ),
    Metric(
        "participation_rank", "Participation rank", "The same by the sum of squares, which small values count less in.",
        "1 / sum p^2, p = s / sum s", "participation ratio: Bell and Dean 1970", _MEAN, decimals=2, is_size=True,
        columns=(Column("Participation rank"),), note="participation rank 1 / sum p^2, both with p = s / sum s;",
    ),
    Metric(
        "stable_rank", "Stable rank", "How many directions as strong as the strongest make up the update's square.",
        "sum s^2 / max s^2", "Rudelson and Vershynin 2007", _MEAN, decimals=2, is_size=True,
        columns=(Column("Stable rank"),), note="stable rank sum s^2 / max s^2.",
    ),
)  # fmt: skip
"""Of one update."""

BASE = (
    Metric(
        "intruder_dimensions", "Intruder dimensions, top-{k}",
        "How many of the k leading output directions of the updated weight the base weight does not have.",
        "#{j <= k: max_i |<u_i(W), u_j(W + dW)>| < 0.5}", "Shuttleworth et al. 2024, arXiv 2410.21228", _MEAN,
        decimals=2, columns=(Column("Intruder dimensions"),),
        note="Intruder dimensions: how many of the top-k left singular vectors of W + dW have a cosine below 0.5 with "
        "every one of W's, mean over modules.",
    ),
    Metric(
        "base_rotation_left", "Rotation of the base, top-{k} left",
        "The largest principal angle between the spaces of the k leading output directions before and after.",
        "acos(s_k(U(W)^T U(W + dW)))", _BJORCK, _MEDIAN, unit="degrees", decimals=2, bounds=_RIGHT_ANGLE,
        columns=(Column("Rotation of the base, left, deg"),),
        note="Rotation: largest principal angle between the top-k singular subspaces of W and W + dW, median over "
        "modules.",
    ),
    Metric(
        "base_rotation_right", "Rotation of the base, top-{k} right", "The same of the input directions.",
        "acos(s_k(V(W)^T V(W + dW)))", _BJORCK, _MEDIAN, unit="degrees", decimals=2, bounds=_RIGHT_ANGLE,
        columns=(Column("Rotation of the base, right, deg"),),
    ),
    Metric(
        "spectrum_shift", "Spectrum shift", "How far the update moves the base's singular values, as a share of them.",
        "|s(W + dW) - s(W)| / |s(W)|", "bound: Mirsky 1960", _MEAN, decimals=5, columns=(Column("Spectrum shift"),),
        note="Spectrum shift: |s(W + dW) - s(W)| / |s(W)|, mean over modules.",
    ),
    Metric(
        "update_sparsity", "Update sparsity",
        "The share of entries that stay as they are once the merged weight is stored in bfloat16.",
        "mean of |w' - w| <= 0.001 max(|w|, |w'|), w and w' in bfloat16", "Mukherjee et al. 2025, arXiv 2505.11711",
        "over all entries", decimals=4, bounds=_UNIT, columns=(Column("Update sparsity"),),
        note="Update sparsity: share of entries that stay as they are once the merged weight is stored in bfloat16.",
    ),
    Metric(
        "principal_energy", "Energy in the base's top-{k} directions, times chance",
        "How much of the update's square lies in the space of the base's k leading output and input directions, over "
        "what an update in any direction has there: 1 is chance, below it the update avoids them.",
        "|U_k^T dW V_k|_F^2 / |dW|_F^2 * out in / k^2, U and V of W", "after Zhu et al. 2025, arXiv 2511.08567", _MEAN,
        decimals=2, columns=(Column("Energy in its top directions, times chance"),),
        note="Energy: share of |dW|^2 in the space of W's top-k left and right singular vectors, and on the tenth of "
        "entries where |W| is smallest, each over what an update in any direction has there.",
    ),
    Metric(
        "small_weight_energy", "Energy on the base's smallest weights, times chance",
        "How much of the update's square lies on the tenth of entries where the base weight is smallest, over a tenth: "
        "1 is chance.",
        "sum of dW^2 where |W| is smallest / |dW|_F^2 * 10", "after Zhu et al. 2025, arXiv 2511.08567", _MEAN,
        decimals=2, columns=(Column("Energy on its smallest weights, times chance"),),
    ),
)  # fmt: skip
"""Of one update beside the base weight W that it is added to."""

GRADIENT = Metric(
    "projected", "Gradient cosine before the first step",
    "How much two methods' losses ask for the same direction at the base, before anything is trained: the cosine of "
    "their gradients of lora_B, each by its own loss on the same rows.",
    "<G_a A^T, G_b A^T>_F / (|G_a A^T|_F |G_b A^T|_F), G = dL/dW, A: the common lora_A as initialised",
    "this project; of tasks: Yu et al. 2020, arXiv 2001.06782", _ENTRIES,
    axis="Cosine", nearer="high", bounds=(-1.0, 1.0), drawn=_UNIT,
)  # fmt: skip
"""Of two methods at the base, by the name that GRADIENTS has for it."""

SURPRISE = Metric(
    "nll", "Rollouts' NLL under the base",
    "How unlikely the rollouts are to the base, before training: 0 for what it writes itself with certainty.",
    "-log p(completion | prompt) / tokens", "cross-entropy", "mean over all tokens", unit="nats/token",
)  # fmt: skip
"""By the name that ON_POLICY has for it."""

PATH = (
    Metric(
        "boxed", "Cross-entropy of the boxed answer",
        "How unlikely the reference answer is, right after the prompt, to the models on the path between two updates. "
        "Its barrier: the largest height above the straight line between the ends.",
        "-log p(boxed answer | prompt) / tokens", _LMC, "mean over the tokens of all problems",
        unit="nats/token", decimals=4, columns=(Column("Boxed answer"),),
    ),
    Metric(
        "solution", "Cross-entropy of the solution", "The same of the reference solution, working included.",
        "-log p(solution | prompt) / tokens", _LMC, "mean over the tokens of all problems",
        unit="nats/token", decimals=4, columns=(Column("Solution"),),
    ),
    Metric(
        "accuracy", "Accuracy", "The share of problems that a model on the path solves. Its barrier is the error's.",
        "correct / problems, greedy", _LMC, "mean over problems", unit="points", scale=100.0, decimals=1,
        bounds=(0.0, 100.0), columns=(Column("Error"),),
    ),
)  # fmt: skip
"""Along the straight path between two updates, by the name that CONNECTIVITY has for it. Its column is the barrier."""

TRUNCATED = (
    Metric(
        LEADING, "Accuracy of the leading {k} directions",
        "The share of problems that the base solves with the k first singular directions of the update in every "
        "module, which are its best approximation of rank k; held against the whole update's on the same problems.",
        "correct / problems, greedy, of base + sum_{i <= k} s_i u_i v_i^T", _ECKART, "mean over problems", unit="%",
        scale=100.0, decimals=1, bounds=(0.0, 100.0),
    ),
    Metric(
        REST, "Accuracy of the rest", "The same with the update less those directions.",
        "correct / problems, greedy, of base + sum_{i > k} s_i u_i v_i^T", _ECKART, "mean over problems", unit="%",
        scale=100.0, decimals=1, bounds=(0.0, 100.0),
    ),
)  # fmt: skip
"""Of parts of an update, by the name that TRUNCATION has for the part."""

TRAJECTORY = (
    Metric(
        "cosine_to_last", "Cosine to the end",
        "How much the update after some steps points where the whole update ends: 1 from the step on from which the "
        "training only lengthens it.",
        "<dW_t, dW_T>_F / (|dW_t|_F |dW_T|_F)", "this project", _ENTRIES,
        axis="Cosine to the end", nearer="high", bounds=(-1.0, 1.0), columns=(Column("Cosine to the end"),),
    ),
    Metric(
        "cosine_to_gradient", "Cosine to the first gradient",
        "How much of it is what the method's loss asked for at the base: the cosine with one step down the gradient of "
        "lora_B there. An optimiser that scales its entries, as AdamW does, is not at 1 after one step.",
        "<dW_t, -G A^T A>_F / (|dW_t|_F |G A^T A|_F), G = dL/dW, A: lora_A as initialised", "this project", _ENTRIES,
        axis="Cosine to the first gradient", nearer="high", bounds=(-1.0, 1.0),
        columns=(Column("Cosine to the first gradient"),),
    ),
    Metric(
        "turn", "Turn", "The angle between the update and the one of the row before.",
        "acos(cos(dW_t, dW_s)), s the kept step before t", "this project", _ENTRIES,
        unit="degrees", decimals=1, bounds=(0.0, 180.0), columns=(Column("Turn since the row before, deg"),),
    ),
    Metric(
        "rank1_share", "Rank-1 share", "Of the update's square, what lies in the first singular direction of its "
        "modules.", "sum over modules of s_1^2 / |dW_t|_F^2", "Eckart and Young 1936", _ENTRIES,
        unit="%", scale=100.0, decimals=1, axis="Rank-1 share", bounds=(0.0, 100.0),
        columns=(Column("Rank-1 share, %"),),
    ),
    Metric(
        "overlap", "First output direction kept", "How much the first output direction already is the last one's, "
        "squared: 1 the same, 1 / outputs by chance.", "<u_1(t), u_1(T)>^2", "this project", _MEAN,
        bounds=_UNIT, null=True, columns=(Column("First output direction kept"),),
    ),
)  # fmt: skip
"""Of one update on the way through its training, by the names that TRAJECTORIES has for them."""

CKA = Metric(
    "cka", "Linear CKA", "How alike the hidden states of two models are at one layer, up to rotation and scale.",
    "HSIC(X, Y) / sqrt(HSIC(X, X) HSIC(Y, Y)), unbiased HSIC",
    "Kornblith et al. 2019, arXiv 1905.00414; debiased: Nguyen et al. 2021, arXiv 2010.15327",
    "rows: one a prompt", decimals=4, nearer="high", bounds=(-1.0, 1.0),
)  # fmt: skip
DEPTH = Metric(
    "depth", "Logit-lens depth", "The first layer from which on the most likely token is the last layer's.",
    "min l: argmax lens(h_m) = argmax lens(h_L) for all m >= l", "nostalgebraist 2020 (logit lens)",
    "mean over the tokens of the reference solutions", unit="layers", decimals=2,
)  # fmt: skip
KL = Metric(
    "kl", "KL divergence", "How far one model's next-token distribution is from another's; it has a direction.",
    "sum p_a log(p_a / p_b), whole vocabulary", "Kullback and Leibler 1951",
    "mean over the tokens of the reference solutions", unit="nats/token", nearer="low",
)  # fmt: skip

FORGETTING = Metric(
    "forgetting", "Forgetting",
    "By how much training raises the cross-entropy on texts that nobody trained on: of the base 0; in the synthetic "
    "task on the held-out solutions in the base's own style, else on the texts of `functions.texts`.",
    "(log p_base(text) - log p(text)) / tokens", "after Shenfeld et al. 2025 (RL's razor), arXiv 2509.04259",
    "mean over the tokens of all texts", unit="nats/token", bounds=(-math.inf, math.inf),
)  # fmt: skip
OWN_KL = Metric(
    "own_kl", "KL(base || run) on the base's answers",
    "How far a run's next-token distribution is from the base's along what the base itself answers: drawn at "
    "temperature 1 where the study drew answers, else greedy.",
    "E_{y ~ base} sum p_base log(p_base / p), whole vocabulary", "Shenfeld et al. 2025, arXiv 2509.04259",
    "mean over the tokens of all answers", unit="nats/token", nearer="low",
)  # fmt: skip
"""Both of one run, by the names that RETENTION has for them."""
ON_KL = Metric(
    "forgetting_on_kl", "Slope of forgetting over KL",
    "How much a run forgets for each nat that it is from the base on the base's own answers: least squares over "
    "trainings of many studies, at least five, with an intercept.",
    "cov(own_kl, forgetting) / var(own_kl)", "after Shenfeld et al. 2025, arXiv 2509.04259",
    "over distinct trainings", unit="nats per nat", bounds=(-math.inf, math.inf),
)  # fmt: skip
"""On pages of many studies."""

_ARITHMETIC = "task arithmetic: Ilharco et al. 2023, arXiv 2212.04089; means: Wortsman et al. 2022, arXiv 2203.05482"
SOUPED = (
    Metric(
        "accuracy", "Accuracy of a sum or mean, less predicted",
        "How much the base with a sum (w = 1) or mean (w = 1 / their number) of updates changes in accuracy beyond "
        "what the single ones' changes add up to: 0 where updates add.",
        "(acc(base + w sum d_i) - acc(base)) - w sum (acc(base + d_i) - acc(base))", _ARITHMETIC, "mean over problems",
        unit="points", scale=100.0, decimals=1, bounds=(-math.inf, math.inf),
    ),
    Metric(
        "own_kl", "KL of a sum or mean, less predicted",
        "The same of KL(base || it) on the base's own answers, which is 0 at the base and has no first order there: "
        "predicted as for small updates that are orthogonal in what they do to the distribution.",
        "KL(base || base + w sum d_i) - w^2 sum KL(base || base + d_i)", _ARITHMETIC,
        "mean over the tokens of all answers", unit="nats/token", bounds=(-math.inf, math.inf),
    ),
)  # fmt: skip
"""Of a sum or mean of updates, by the names that SOUPS has for what is measured."""

ANSWERS = (
    Metric(
        "accuracy", "Accuracy", "The share of problems whose greedy answer is right.", "correct / problems",
        "interval: Wilson 1927; difference: Bonett and Price 2012; test: McNemar 1947, exact",
        "mean over problems", unit="%", scale=100.0, decimals=1, bounds=(0.0, 100.0),
    ),
    Metric(
        "answer_loss", "Answer loss", "How unlikely the reference solutions are to a model.",
        "-log p(solution | prompt) / tokens", "cross-entropy", "mean over all tokens", unit="nats/token",
    ),
)  # fmt: skip
SAMPLED = (
    Metric(
        "avg", "avg@k", "The share of the drawn answers that are right.", "c / n", "mean of the draws",
        "mean over problems", unit="%", scale=100.0, decimals=1, bounds=(0.0, 100.0),
    ),
    Metric(
        "pass", "pass@k", "The chance that at least one of k drawn answers is right.", "1 - C(n - c, k) / C(n, k)",
        "Chen et al. 2021, arXiv 2107.03374", "mean over problems", unit="%", scale=100.0, decimals=1,
        bounds=(0.0, 100.0),
    ),
    Metric(
        "maj", "maj@k", "The chance that the most frequent of k drawn answers is right; a tie is shared.",
        "over every choice of k of the n answers", "Wang et al. 2022, arXiv 2203.11171", "mean over problems",
        unit="%", scale=100.0, decimals=1, bounds=(0.0, 100.0),
    ),
)  # fmt: skip
"""Of several drawn answers to each problem, by the name that SAMPLES has for it."""

REVERSED = {metric.name: metric.turned for metric in PAIR if metric.turned not in ("", INVERSE)}
"""Metric of a against b -> what the frame calls it of b against a, where the two differ."""
PAIRS = {metric.name: metric for metric in PAIR}
MANY = tuple(metric for metric in PAIR if metric.many)
"""Those of pages of many studies."""


def pair_metric(name: str) -> Metric:
    """The entry of a metric of pairs; one that has none reads by its own name."""
    reverse = next((one for one, other in REVERSED.items() if other == name), name)
    return PAIRS.get(reverse) or Metric(name, f"{name} {{k}}", "", "", "", "", axis=name)


def notes(metrics: Iterable[Metric], modules: str = "") -> str:
    """What is said of ``metrics`` below a table of them."""
    return " ".join(metric.note for metric in metrics if metric.note).replace("{modules}", modules)


_KINDS = {
    "Two updates": PAIR,
    "One update": UPDATE,
    "An update and its base": BASE,
    "Before the first step": (GRADIENT, SURPRISE),
    "What each direction carries": TRUNCATED,
    "On the way": TRAJECTORY,
    "What the models compute": (CKA, KL, DEPTH),
    "The path between two updates": PATH,
    "Do updates add, does it forget": (*SOUPED, FORGETTING, OWN_KL, ON_KL),
    "What the models answer": (*ANSWERS, *SAMPLED),
}
"""Heading in docs/metrics.md -> what its table has."""


def metrics_page(page: str) -> str:
    """``page``, docs/metrics.md, with its tables made anew: every metric with its definition, formula and source."""
    head = "| Metric | Definition | Formula | Over | Range | Chance | Source |\n" + "| --- " * 7 + "|\n"
    for title, metrics in _KINDS.items():
        before, found, rest = page.partition(f"\n## {title}\n")
        about, _, after = rest.partition("\n| Metric ")
        page = f"{before}{found}{about}\n{head}{''.join(map(_row, metrics))}\n{after.partition(chr(10) * 2)[2]}"
    return page


def _row(metric: Metric) -> str:
    span = f"{metric.bounds[0]:g} to {metric.bounds[1]:g}" if metric.bounds else "0 and above"
    span += f" {metric.unit}" if metric.unit else ""
    alike = f"; alike when {metric.nearer}" if metric.nearer else ""
    title = metric.title.replace("{k}", "k")
    chance = "random subspaces" if metric.null else "-"
    cells = (
        f"{title}<br>`{metric.name}`", metric.definition, f"`{metric.formula}`", metric.over, f"{span}{alike}", chance,
        metric.source,
    )  # fmt: skip
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(metrics_page(Path(sys.argv[1]).read_text(encoding="utf-8")), encoding="utf-8")
