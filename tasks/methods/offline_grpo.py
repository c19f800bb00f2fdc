"""Offline GRPO: sum_i A_i l_i with A_i = r_i - mean_g(r) + b over fixed rollouts (2606.23740, Table 1; b = 0.1).

The paper's form has no division by the group's standard deviation, no clipping, no probability weight and no KL term;
those are the defaults. Variants: ``bias`` adds b to all rows, to all-correct groups only (as KRAFTON) or to none;
``scale="std"`` divides the centred reward by the group's standard deviation (population form, plus 1e-4); ``clip``
uses stored behaviour log-probabilities: -min(rho A, clip(rho, 1-eps, 1+eps) A) with rho = pi / pi_behaviour per token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import polars as pl
from pydantic import Field

from tasks.core.errors import InputError
from tasks.methods.common import RowMethod, examples

if TYPE_CHECKING:
    import torch

STD_FLOOR = 1e-4

MOST_NATS = 20.0
"""Of log rho: a token that stored log-probabilities call impossible (a ratio above 5e8) is left as it is, where its
ratio would be infinite and the loss with it."""


class OfflineGrpo(RowMethod):
    """Group-relative policy optimisation on fixed rollouts."""

    b: float = Field(0.1, title="Bias b added to the advantage", ge=-1, le=1)
    bias: Literal["all", "all_correct", "none"] = Field("all", title="Rows that get the bias")
    scale: Literal["none", "std"] = Field("none", title="Scale of the advantage")
    clip: float | None = Field(
        None, title="Clipping range", description="Needs behaviour log-probabilities. Default: no ratio.", gt=0, lt=1
    )

    def select(self, graded: pl.DataFrame) -> pl.DataFrame:
        """All rows, weighted by their advantage. Raises `InputError` where ``clip`` has no log-probabilities to use."""
        if self.clip is not None and graded["logprobs"].null_count() > 0:
            raise InputError(
                f"offline_grpo.clip: {graded['logprobs'].null_count()} rollouts have no behaviour log-probabilities "
                "(`logprobs`); leave clip unset"
            )
        return examples(graded, self.advantage(), behaviour=self.clip is not None)

    def advantage(self) -> pl.Expr:
        """A_i over groups of equal ``problem_id``."""
        reward = pl.col("reward")
        centred = reward - reward.mean().over("problem_id")
        if self.scale == "std":
            centred = centred / (reward.std(ddof=0).over("problem_id") + STD_FLOOR)
        if self.bias == "none":
            return centred
        if self.bias == "all_correct":
            return centred + pl.when(reward.min().over("problem_id") == 1.0).then(self.b).otherwise(0.0)
        return centred + self.b

    def token_loss(
        self,
        logprobs_BT: torch.Tensor,
        mask_BT: torch.Tensor,
        weight_B: torch.Tensor,
        behaviour_BT: torch.Tensor | None,
    ) -> torch.Tensor:
        """(B, T) terms: A_i l_t, or the clipped ratio objective."""
        if self.clip is None or behaviour_BT is None:
            return -logprobs_BT * weight_B[:, None] * mask_BT
        import torch

        rho_BT = ((logprobs_BT - behaviour_BT) * mask_BT).clamp(max=MOST_NATS).exp()
        clipped_BT = rho_BT.clamp(1 - self.clip, 1 + self.clip)
        return -torch.minimum(rho_BT * weight_B[:, None], clipped_BT * weight_B[:, None]) * mask_BT
