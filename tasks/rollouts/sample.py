"""Ask a teacher for K completions a problem. Runs in a worker process."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from tasks.core.digests import StageKey
from tasks.core.errors import InputError
from tasks.core.frames import COMPLETIONS, PROBLEMS, ROLLOUTS, checked
from tasks.core.results import Progress, no_progress
from tasks.core.sections import RolloutSpec
from tasks.core.stages import UNTRUNCATED, WORLD_ROLLOUTS
from tasks.engines.interface import Completion, Engine, Request, Sampling, seed_of
from tasks.engines.journal import Journal, complete
from tasks.engines.vllm_installation import engine_identity, vllm_version
from tasks.models.tokenizer import tokenizer_digest
from tasks.problems.overlap import instructed
from tasks.rollouts.own import without_truncated
from tasks.rollouts.teacher import TEACHER, teacher_turn
from tasks.workers.devices import slots

MOST_REFUSED = 0.05
"""Share of the requests that an endpoint may refuse; more of them are no accident of single problems."""
AT_ONCE = 4096
"""Completions that become columns of a frame at once."""


def world_rollouts_key(spec: RolloutSpec, world: str, problems: str) -> StageKey:
    """What decides the embedded teacher's rollouts. ``world``, ``problems``: digests of those two artifacts."""
    settings = {
        **spec.model_dump(mode="json", include={"k", "temperature", "max_new_tokens", "seed"}),
        "engine": engine_identity(spec.engine),
        "device": slots()[0].kind,
    }
    return WORLD_ROLLOUTS.key({"world": world, "problems": problems}, settings)


def untruncated_key(rollouts: str) -> StageKey:
    """Of the embedded teacher's ``rollouts`` (their digest) those that were not cut."""
    return UNTRUNCATED.key({"rollouts": rollouts}, {"truncated": "drop"})


def sample_completions(
    *, problems: Path, teacher: Path | None, spec: RolloutSpec, journal: Path, out: Path,
    instruction: str | None = None, progress: Progress = no_progress,
) -> dict[str, Any]:  # fmt: skip
    """The teacher's completions of all ``problems``, written as ``completions.parquet`` (COMPLETIONS).

    ``teacher``: its folder, None for an endpoint. It is asked through its own chat template, or
    ``rollouts.teacher_template``, with ``instruction`` behind every question. Problems that leave no room for a
    completion in its context are left out and counted.
    ``journal`` keeps what is there already if this is killed. What an endpoint refuses is left out and counted; so is
    reasoning that it tells apart from the answer, unless ``rollouts.reasoning`` joins them. Log-probabilities are asked
    for only where the completion's tokens will be known: they are of no use without. Raises `InputError` where no
    problem fits, and where more than `MOST_REFUSED` of the requests are refused.
    """
    from tasks.engines.choose import open_engine
    from tasks.models.load import context_length

    turn = teacher_turn(spec, teacher)
    frame = checked(pl.read_parquet(problems), PROBLEMS, "problems")
    texts = [instructed(question, instruction) for question in frame["question"]]
    prompts: list[tuple[int, ...] | None] = [None] * frame.height
    if turn is not None:
        prompts = [tuple(turn.prompt(text)) for text in texts]
    limit = None if teacher is None else context_length(teacher) - spec.max_new_tokens
    fits = [limit is None or prompt is None or len(prompt) <= limit for prompt in prompts]
    if not any(fits):
        raise InputError(
            f"rollouts.max_new_tokens: with {spec.max_new_tokens} tokens for an answer none of the {frame.height} "
            "problems fits the teacher's context"
        )
    asked = frame.filter(pl.Series(fits))
    kept = [prompt for prompt, fit in zip(prompts, fits, strict=True) if fit]
    said = [text for text, fit in zip(texts, fits, strict=True) if fit]
    engine = open_engine(spec, teacher, _longest(kept, spec))
    ends = () if turn is None else turn.end_ids
    found, left_out = ask(engine, asked, said, kept, ends, spec, Journal(journal), progress)
    found.write_parquet(out / "completions.parquet")
    spoken = {"tokenizer": None if turn is None else tokenizer_digest(turn.tokenizer)}
    (out / TEACHER).write_text(json.dumps(spoken | ({"opens": turn.opens} if turn is not None and turn.opens else {})))
    return {
        "rows": found.height,
        "problems": asked.height,
        "too_long_for_teacher": frame.height - asked.height,
        "truncated": found.filter(finish_reason="length").height,
        "with_ids": found.height - found["completion_ids"].null_count(),
        "with_logprobs": found.height - found["logprobs"].null_count(),
        **left_out,
        **vllm_version(spec.engine),
    }


def _longest(prompts: Sequence[tuple[int, ...] | None], spec: RolloutSpec) -> int:
    """Tokens of the longest prompt that is known here, and its answer."""
    return max((len(prompt) for prompt in prompts if prompt is not None), default=0) + spec.max_new_tokens


def ask(
    engine: Engine,
    problems: pl.DataFrame,
    texts: Sequence[str],
    prompts: Sequence[tuple[int, ...] | None],
    end_ids: tuple[int, ...],
    spec: RolloutSpec,
    journal: Journal,
    progress: Progress = no_progress,
) -> tuple[pl.DataFrame, dict[str, int | str]]:
    """COMPLETIONS: K for each of P ``problems``, which the teacher is asked as ``texts`` and ``prompts`` (token ids).

    ``end_ids`` end its answers, where its tokens are known.

    The seed of a completion is a hash of the sampling seed, the problem and its place among the K: it depends on
    nothing that is sampled beside it. Completions cut at ``max_new_tokens`` are kept and marked ``length``. What is in
    the journal is not asked for again. Also returned: how many are ``refused``, the problems that those are of
    (``refused_problems``, the first few), and how many came ``with_reasoning`` and what became of it.
    """
    requests = [
        # Two sets of problems may give one id to two questions, and a journal serves both.
        Request(json.dumps([name, i, _digest(text)]), text, prompt, seed_of(spec.seed, name, i))
        for name, text, prompt in zip(problems["problem_id"], texts, prompts, strict=True)
        for i in range(spec.k)
    ]
    total = len(requests)
    refused: dict[str, str] = {}
    done = sum(request.id in journal for request in requests)

    def told(request: Request, completion: Completion) -> None:
        nonlocal done
        done += 1
        progress(done, total, "completions")
        if completion.finish_reason == "refused":
            refused[request.id] = completion.text
            if len(refused) > MOST_REFUSED * total:
                first, reason = next(iter(refused.items()))
                raise InputError(
                    f"rollouts.problems: the endpoint refused {len(refused)} of {total} requests, the first, of "
                    f"problem {json.loads(first)[0]}, with {reason}; leave such problems out, or check rollouts.extra "
                    "and the sampling settings"
                )

    known = all(prompt is not None for prompt in prompts)
    sampling = Sampling(spec.max_new_tokens, spec.temperature, logprobs=known, end_ids=end_ids)
    complete(engine, requests, sampling, journal, told)
    asked = problems.join(pl.DataFrame({"rollout_id": range(spec.k)}), how="cross", maintain_order="left_right")
    frame = asked.select(
        "problem_id",
        "rollout_id",
        pl.col("question").alias("prompt"),
        "answer",
        pl.Series("seed", [request.seed for request in requests], dtype=pl.Int64),
    )
    parts, reasoning = [], 0
    for start in range(0, total, AT_ONCE):
        found = journal.read([request.id for request in requests[start : start + AT_ONCE]])
        reasoning += sum(one.reasoning is not None for one in found)
        parts.append(_columns(found, spec.reasoning))
    frame = pl.concat([frame, pl.concat(parts)], how="horizontal").filter(pl.col("finish_reason") != "refused")
    names = list(dict.fromkeys(json.loads(name)[0] for name in refused))
    left_out: dict[str, int | str] = {
        "refused": len(refused), "refused_problems": ", ".join(names[:5]) + (", ..." if len(names) > 5 else ""),
        "with_reasoning": reasoning, "reasoning": spec.reasoning,
    }  # fmt: skip
    return checked(frame, COMPLETIONS, "completions"), left_out


def _columns(found: Sequence[Completion], reasoning: str) -> pl.DataFrame:
    """The columns of COMPLETIONS that the engine decides. Tokens of a text that was put together are not known."""
    apart = [one.reasoning is not None for one in found]
    texts = [joined(one) if reasoning == "join" else one.text for one in found]
    ids = [None if thought else one.ids for one, thought in zip(found, apart, strict=True)]
    logprobs = [None if thought else one.logprobs for one, thought in zip(found, apart, strict=True)]
    return pl.DataFrame(
        [
            pl.Series("completion", texts, dtype=pl.String),
            pl.Series("completion_ids", ids, dtype=pl.List(pl.Int64)),
            pl.Series("logprobs", logprobs, dtype=pl.List(pl.Float64)),
            pl.Series("finish_reason", [one.finish_reason for one in found], dtype=pl.String),
        ]
    )


def joined(completion: Completion) -> str:
    """Thinking and answer in one text, as DeepSeek-R1 and Qwen3 write them; unclosed where nothing came after it."""
    if completion.reasoning is None:
        return completion.text
    thought = f"<think>\n{completion.reasoning.strip()}"
    if completion.finish_reason == "length" and not completion.text:
        return thought
    return f"{thought}\n</think>\n\n{completion.text.lstrip()}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def sample_world(
    *, teacher: Path, student: Path, problems: Path, spec: RolloutSpec, journal: Path, out: Path,
    progress: Progress = no_progress,
) -> dict[str, Any]:  # fmt: skip
    """K completions of the embedded teacher for every problem of split ``rollouts``: ``rollouts.parquet`` (ROLLOUTS).

    The teacher is asked in its own style; the rows carry the PLAIN prompt's token ids, which is what the student is
    trained on. Behaviour log-probabilities are the teacher's at the sampling temperature, under its own prompt.
    """
    from tasks.engines.choose import open_engine
    from tasks.models.turn import open_turn
    from tasks.problems.synthetic import instruct

    turn = open_turn(student)
    frame = checked(pl.read_parquet(problems), PROBLEMS, "problems").filter(pl.col("split") == "rollouts")
    texts = [instruct(question) for question in frame["question"]]
    prompts = [tuple(turn.prompt(text)) for text in texts]
    engine = open_engine(spec, teacher, _longest(prompts, spec))
    found, _ = ask(engine, frame, texts, prompts, turn.end_ids, spec, Journal(journal), progress)
    plain = [turn.prompt(question) for question in frame["question"] for _ in range(spec.k)]
    rollouts = found.with_columns(
        prompt_ids=pl.Series(plain, dtype=pl.List(pl.Int64)), given_reward=pl.lit(None, dtype=pl.Float64)
    )
    return {**_write(rollouts, rollouts.height, out), **vllm_version(spec.engine)}


def without_truncated_world(*, rollouts: Path, out: Path) -> dict[str, Any]:
    """Those of the embedded teacher's ``rollouts`` that were not cut, written to the same file in ``out``."""
    frame = checked(pl.read_parquet(rollouts), ROLLOUTS, "rollouts")
    return _write(without_truncated(frame, "drop"), frame.height, out)


def _write(kept: pl.DataFrame, sampled: int, out: Path) -> dict[str, Any]:
    checked(kept.select(ROLLOUTS.keys()), ROLLOUTS, "rollouts").write_parquet(out / "rollouts.parquet")
    return {
        "rows": kept.height,
        "problems": kept["problem_id"].n_unique(),
        "dropped_too_long": 0,
        "dropped_truncated": sampled - kept.height,
    }
