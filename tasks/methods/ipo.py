"""IPO (2310.12036, eq. 17): (h - 1 / (2 beta))^2, h the log-ratio of chosen over rejected less that of the reference.

TRL's DPOTrainer does the training (``loss_type="ipo"``); the tests pin it to the definition.
TRL's form, which its authors confirmed with IPO's: each sequence's log-ratio is divided by its tokens, so h is a mean
over tokens and not, as in eq. 17, a sum. The same loss as ``dpo.loss_type = "ipo"``, as a method of its own, so that
one study holds both. The geometry paper does not train it and gives no beta; ours is DPO's.
"""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from tasks.methods.pairs import PairMethod


class Ipo(PairMethod):
    """Identity preference optimisation on correct-wrong pairs."""

    against_base: ClassVar[bool] = True
    beta: float = Field(
        0.1, title="beta (tau of the paper)", description="The loss draws the margin to 1 / (2 beta).", gt=0, le=10
    )

    def trl_arguments(self) -> dict[str, Any]:
        """For TRL's DPOConfig."""
        return {"beta": self.beta, "loss_type": ["ipo"]}
