"""Rollouts for a base of one's own, from a file or from a teacher, tokenised for it. Runs in a worker process.

Rows longer than the context are dropped by the rule ``longer than model.max_length``: never cut, because a cut
completion has lost its answer. Completions that are not marked as truncated end with the token that ends the base's
turn (`tasks.models.turn`); a row whose completion (empty, and cut) or whose prompt (nothing that the tokenizer keeps)
has no token is dropped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from tasks.core.errors import InputError
from tasks.core.frames import COMPLETIONS, PROBLEMS, ROLLOUTS, checked
from tasks.core.results import LocalBase, Progress, no_progress
from tasks.models.prompts import special_marks
from tasks.models.tokenizer import tokenizer_digest
from tasks.problems.overlap import instructed
from tasks.rollouts.teacher import TEACHER

if TYPE_CHECKING:
    from tasks.models.turn import Turn


def own_rollouts(
    *,
    file: Path,
    base: LocalBase,
    holdout: float,
    truncated: str = "keep",
    fields: Mapping[str, str] | None = None,
    out: Path,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Read ``file`` (or its shards; ``fields`` names columns), hold out a share of its problems, tokenise the rest.

    The summary says which columns were read as what (`tasks.rollouts.layouts.Reading.summary`).

    Writes ``rollouts.parquet`` (ROLLOUTS) and ``heldout.parquet`` (PROBLEMS, empty where ``holdout`` is 0). Given
    log-probabilities are kept where they match the completion's tokens one to one (with or without a closing
    end token, whose log-probability is then unknown and the row's are dropped).
    """
    from tasks.models.turn import turn_at
    from tasks.rollouts.files import heldout_split, marks_of, read_into
    from tasks.rollouts.layouts import Reading

    turn = turn_at(base)
    reading = Reading(fields, marks_of(base.prompt_template, special_marks(turn.tokenizer)))
    raw = read_into(reading, file)
    held = heldout_split(raw["problem_id"].unique(maintain_order=True).to_list(), holdout)
    aside = raw.filter(pl.col("problem_id").is_in(list(held)))
    raw = raw.filter(~pl.col("problem_id").is_in(list(held)))
    _heldout_problems(aside).write_parquet(out / "heldout.parquet")
    kept = without_truncated(raw, truncated)
    completions = []
    for done, (completion, finish) in enumerate(kept.select("completion", "finish_reason").iter_rows(), 1):
        completions.append(turn.answer(completion, closed=finish != "length"))
        if done % 500 == 0 or done == kept.height:
            progress(done, kept.height, "rows tokenised")
    frame = kept.with_columns(completion_ids=pl.Series(completions, dtype=pl.List(pl.Int64)))
    counts = _write(frame.rename({"reward": "given_reward"}), base, turn, file.name, out)
    return {
        **counts,
        "dropped_truncated": raw.height - kept.height,
        "heldout_problems": len(held),
        **reading.summary(),
    }


def taught_rollouts(
    *,
    completions: Path,
    heldout: Path,
    base: LocalBase,
    truncated: str = "keep",
    out: Path,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """The completions of `tasks.rollouts.sample.sample_completions` in the tokens of the base.

    Where teacher and base have one tokenizer (compared by digest) the teacher's ids and log-probabilities are kept as
    they are, but for what the base's prompt opens already and for an end token that is not the base's; else the texts
    are tokenised anew and the log-probabilities, which are of other tokens, are dropped. What the teacher's prompt had
    opened (``<think>``) belongs to its answer unless the base's opens it too.
    Writes the same files as `own_rollouts`; ``heldout`` is a file of PROBLEMS.
    """
    from tasks.models.turn import turn_at

    turn = turn_at(base)
    spoken = json.loads((completions / TEACHER).read_text())
    shared = spoken["tokenizer"] == tokenizer_digest(turn.tokenizer)
    opened = "" if spoken.get("opens", "") == turn.opens else spoken.get("opens", "")
    raw = checked(pl.read_parquet(completions / "completions.parquet"), COMPLETIONS, "completions")
    kept = without_truncated(raw, truncated)
    ids, logprobs, exact = [], [], 0
    columns = ("completion", "completion_ids", "logprobs", "finish_reason")
    for text, told, known, finish in kept.select(columns).iter_rows():
        closed = finish != "length"
        if shared and told is not None and not opened:
            exact += 1
            own, left_off = turn.taken(text, told, closed=closed)
        else:
            own, left_off = turn.answer(opened + text, closed=closed), None
        ids.append(own)
        logprobs.append(None if known is None or left_off is None else known[left_off:])
    progress(kept.height, kept.height, "rows tokenised")
    frame = kept.with_columns(
        logprobs=pl.Series(logprobs, dtype=pl.List(pl.Float64)),
        completion_ids=pl.Series(ids, dtype=pl.List(pl.Int64)),
        given_reward=pl.lit(None, dtype=pl.Float64),
    )
    aside = checked(pl.read_parquet(heldout), PROBLEMS, "held-out problems")
    aside.write_parquet(out / "heldout.parquet")
    counts = _write(frame, base, turn, "the teacher's completions", out)
    return {
        **counts,
        "dropped_truncated": raw.height - kept.height,
        "heldout_problems": aside.height,
        "shared_tokenizer": shared,
        "exact_ids": exact,
    }


def without_truncated(rollouts: pl.DataFrame, truncated: str) -> pl.DataFrame:
    """``"keep"``: all rows; ``"drop"``: those that their model ended itself. Raises `InputError` where none is left."""
    if truncated == "keep":
        return rollouts
    kept = rollouts.filter(pl.col("finish_reason") != "length")
    if kept.is_empty():
        raise InputError(
            f"rollouts.truncated: all {rollouts.height} completions were cut at the token limit; raise "
            "rollouts.max_new_tokens, or keep them"
        )
    return kept


def _write(frame: pl.DataFrame, base: LocalBase, turn: Turn, source: str, out: Path) -> dict[str, Any]:
    """Write ``rollouts.parquet``: prompts (the base's instruction behind each) tokenised, rows that are too long or
    have no token dropped, log-probabilities that fit kept.

    ``frame`` has all columns of ROLLOUTS but for ``prompt_ids``.
    """
    from tasks.models.load import context_length

    limit = context_length(base.folder, base.max_length)
    prompts = {
        prompt: turn.prompt(instructed(prompt, base.instruction))
        for prompt in frame["prompt"].unique(maintain_order=True)
    }
    whole = frame.with_columns(
        prompt_ids=pl.Series([prompts[prompt] for prompt in frame["prompt"]], dtype=pl.List(pl.Int64)),
        logprobs=pl.when(pl.col("logprobs").list.len() == pl.col("completion_ids").list.len()).then("logprobs"),
    )
    prompt, completion = pl.col("prompt_ids").list.len(), pl.col("completion_ids").list.len()
    spoken = whole.filter((prompt > 0) & (completion > 0))
    fitting = spoken.filter(prompt + completion <= limit)
    if fitting.is_empty():
        raise InputError(
            f"model.max_length: all {spoken.height} rows of {source} are longer than {limit} tokens; "
            "use a base with a longer context"
            if spoken.height
            else f"{source}: no row has a token of a prompt and of a completion; give others"
        )
    checked(fitting.select(ROLLOUTS.keys()), ROLLOUTS, "rollouts").write_parquet(out / "rollouts.parquet")
    return {
        "rows": fitting.height,
        "problems": fitting["problem_id"].n_unique(),
        "dropped_too_long": spoken.height - fitting.height,
        "dropped_without_token": whole.height - spoken.height,
        "with_unknown_tokens": _with_unknown_tokens(fitting, turn.tokenizer),
        "problems_lost": whole["problem_id"].n_unique() - fitting["problem_id"].n_unique(),
        "with_logprobs": fitting.height - fitting["logprobs"].null_count(),
        "max_length": limit,
    }


def _with_unknown_tokens(rows: pl.DataFrame, tokenizer: Any) -> int:
    """Rows that hold the token which stands for all that the tokenizer does not know; 0 where none has that part."""
    unknown = tokenizer.unk_token_id
    if unknown is None or unknown in (tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.pad_token_id):
        return 0
    sides = (pl.col(name).list.contains(unknown) for name in ("prompt_ids", "completion_ids"))
    return rows.filter(pl.any_horizontal(sides)).height


def _heldout_problems(aside: pl.DataFrame) -> pl.DataFrame:
    """One PROBLEMS row a held-out problem that has a gold answer."""
    first = aside.unique("problem_id", keep="first", maintain_order=True).filter(pl.col("answer").is_not_null())
    frame = first.select(
        "problem_id",
        pl.lit("heldout").alias("split"),
        pl.col("prompt").alias("question"),
        "answer",
        pl.lit(None, dtype=pl.String).alias("solution"),
    )
    return checked(frame, PROBLEMS, "held-out problems")
