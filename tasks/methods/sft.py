"""SFT: sum_i l_i over all rollouts, right or wrong (2606.23740, Table 1). TRL's ``nll``: divided by the tokens."""

from __future__ import annotations

from typing import ClassVar

from tasks.methods.common import RowMethod


class Sft(RowMethod):
    """Supervised fine-tuning on every rollout."""

    trl_loss: ClassVar[str | None] = "nll"
