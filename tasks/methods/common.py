"""What every method is: a frozen section of hyper-parameters, a selection of examples, a per-token loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import polars as pl
from pydantic import Field

from tasks.core.errors import InputError
from tasks.core.sections import Section, TrainSpec

if TYPE_CHECKING:
    import torch

ROW_EXAMPLES: dict[str, pl.DataType] = {
    "row": pl.Int64(),  # index into the graded rollouts: its place in the common stream
    "prompt_ids": pl.List(pl.Int64()),
    "completion_ids": pl.List(pl.Int64()),
    "weight": pl.Float64(),
    "behaviour": pl.List(pl.Float64()),  # log-probabilities at sampling time, one a completion token; null where unused
}

PAIR_EXAMPLES: dict[str, pl.DataType] = {
    "row": pl.Int64(),  # index of the chosen completion
    "rejected_row": pl.Int64(),
    "prompt_ids": pl.List(pl.Int64()),
    "chosen_ids": pl.List(pl.Int64()),
    "rejected_ids": pl.List(pl.Int64()),
}

PROMPT_EXAMPLES: dict[str, pl.DataType] = {
    "row": pl.Int64(),  # index of the problem's first rollout
    "prompt_ids": pl.List(pl.Int64()),
    "answer": pl.String(),  # gold
    "room": pl.Int64(),  # most tokens of a new completion
}

Kind = Literal["rows", "unpaired", "pairs", "prompts"]
"""Examples of a method: completions with a weight, completions labelled right or wrong (a weight of 1 or -1), pairs of
completions, or prompts that the student itself answers."""


class Method(Section):
    """Base of every method's section: its hyper-parameters, and which examples it trains on."""

    kind: ClassVar[Kind]
    against_base: ClassVar[bool] = False
    """Whether its pairs' loss needs the base's log-probabilities (see `tasks.training.reference`)."""
    on_rollouts: ClassVar[bool] = True
    """Whether its first step is its own loss on recorded rollouts, so that it has a gradient there before training."""
    from_teacher: ClassVar[bool] = False
    """Whether it trains on the teacher's own distribution over tokens, so that the teacher must be at hand."""
    lr_ratio: float = Field(1.0, title="Learning rate relative to train.lr", gt=0, le=100)

    def select(self, graded: pl.DataFrame) -> pl.DataFrame:
        """``graded`` (GRADED, N rows) -> ROW_EXAMPLES, PAIR_EXAMPLES or PROMPT_EXAMPLES, in the order of their rows.

        Raises `InputError`, naming the method, where these rollouts leave it nothing to train on.
        """
        raise NotImplementedError  # abstract: pydantic models cannot be ABCs without losing their schema's title

    def recipe(self, train: TrainSpec) -> TrainSpec:
        """The common settings as this method follows them. Here: as they are.

        Raises ValueError, naming the field, where the method cannot train by them.
        """
        return train

    def phases(self, train: TrainSpec) -> tuple[Phase, ...]:
        """What trains in turn, each phase from where the one before it ended. Here: the method itself, by its `recipe`.

        Raises ValueError as `recipe`.
        """
        return (Phase(self, self.recipe(train)),)

    def kept(self, train: TrainSpec) -> list[int]:
        """The steps of ``train.keep_steps`` before this method's last, whose adapter is the training's own."""
        last = sum(phase.train.steps for phase in self.phases(train))
        return sorted(step for step in train.keep_steps if step < last)


@dataclass(frozen=True)
class Phase:
    """A part of a method's training."""

    method: Method
    """Whose examples and loss."""
    train: TrainSpec
    rate: float = 1.0
    """Peak learning rate relative to the run's."""


def chosen(method: Method, graded: pl.DataFrame, mask_truncated: bool = False) -> pl.DataFrame:
    """`Method.select`, with ``mask_truncated`` less what a completion cut at the token limit is part of.

    It leaves after the selection: its reward still counts in the advantages of its group, it has no loss itself.
    Raises `InputError` as ``select``, and where nothing is left.
    """
    selected = method.select(graded)
    if not mask_truncated or method.kind == "prompts":
        return selected
    cut = graded.with_row_index("row").filter(pl.col("finish_reason") == "length")["row"].to_list()
    columns = [column for column in ("row", "rejected_row") if column in selected.columns]
    left = selected.filter(~pl.any_horizontal(pl.col(column).is_in(cut) for column in columns))
    if left.is_empty():
        raise InputError(
            f"train.mask_truncated: every example of {type(method).__name__} has a completion that was cut at the "
            "token limit; raise rollouts.max_new_tokens, or leave it off"
        )
    return left


class RowMethod(Method):
    """A method that trains on single completions: sum over rows and tokens of a weighted token loss.

    ``trl_loss`` names the loss type of TRL's SFTTrainer that does it as it is; None: `tasks.training` runs `token_loss`
    through its one subclass. In both cases the batch's sum is divided by the number of its completion tokens.
    """

    kind: ClassVar[Kind] = "rows"
    trl_loss: ClassVar[str | None] = None

    def select(self, graded: pl.DataFrame) -> pl.DataFrame:
        """``graded`` (GRADED, N rows) -> ROW_EXAMPLES, at most N rows in the same order. Here: all, weight 1."""
        return examples(graded)

    def token_loss(
        self,
        logprobs_BT: torch.Tensor,
        mask_BT: torch.Tensor,
        weight_B: torch.Tensor,
        behaviour_BT: torch.Tensor | None,
    ) -> torch.Tensor:
        """(B, T) log-probabilities of the target tokens -> (B, T) loss terms, 0 where ``mask_BT`` is 0."""
        return -logprobs_BT * weight_B[:, None] * mask_BT


def examples(graded: pl.DataFrame, weight: pl.Expr | None = None, *, behaviour: bool = False) -> pl.DataFrame:
    """Every graded rollout as an example, ``row`` being its position; drop rows afterwards, never before."""
    frame = graded.with_row_index("row").with_columns(
        (pl.lit(1.0) if weight is None else weight).cast(pl.Float64).alias("weight"),
        (pl.col("logprobs") if behaviour else pl.lit(None, dtype=pl.List(pl.Float64))).alias("behaviour"),
    )
    return frame.select(pl.col(name).cast(kind) for name, kind in ROW_EXAMPLES.items())


def prompt_examples(graded: pl.DataFrame, most: int | None, keep: pl.Expr | None = None) -> pl.DataFrame:
    """PROMPT_EXAMPLES: each problem of the rows to ``keep``, once. ``most`` tokens of an answer; None: as many as the
    longest recorded completion has."""
    longest = graded["completion_ids"].list.len().max()
    kept = graded.with_row_index("row").filter(pl.lit(True) if keep is None else keep)
    once = kept.unique("problem_id", keep="first", maintain_order=True).with_columns(room=pl.lit(most or longest))
    return once.select(pl.col(name).cast(kind) for name, kind in PROMPT_EXAMPLES.items())
