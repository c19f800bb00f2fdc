"""SimPO (2405.14734, eq. 6): -log sigmoid(beta [mean log pi(chosen) - mean log pi(rejected)] - gamma), no reference.

The means are over a completion's tokens. In TRL 1.16 the loss is in the experimental CPOTrainer only, which tokenises
texts itself, adds a likelihood term by default and builds all logits. TRL's DPOTrainer has the same loss under another
name: ``sigmoid_norm`` is -log sigmoid(beta [mean log-ratio(chosen) - mean log-ratio(rejected)]), and with a constant
reference of gamma / beta nats a token for chosen and 0 for rejected completions that is SimPO, digit by digit. So it
trains on DPO's path, and no reference model runs; the tests pin it to CPOTrainer's function. ``rewards/chosen`` of its
log is a sum over tokens, as DPO's. Defaults: beta 2, and gamma / beta = .5, where SimPO's authors advise to start.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from tasks.methods.pairs import PairMethod


class Simpo(PairMethod):
    """Simple preference optimisation on correct-wrong pairs."""

    beta: float = Field(2.0, title="beta", gt=0, le=100)
    gamma: float = Field(1.0, title="Target margin gamma", ge=0, le=100)

    @property
    def margin(self) -> float | None:
        """gamma / beta."""
        return self.gamma / self.beta

    def trl_arguments(self) -> dict[str, Any]:
        """For TRL's DPOConfig."""
        return {"beta": self.beta, "loss_type": ["sigmoid_norm"]}
