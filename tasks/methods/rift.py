"""RIFT, reward-informed fine-tuning (2601.09253), in three forms. l_i is a completion's negative log-likelihood.

``linear`` (default)
    sum_i w_i l_i with w = +1 for correct and -0.2 for wrong rollouts: the form that fits the geometry paper's reported
    cosines best. Wrong rollouts are pushed away without bound; at -0.2 that stays mild over a short training.
``stabilized``
    -E_{D+}[r log pi] - E_{D-}[r pi], RIFT's own objective. A long completion's pi underflows, so pi is the
    length-normalised exp(-l_i / T_i), and the term is multiplied by T_i so that both sums are per token. These two are
    our deviations.
``as_printed``
    sum_i (1 - lambda * r_i) l_i with the binary reward r_i, as the geometry paper (2606.23740) prints it; lambda is
    not given there and 0.5 is our choice. With lambda > 0 this form prefers WRONG rollouts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import polars as pl
from pydantic import Field

from tasks.methods.common import RowMethod, examples

if TYPE_CHECKING:
    import torch


class Rift(RowMethod):
    """Reward-informed fine-tuning."""

    form: Literal["linear", "stabilized", "as_printed"] = Field("linear", title="Form of the objective")
    correct_weight: float = Field(1.0, title="Reward of a correct rollout", gt=0, le=10)
    wrong_weight: float = Field(-0.2, title="Reward of a wrong rollout", ge=-10, le=0)
    lam: float = Field(0.5, title="lambda of the form as printed", ge=0, le=10)

    def select(self, graded: pl.DataFrame) -> pl.DataFrame:
        """All rows, weighted by their reward."""
        if self.form == "as_printed":
            return examples(graded, 1.0 - self.lam * pl.col("reward"))
        correct = pl.col("reward") == 1.0
        return examples(graded, pl.when(correct).then(self.correct_weight).otherwise(self.wrong_weight))

    def token_loss(
        self,
        logprobs_BT: torch.Tensor,
        mask_BT: torch.Tensor,
        weight_B: torch.Tensor,
        behaviour_BT: torch.Tensor | None,
    ) -> torch.Tensor:
        """(B, T) terms. ``stabilized``: a wrong row's -r pi T is spread evenly over its T tokens."""
        linear_BT = -logprobs_BT * weight_B[:, None] * mask_BT
        if self.form != "stabilized":
            return linear_BT
        length_B = mask_BT.sum(dim=1).clamp(min=1)
        pi_B = ((logprobs_BT * mask_BT).sum(dim=1) / length_B).exp()
        return linear_BT.where((weight_B >= 0)[:, None], -weight_B[:, None] * pi_B[:, None] * mask_BT)
