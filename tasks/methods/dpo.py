"""DPO (2305.18290, eq. 7): -log sigmoid(beta [(log pi - log pi_ref)(chosen) - (log pi - log pi_ref)(rejected)]).

TRL's DPOTrainer does the training, with the adapter switched off as reference; `preference_loss` is the definition it
is pinned to in the tests. Pairs are made of one correct and one wrong completion of the same problem; the paper's rule
is not stated (about 1,800 pairs from 40,000 problems), ours takes up to ``max_pairs`` a problem. ``lr_ratio = 0.1`` is
the paper's "codebase convention" (5e-7 against 5e-6); 1.0 is the matched learning rate that it leaves open.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import polars as pl
from pydantic import Field, model_validator

from tasks.contracts import InputError
from tasks.methods.common import PAIR_EXAMPLES, Method

if TYPE_CHECKING:
    import torch


class Dpo(Method):
    """Direct preference optimisation on correct-wrong pairs."""

    kind: ClassVar[Literal["rows", "pairs"]] = "pairs"
    against_base: ClassVar[bool] = True
    lr_ratio: float = Field(
        0.1, title="Learning rate relative to train.lr", description="1.0 is the matched learning rate.", gt=0, le=100
    )
    beta: float = Field(0.1, title="beta", gt=0, le=10)
    loss_type: Literal["sigmoid", "hinge", "ipo", "robust", "exo_pair"] = Field("sigmoid", title="TRL loss type")
    label_smoothing: float = Field(
        0.0,
        title="Label smoothing",
        description="Share of pairs taken to be labelled the wrong way round. For robust and exo_pair only, which need "
        "it.",
        ge=0,
        lt=0.5,
    )
    pairs: Literal["product", "zip"] = Field(
        "product",
        title="Pair rule",
        description="product: every correct with every wrong completion; zip: each completion in at most one pair.",
    )
    max_pairs: int = Field(4, title="Most pairs a problem", ge=1)

    @model_validator(mode="after")
    def _smoothing_where_used(self) -> Dpo:
        uses = self.loss_type in ("robust", "exo_pair")
        if uses and self.label_smoothing == 0.0:
            raise ValueError(f"loss_type {self.loss_type} needs label_smoothing above 0, e.g. 0.1")
        if not uses and self.label_smoothing > 0.0:
            raise ValueError(f"label_smoothing has no effect with loss_type {self.loss_type}; leave it at 0")
        return self

    def select(self, graded: pl.DataFrame) -> pl.DataFrame:
        """PAIR_EXAMPLES in the order of their chosen rows. Raises `InputError` where no group is mixed."""
        rows = graded.with_row_index("row").select(
            pl.col("row").cast(pl.Int64), "problem_id", "prompt_ids", "completion_ids", "reward"
        )
        rank = pl.int_range(pl.len()).over("problem_id").alias("rank")
        right = rows.filter(pl.col("reward") == 1.0).with_columns(rank)
        wrong = rows.filter(pl.col("reward") == 0.0).with_columns(rank).drop("prompt_ids", "reward")
        keys = ["problem_id"] if self.pairs == "product" else ["problem_id", "rank"]
        pairs = right.join(wrong, on=keys, how="inner", suffix="_wrong", maintain_order="left_right")
        if pairs.is_empty():
            raise InputError(
                "methods: dpo needs a problem with both a correct and a wrong rollout and there is none; leave it "
                "out: --set methods=... without dpo"
            )
        # Diagonal first, so that few pairs still use many different completions.
        order = [pl.col("rank")] if self.pairs == "zip" else [_wrapped_difference(), pl.col("rank")]
        kept = pairs.sort("problem_id", *order).filter(pl.int_range(pl.len()).over("problem_id") < self.max_pairs)
        return (
            kept.rename(
                {
                    "row_wrong": "rejected_row",
                    "completion_ids": "chosen_ids",
                    "completion_ids_wrong": "rejected_ids",
                }
            )
            .sort("row", "rejected_row")
            .select(pl.col(name).cast(kind) for name, kind in PAIR_EXAMPLES.items())
        )


def _wrapped_difference() -> pl.Expr:
    """Which diagonal of the correct x wrong table a pair lies on."""
    wrongs = pl.col("rank_wrong").max().over("problem_id") + 1
    return (pl.col("rank_wrong") - pl.col("rank")) % wrongs


def preference_loss(
    chosen_B: torch.Tensor,
    rejected_B: torch.Tensor,
    ref_chosen_B: torch.Tensor,
    ref_rejected_B: torch.Tensor,
    beta: float,
) -> torch.Tensor:
    """Sequence log-probabilities of B pairs under policy and reference -> (B,) losses (eq. 7)."""
    from torch.nn.functional import logsigmoid

    return -logsigmoid(beta * ((chosen_B - ref_chosen_B) - (rejected_B - ref_rejected_B)))
