"""SFT, then DPO from the policy that it gives, as people train: one adapter goes through both.

For `sft_share` of the steps it is SFT on every rollout of the common stream; then DPO on pairs goes on with the adapter
and holds it against a frozen copy of itself at the switch (TRL's "ref" adapter of a DPOTrainer that is given one), not
against the base. Each phase has an optimiser and a learning-rate schedule of its own over its own steps, so that its
first phase is what `sft` is in so many steps. Its update is the total of both. ``parts/1-sft`` and ``parts/2-dpo`` of
its artifact are the two by themselves; the second is the difference of two updates of rank r, exact as one of rank 2r.

DPO's paper (2305.18290, section 4) starts so. The geometry paper trains both from the base and never in turn, so its
split is ours: half of the steps each, `sft` at train.lr and `dpo` at a tenth of it. What the reference says of a pair
belongs to one run: it is computed in every step, whatever train.reference says.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from tasks.core.sections import TrainSpec
from tasks.methods.common import Phase
from tasks.methods.dpo import Dpo
from tasks.methods.sft import Sft


class SftDpo(Dpo):
    """SFT, then DPO with the SFT policy as its reference."""

    against_base: ClassVar[bool] = False
    on_rollouts: ClassVar[bool] = False
    lr_ratio: float = Field(1.0, title="Learning rate of SFT relative to train.lr", gt=0, le=100)
    dpo_lr_ratio: float = Field(0.1, title="Learning rate of DPO relative to that of SFT", gt=0, le=100)
    sft_share: float = Field(
        0.5, title="Share of the steps that are SFT", description="At least one step is of either.", gt=0, lt=1
    )

    def phases(self, train: TrainSpec) -> tuple[Phase, ...]:
        """Both, whose steps add up to the study's. Raises ValueError where there is one step only."""
        if train.steps < 2:
            raise ValueError("train.steps: sft_dpo needs at least 2, one of SFT and one of DPO")
        first = min(max(1, round(self.sft_share * train.steps)), train.steps - 1)
        sft, dpo = (
            train.model_copy(update={"steps": steps, "schedule_steps": None}) for steps in (first, train.steps - first)
        )
        own = {name: getattr(self, name) for name in Dpo.model_fields if name != "lr_ratio"}
        return Phase(Sft(), sft), Phase(Dpo(**own), dpo, self.dpo_lr_ratio)
