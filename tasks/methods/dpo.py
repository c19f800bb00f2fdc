"""DPO (2305.18290, eq. 7): -log sigmoid(beta [(log pi - log pi_ref)(chosen) - (log pi - log pi_ref)(rejected)]).

TRL's DPOTrainer does the training, with the adapter switched off as reference; the tests pin it to the definition.
Pairs are made of one correct and one wrong completion of the same problem; the paper's rule is not stated (about 1,800
pairs from 40,000 problems), ours is in `tasks.methods.pairs`, as is the learning rate.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from tasks.methods.pairs import PairMethod


class Dpo(PairMethod):
    """Direct preference optimisation on correct-wrong pairs."""

    against_base: ClassVar[bool] = True
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

    @model_validator(mode="after")
    def _smoothing_where_used(self) -> Dpo:
        uses = self.loss_type in ("robust", "exo_pair")
        if uses and self.label_smoothing == 0.0:
            raise ValueError(f"loss_type {self.loss_type} needs label_smoothing above 0, e.g. 0.1")
        if not uses and self.label_smoothing > 0.0:
            raise ValueError(f"label_smoothing has no effect with loss_type {self.loss_type}; leave it at 0")
        return self

    def trl_arguments(self) -> dict[str, Any]:
        """For TRL's DPOConfig."""
        return {"beta": self.beta, "loss_type": [self.loss_type], "label_smoothing": self.label_smoothing}
