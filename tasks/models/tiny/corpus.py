"""The pretraining stream and the dev problems as packed token ids, shared out over the ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tasks.core.sections import TinySpec
from tasks.models.tiny.batches import Encoded, Packed, pack
from tasks.problems.overlap import question_key
from tasks.problems.synthetic import PRETRAINING, Mix, Problem, Style, instruct, pretraining_example, solve

if TYPE_CHECKING:
    from torch import device

ROW_TOKENS = 160
CHECK_ROW_TOKENS = 192
CHECK_EXAMPLES = 100
"""Dev examples a forward pass."""


def prompt_ids(tokenizer: Any, question: str) -> tuple[int, ...]:
    """``question`` as a user's turn, ready for the answer."""
    message = [{"role": "user", "content": question}]
    return tuple(tokenizer.apply_chat_template(message, add_generation_prompt=True, return_dict=False))


def encode(tokenizer: Any, question: str, completion: str) -> Encoded:
    """Both parts in ids, the completion with its end-of-sequence token."""
    answer = tokenizer(completion, add_special_tokens=False)["input_ids"]
    return Encoded(prompt_ids(tokenizer, question), (*answer, tokenizer.eos_token_id))


def batch_share(
    spec: TinySpec, tokenizer: Any, step: int, rank: int, world: int, where: device, mix: Mix = PRETRAINING
) -> tuple[Packed, list[int]]:
    """This rank's part of batch ``step`` (from 0), and the keys of its questions."""
    first = step * spec.batch_size
    examples = [pretraining_example(spec, i, mix) for i in range(first + rank, first + spec.batch_size, world)]
    encoded = [encode(tokenizer, example.prompt, example.completion) for example in examples]
    packed = pack(encoded, pad_id=tokenizer.pad_token_id, row_tokens=ROW_TOKENS, device=where)
    return packed, [question_key(example.question) for example in examples]


def dev_batches(tokenizer: Any, problems: Sequence[Problem], style: Style, where: device) -> list[Packed]:
    """``problems`` answered in ``style`` (b: with the instruction), packed; similar lengths together."""
    return _packed(
        [encode(tokenizer, asked(problem, style), solve(problem, style)) for problem in problems], tokenizer, where
    )


def opening_batches(tokenizer: Any, problems: Sequence[Problem], where: device) -> list[Packed]:
    """The plain prompts of ``problems``, each with one target: style b's first token, with which no answer in style a
    begins (one begins with a digit). Its probability is that of style b unasked."""
    opening = tuple(tokenizer(solve(problems[0], "b"), add_special_tokens=False)["input_ids"][:1])
    return _packed(
        [Encoded(prompt_ids(tokenizer, problem.question), opening) for problem in problems], tokenizer, where
    )


def _packed(examples: Sequence[Encoded], tokenizer: Any, where: device) -> list[Packed]:
    ordered = sorted(examples, key=len)
    return [
        pack(ordered[i : i + CHECK_EXAMPLES], pad_id=tokenizer.pad_token_id, row_tokens=CHECK_ROW_TOKENS, device=where)
        for i in range(0, len(ordered), CHECK_EXAMPLES)
    ]


def asked(problem: Problem, style: Style) -> str:
    """The question as ``style`` is asked for: plain for a, with the instruction for b."""
    return instruct(problem.question) if style == "b" else problem.question
