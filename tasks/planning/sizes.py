"""How much there is of everything: rollouts, problems, answers, and their tokens. Estimates say what they assume."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tasks.core.rows import rows_bytes
from tasks.core.small_files import expanded
from tasks.problems.benchmarks import BENCHMARKS
from tasks.settings.study import StudySpec

WORLD_PROMPT, WORLD_COMPLETION = 31.0, 55.0
"""Mean tokens in the default study (measured; the smoke study's problems are shorter: 24 and 33)."""
PROMPT = 150.0
"""Mean tokens of a problem that has not been read, with its chat template."""
SHARE = 0.3
"""Mean length of a completion that nobody has seen, as a share of the longest allowed."""
REFERENCE = 150.0
"""Mean tokens of a reference solution of a benchmark."""
MIXED, WORLD_MIXED = 0.05, 0.3
"""Share of problems with right and wrong completions: the paper's 1,800 pairs of about 40,000 problems, and the default
study's 302 of 1,024."""
CHARACTERS = 3.5
"""Of a text in a file, a token."""
HUB = {"deepscaler": 40_315}
"""Problems on the Hub where a local file is only a part of them."""


@dataclass(frozen=True)
class Sizes:
    """Of one study."""

    prompts: int
    """That the teacher is asked; 0 where rollouts come from a file."""
    rows: int
    prompt: float
    completion: float
    longest: int
    """Tokens of the longest example; 0 where it is not known."""
    evaluated: int
    answer: float
    reference: float
    """Tokens of a held-out problem's reference solution."""
    pairs: int
    """Problems with both a right and a wrong completion."""
    source: str
    """What these numbers rest on."""
    file_bytes: int = 0

    @property
    def example(self) -> float:
        """Tokens of an example."""
        return self.prompt + self.completion


def sizes_of(spec: StudySpec, completion: float | None = None, *, read: bool = True) -> Sizes:
    """The sizes of ``spec``.

    Args:
        completion: mean tokens of a completion, where the user knows.
        read: whether a file of rollouts is read; without, only its length counts.

    Raises `InputError` for a file of rollouts that cannot be read.
    """
    if not spec.own:
        return _world(spec)
    evaluated = _evaluated(spec)
    rollouts = spec.rollouts
    answer = SHARE * spec.evaluation.max_new_tokens
    if rollouts.file is not None:
        return _file(spec, expanded(rollouts.file), evaluated, answer, read=read)
    holdout = 0.0 if spec.evaluation.problems else rollouts.holdout
    prompts = round(min(rollouts.prompts, _available(rollouts.problems)) * (1 - holdout))
    mean = completion or SHARE * rollouts.max_new_tokens
    said = "--tokens" if completion else f"{SHARE:g} of rollouts.max_new_tokens"
    longest = _kept(spec, round(PROMPT) + rollouts.max_new_tokens)
    return Sizes(
        prompts, prompts * rollouts.k, PROMPT, mean, longest, evaluated, answer,
        REFERENCE, round(MIXED * prompts),
        f"assumed: prompts of {PROMPT:g} tokens, completions of {mean:,.0f} ({said}), answers of {answer:,.0f}",
    )  # fmt: skip


def _world(spec: StudySpec) -> Sizes:
    rows = spec.rollouts.prompts * spec.rollouts.k
    short = spec.tiny.step_mix[0] == 1.0
    prompt, completion = (24.0, 33.0) if short else (WORLD_PROMPT, WORLD_COMPLETION)
    return Sizes(
        spec.rollouts.prompts, rows, prompt, completion, round(prompt) + spec.rollouts.max_new_tokens,
        spec.evaluation.n + spec.evaluation.hard_n, completion,
        completion, round(WORLD_MIXED * spec.rollouts.prompts),
        f"as in an earlier run of the synthetic task: prompts of {prompt:g} tokens, completions of {completion:g}",
    )  # fmt: skip


def _file(spec: StudySpec, file: Path, evaluated: int, answer: float, *, read: bool) -> Sizes:
    if not read:
        length = rows_bytes(file)
        return Sizes(0, 0, 0.0, 0.0, 0, evaluated, answer, REFERENCE, 0, "not read", length)
    from tasks.rollouts.files import marks_of, read_rollouts

    frame = read_rollouts(file, spec.rollouts.columns, marks_of(spec.model.prompt_template))
    prompts, completions = frame["prompt"].str.len_chars(), frame["completion"].str.len_chars()
    held = 0.0 if spec.evaluation.problems else spec.rollouts.holdout
    return Sizes(
        0, round(frame.height * (1 - held)), _mean(prompts) / CHARACTERS, _mean(completions) / CHARACTERS,
        _kept(spec, round(int((prompts + completions).max() or 0) / CHARACTERS)), evaluated, answer,  # type: ignore[arg-type]
        REFERENCE, round(MIXED * frame["problem_id"].n_unique()),
        f"rollouts as in the file, {CHARACTERS:g} characters a token; answers of {answer:,.0f} tokens assumed",
        rows_bytes(file),
    )  # fmt: skip


def _kept(spec: StudySpec, longest: int) -> int:
    """The longest example that is trained on: longer ones than model.max_length are dropped."""
    return min(longest, spec.model.max_length or longest)


def _mean(values: object) -> float:
    return float(values.mean() or 0.0)  # type: ignore[attr-defined]


def _available(problems: str | None) -> int:
    known = {one.name: one.n for one in BENCHMARKS} | HUB
    return known.get(problems or "", 2**31)


def _evaluated(spec: StudySpec) -> int:
    known = {one.name: one.n for one in BENCHMARKS}
    n = spec.evaluation.n
    asked = sum(min(n, known.get(name, n)) for name in spec.evaluation.benchmarks)
    if spec.evaluation.problems is not None:
        return asked + n
    if spec.rollouts.problems is not None:
        prompts = min(spec.rollouts.prompts, _available(spec.rollouts.problems))
        return asked + min(n, round(prompts * spec.rollouts.holdout))
    return asked + (n if spec.rollouts.holdout else 0)
