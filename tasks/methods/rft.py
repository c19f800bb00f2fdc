"""RFT, rejection-sampling fine-tuning: SFT on the rollouts with reward 1 only (2606.23740, Table 1; 2308.01825).

Variant ``distinct``: of one problem's correct completions that are equal but for white space only the first is kept.
The RFT paper (2308.01825, section 3.3) keeps distinct lists of equations; equality of texts is stricter, so we drop
fewer.
"""

from __future__ import annotations

from typing import ClassVar

import polars as pl
from pydantic import Field

from tasks.core.errors import InputError
from tasks.methods.common import RowMethod, examples


class Rft(RowMethod):
    """Rejection-sampling fine-tuning."""

    trl_loss: ClassVar[str | None] = "nll"
    distinct: bool = Field(
        False, title="Distinct completions only", description="Keep one of equal correct completions of a problem."
    )

    def select(self, graded: pl.DataFrame) -> pl.DataFrame:
        """The correct rows. Raises `InputError` where there is none."""
        keep = pl.col("reward") == 1.0
        if self.distinct:
            text = pl.col("completion").str.replace_all(r"\s+", " ").str.strip_chars()
            keep = keep & pl.struct("problem_id", "reward", text).is_first_distinct()
        selected = examples(graded).filter(graded.select(keep.alias("keep"))["keep"])
        if selected.is_empty():
            raise InputError(
                "methods: rft needs at least one rollout with reward 1 and there is none; leave it out: "
                "--set methods=... without rft"
            )
        return selected
