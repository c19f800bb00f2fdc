"""A step's metrics out of those of its passes: what one pass over the whole batch would have told.

TRL notes a metric in every pass and logs their plain mean, which is off where the passes are of unequal size. Here a
mean over tokens is weighted by the pass's completion tokens, a mean over examples by its examples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

OF_TOKENS = frozenset(
    {
        "entropy", "mean_token_accuracy", "anchor_kl", "kl", "logits/chosen", "logits/rejected",
        "clip_ratio/low_mean", "clip_ratio/high_mean", "clip_ratio/region_mean",
    }
)  # fmt: skip
"""Metrics that TRL (1.16) and our trainers take over tokens; every other one they take over examples."""


@dataclass(frozen=True)
class Pass:
    """What one pass over some of a batch's sequences noted."""

    values: Mapping[str, float]
    tokens: Sequence[int]
    """Completion tokens that the loss reads, of each sequence."""
    chosen: Sequence[bool]
    """Whether the sequence is a chosen (wanted) one; all are where a method does not tell."""

    def weight(self, metric: str) -> int:
        """Tokens or sequences that the pass's value is a mean over."""
        side = {"chosen": True, "rejected": False}.get(metric.rpartition("/")[2])
        if metric == "mean_token_accuracy":  # of pairs TRL takes that of the chosen ones
            side = True
        counted = [n for n, chosen in zip(self.tokens, self.chosen, strict=True) if side in (None, chosen)]
        return sum(counted) if metric in OF_TOKENS else len(counted)


def of_step(passes: Sequence[Pass]) -> dict[str, float]:
    """Each metric over all passes. A pass that did not note a metric (KTO without a right answer) has no part in it.

    ``*_min`` and ``*_max`` are the least and the greatest; ``num_tokens``, a running count, is the last;
    ``rewards/margins`` is the difference of the two rewards, which KTO has in no pass of one side only.
    """
    found = {}
    for metric in dict.fromkeys(name for one in passes for name in one.values):
        values = [(one.values[metric], one.weight(metric)) for one in passes if metric in one.values]
        found[metric] = _joined(metric, values)
    if len(passes) > 1 and found.keys() >= {"rewards/chosen", "rewards/rejected"}:
        found["rewards/margins"] = found["rewards/chosen"] - found["rewards/rejected"]
    return found


def _joined(metric: str, values: Sequence[tuple[float, int]]) -> float:
    if len(values) == 1 or metric == "num_tokens":
        return values[-1][0]
    if metric.endswith(("_min", "_max")):
        return (min if metric.endswith("_min") else max)(value for value, _ in values)
    total = sum(weight for _, weight in values)
    return sum(value * weight for value, weight in values) / total if total else 0.0
