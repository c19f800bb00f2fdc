"""A method's selection as the Hugging Face data set that TRL reads, in the order of the common stream."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from tasks.core.errors import StageError
from tasks.core.results import LocalTeacher
from tasks.methods.common import Kind
from tasks.training.order import stream_order

if TYPE_CHECKING:
    from datasets import Dataset

IGNORED = -100  # label of tokens that carry no loss


def build_dataset(
    selected: pl.DataFrame,
    kind: Kind,
    rollouts: int,
    needed: int,
    data_seed: int,
    reference: pl.DataFrame | None = None,
) -> Dataset:
    """``needed`` examples in stream order.

    Rows become ``row, input_ids, labels (prompt masked), weight, behaviour``; unpaired completions ``row, prompt_ids,
    completion_ids, label``; prompts ``row, prompt, answer, room``; pairs ``row, prompt_ids, chosen_ids, rejected_ids``
    and, with ``reference`` (row, logprob: see `tasks.training.reference`), ``ref_chosen_logps,
    ref_rejected_logps`` in nats. Examples are token ids throughout: nothing is tokenised twice.
    """
    from datasets import Dataset

    order = stream_order(selected["row"].to_numpy(), rollouts, needed, data_seed)
    if kind == "pairs":
        columns = ["row", "prompt_ids", "chosen_ids", "rejected_ids"]
        if reference is not None:
            for side, row in (("chosen", "row"), ("rejected", "rejected_row")):
                named = reference.select(pl.col("row").alias(row), pl.col("logprob").alias(f"ref_{side}_logps"))
                selected = selected.join(named, on=row, how="left", maintain_order="left")
                columns.append(f"ref_{side}_logps")
                if selected[columns[-1]].null_count():
                    raise StageError(f"reference: no log-probability for {side} rollouts; they are of other pairs")
        return Dataset.from_dict(selected.select(columns)[order].to_dict(as_series=False))
    if kind == "prompts":
        prompts = selected.rename({"prompt_ids": "prompt"})
        return Dataset.from_dict(prompts[order].to_dict(as_series=False))
    if kind == "unpaired":
        labelled = selected.select("row", "prompt_ids", "completion_ids", (pl.col("weight") > 0).alias("label"))
        return Dataset.from_dict(labelled[order].to_dict(as_series=False))
    masked = pl.col("prompt_ids").list.eval(pl.lit(IGNORED, dtype=pl.Int64))
    frame = selected.select(
        "row",
        pl.concat_list("prompt_ids", "completion_ids").alias("input_ids"),
        pl.concat_list(masked, "completion_ids").alias("labels"),
        "weight",
        "behaviour",
    )
    return Dataset.from_dict(frame[order].to_dict(as_series=False))


def asked(dataset: Dataset, graded: pl.DataFrame, teacher: LocalTeacher, base: Path, pad_token: str | None) -> Dataset:
    """Prompts with a column ``asked``, the teacher's prompt: the student's, or the same question in its own style."""
    prompts = dict(zip(dataset["row"], dataset["prompt"], strict=True))
    if teacher.in_style:
        from tasks.models.turn import open_turn
        from tasks.problems.synthetic import instruct

        turn = open_turn(base, None, pad_token)
        prompts = {row: turn.prompt(instruct(graded["prompt"][row])) for row in prompts}
    return dataset.add_column("asked", [prompts[row] for row in dataset["row"]])
