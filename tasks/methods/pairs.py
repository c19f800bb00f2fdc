"""Methods of pairs: one correct and one wrong completion of the same problem.

Up to ``max_pairs`` a problem. ``lr_ratio = 0.1`` is the geometry paper's "codebase convention" for DPO (5e-7 against
5e-6); 1.0 is the matched learning rate that it leaves open. The paper trains no other preference loss: ours have DPO's
ratio, so that they differ from it in the loss alone.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar, Literal

import polars as pl
from pydantic import Field

from tasks.core.errors import InputError
from tasks.methods.common import PAIR_EXAMPLES, Kind, Method


class PairMethod(Method):
    """A method that TRL's DPOTrainer runs on correct-wrong pairs."""

    kind: ClassVar[Kind] = "pairs"
    lr_ratio: float = Field(
        0.1, title="Learning rate relative to train.lr", description="1.0 is the matched learning rate.", gt=0, le=100
    )
    pairs: Literal["product", "zip"] = Field(
        "product",
        title="Pair rule",
        description="product: every correct with every wrong completion; zip: each completion in at most one pair.",
    )
    max_pairs: int = Field(4, title="Most pairs a problem", ge=1)

    @property
    def margin(self) -> float | None:
        """Nats a token by which a chosen completion is held back, for a loss without a reference model.

        None: pairs are held against the base.
        """
        return None

    def trl_arguments(self) -> dict[str, Any]:
        """For TRL's DPOConfig: the loss and its hyper-parameters."""
        raise NotImplementedError  # abstract, see `Method.select`

    def select(self, graded: pl.DataFrame) -> pl.DataFrame:
        """PAIR_EXAMPLES in the order of their chosen rows. Raises `InputError` where no group is mixed.

        Two equal completions that were labelled once right and once wrong are no pair: its gradient is rounding alone,
        which Adam would blow up to a whole step.
        """
        rows = graded.with_row_index("row").select(pl.col("row").cast(pl.Int64), "problem_id", "reward")
        rank, size = pl.int_range(pl.len()).over("problem_id"), pl.len().over("problem_id")
        right = rows.filter(pl.col("reward") == 1.0).select("problem_id", "row", rank=rank)
        wrong = rows.filter(pl.col("reward") == 0.0).select("problem_id", "row", rank=rank, wrongs=size)
        # The first diagonals hold no others, and a thousand completions of one problem have a million pairs.
        right = right.filter(pl.col("rank") < self.max_pairs)
        wrong = wrong.filter(pl.col("rank") < 2 * self.max_pairs)
        keys = ["problem_id"] if self.pairs == "product" else ["problem_id", "rank"]
        pairs = right.join(wrong, on=keys, how="inner", suffix="_wrong", maintain_order="left_right")
        texts = graded["completion_ids"]
        pairs = pairs.filter(texts.gather(pairs["row"]) != texts.gather(pairs["row_wrong"]))
        if pairs.is_empty():
            name = re.sub(r"(?<!^)(?=[A-Z])", "_", type(self).__name__).lower()
            raise InputError(
                f"methods: {name} needs a problem with both a correct and a wrong rollout and there is none; leave it "
                f"out: --set methods=... without {name}"
            )
        # Diagonal first, so that few pairs still use many different completions.
        order = [pl.col("rank")] if self.pairs == "zip" else [_wrapped_difference(), pl.col("rank")]
        kept = pairs.sort("problem_id", *order).filter(pl.int_range(pl.len()).over("problem_id") < self.max_pairs)
        kept = kept.rename({"row_wrong": "rejected_row"}).sort("row", "rejected_row")
        return kept.with_columns(
            prompt_ids=graded["prompt_ids"].gather(kept["row"]),
            chosen_ids=texts.gather(kept["row"]),
            rejected_ids=texts.gather(kept["rejected_row"]),
        ).select(pl.col(name).cast(kind) for name, kind in PAIR_EXAMPLES.items())


def _wrapped_difference() -> pl.Expr:
    """Which diagonal of the correct x wrong table a pair lies on."""
    return (pl.col("rank_wrong") - pl.col("rank")) % pl.col("wrongs").cast(pl.Int64)
