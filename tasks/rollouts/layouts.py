"""What a row of somebody's rollouts may look like, and how it becomes completions.

Four layouts are told apart by a row's keys; where several names are accepted the first one present counts:

- ``completion``: one row a completion. Question: ``prompt``, ``question`` or ``problem``. Text: ``completion``,
  ``response`` or ``solution``. Optional: ``problem_id``; gold: ``answer``, ``gold`` or ``ground_truth``; reward:
  ``reward``, ``is_correct``, ``score`` or ``given_reward`` (true/false or 0/1); ``logprobs`` (one number a
  completion token), ``finish_reason`` ("stop" or "length"), ``seed``. Our own rollouts have this layout.
- ``prompt``: one row a prompt, with a list ``completions`` of strings, or of objects with the text, the reward,
  ``logprobs``, ``finish_reason`` and ``seed`` under the names above; rewards of strings in a parallel list ``rewards``.
- ``grade-school-math``: ``question``, ``ground_truth`` and several objects ``{solution, is_correct}`` under any names
  (openai/grade-school-math, example_model_solutions.jsonl).
- ``Qwen2.5-Math``: ``question``, ``gt`` and the parallel lists ``code`` (completions) and ``score`` (the
  evaluation output of QwenLM/Qwen2.5-Math).

Every completion needs a reward or a gold answer. A gold that is a worked solution ending in a line ``#### 1,234`` or
``A: 18`` is reduced to that answer, without thousands separators; any other gold stays as it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from tasks.problems.files import worked
from tasks.rows import Row, number_text, question_id, show

PROMPT = ("prompt", "question", "problem")
COMPLETION = ("completion", "response", "solution")
GOLD = ("answer", "gold", "ground_truth")
REWARD = ("reward", "is_correct", "score", "given_reward")
FINISH_REASONS = ("stop", "length")
_INT64 = 2**63
_LOGPROB_SLACK = 1e-3  # a log-probability is <= 0; bfloat16 rounding may lift a certain token a little above


def completions(row: Row) -> Iterator[dict[str, Any]]:
    """The completions of one row: dicts with the columns of `tasks.rollouts.files.ROLLOUT_FILE` but for rollout_id.

    Raises `InputError` for anything that does not fit the layout the row's keys point to.
    """
    values = row.values
    if isinstance(values.get("code"), list) and isinstance(values.get("score"), list):
        return _of_prompt(row, "code", "score", ("gt",))
    if "completions" in values:
        return _of_prompt(row, "completions", "rewards", GOLD)
    nested = {key: value for key, value in values.items() if isinstance(value, Mapping) and "solution" in value}
    if nested and not any(values.get(name) is not None for name in COMPLETION):
        shared = _shared(row, GOLD)
        return (_one(Row(row.where, value), shared, f"{key}.") for key, value in nested.items())
    return iter((_one(row, _shared(row, GOLD), ""),))


def _of_prompt(row: Row, texts: str, rewards: str, gold: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """One row a prompt: the list ``texts`` and, where given, the parallel list ``rewards``."""
    items, labels = row.values[texts], row.values.get(rewards)
    if not isinstance(items, list) or not items:
        raise row.refuse(texts, f"a list of at least one completion, got {show(items)}", "leave the row out")
    if labels is not None and (not isinstance(labels, list) or len(labels) != len(items)):
        raise row.refuse(rewards, f"{len(items)} rewards, one a completion, got {show(labels)}", "complete the list")
    shared = _shared(row, gold)
    for i, item in enumerate(items):
        values = dict(item) if isinstance(item, Mapping) else {"completion": item}
        if labels is not None and labels[i] is not None:
            if any(values.get(name) is not None for name in REWARD):
                raise row.refuse(rewards, f"rewards in one place, but `{texts}[{i}]` has its own", "remove one of them")
            values["reward"] = labels[i]
        yield _one(Row(row.where, values), shared, f"{texts}[{i}].")


def _shared(row: Row, gold: tuple[str, ...]) -> dict[str, Any]:
    """What the completions of a row have in common: the problem, the question and the gold answer."""
    name, prompt = row.first(PROMPT)
    if not isinstance(prompt, str) or not prompt.strip():
        raise row.refuse(
            name, f"the question as a non-empty string, got {show(prompt)}", f"give it as one of {_either(PROMPT)}"
        )
    return {
        "problem_id": _problem_id(row, row.text(name, prompt)),
        "prompt": prompt,
        "answer": _gold(row, gold),
    }


def _one(row: Row, shared: dict[str, Any], prefix: str) -> dict[str, Any]:
    """One completion; ``prefix`` names the place inside the row, for errors."""
    name, completion = row.first(COMPLETION)
    if not isinstance(completion, str):
        raise row.refuse(
            prefix + name,
            f"the completion as a string (it may be empty), got {show(completion)}",
            f"give it as one of {_either(COMPLETION)}, or a list as `completions`",
        )
    reward = _reward(row, prefix)
    if reward is None and shared["answer"] is None:
        raise row.refuse(
            prefix + "reward",
            "a reward or a gold answer, got neither",
            f"give one of {_either(REWARD)} or one of {_either(GOLD)}",
        )
    return {
        **shared,
        "completion": row.text(prefix + name, completion),
        "reward": reward,
        "logprobs": _logprobs(row, prefix),
        "finish_reason": _finish_reason(row, prefix),
        "seed": _seed(row, prefix),
    }


def _problem_id(row: Row, prompt: str) -> str:
    given = row.values.get("problem_id")
    if given is None:
        return question_id(prompt)
    if isinstance(given, bool) or not isinstance(given, str | int) or given == "":
        raise row.refuse(
            "problem_id",
            f"a non-empty string or an integer, got {show(given)}",
            "leave the field out to have it derived from the question",
        )
    return row.text("problem_id", str(given))


def _gold(row: Row, names: tuple[str, ...]) -> str | None:
    name, gold = row.first(names)
    if gold is None:
        return None
    number = type(gold) is int or (isinstance(gold, float) and math.isfinite(gold))
    if not number and not (isinstance(gold, str) and gold.strip()):
        raise row.refuse(
            name, f"the gold answer as a non-empty string or a number, got {show(gold)}", "use null where it is unknown"
        )
    return bare_gold(row.text(name, number_text(gold) if number else gold))


def bare_gold(gold: str) -> str:
    """``"... so 9 * 2 = 18\\n#### 1,234" -> "1234"``; a gold that is no worked solution stays as it is."""
    return worked(gold)[0]


def _reward(row: Row, prefix: str) -> float | None:
    name, reward = row.first(REWARD)
    if reward is None:
        return None
    if not isinstance(reward, bool | int | float) or reward not in (0, 1):
        raise row.refuse(
            prefix + name,
            f"0, 1, true or false, got {show(reward)}",
            "give a verdict, not a score, or leave it out to have the answer graded",
        )
    return float(reward)


def _logprobs(row: Row, prefix: str) -> list[float] | None:
    given = row.values.get("logprobs")
    if given is None:
        return None
    if not isinstance(given, list):
        raise row.refuse(prefix + "logprobs", f"a list of numbers, one a token, got {show(given)}", "or leave it out")
    for i, value in enumerate(given):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not -_INT64 < value <= _LOGPROB_SLACK:  # false for NaN and the infinities too
            raise row.refuse(
                f"{prefix}logprobs[{i}]",
                f"a finite log-probability (at most 0), got {show(value)}",
                "correct it or leave `logprobs` out",
            )
    return [float(value) for value in given]


def _finish_reason(row: Row, prefix: str) -> str:
    given = row.values.get("finish_reason")
    if given is not None and given not in FINISH_REASONS:
        raise row.refuse(
            prefix + "finish_reason", f"one of {_either(FINISH_REASONS)}, got {show(given)}", 'leave it out for "stop"'
        )
    return given or "stop"


def _seed(row: Row, prefix: str) -> int:
    given = row.values.get("seed")
    if given is None:
        return 0
    if isinstance(given, bool) or not isinstance(given, int) or not -_INT64 <= given < _INT64:
        raise row.refuse(prefix + "seed", f"a 64-bit integer, got {show(given)}", "or leave it out")
    return given


def _either(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names)
