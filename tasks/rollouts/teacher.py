"""Who solves the problems: the teacher's folder, tokenizer and identity, and what can be refused about them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.core import home
from tasks.core.digests import StageKey
from tasks.core.errors import InputError
from tasks.core.results import Progress, no_progress
from tasks.core.sections import RolloutSpec
from tasks.core.small_files import expanded
from tasks.core.stages import COMPLETIONS, JOURNAL
from tasks.engines.vllm_installation import engine_identity
from tasks.models.external import locate, reference
from tasks.models.prompts import check_template
from tasks.models.tokenizer import tokenizer_digest
from tasks.workers.devices import run_unpinned, slots

if TYPE_CHECKING:
    from tasks.models.turn import Turn

TEACHER = "teacher.json"
"""Beside a teacher's completions: the digest of the tokenizer that their ids are of, and what its prompt ``opens``."""


def teacher_folder(spec: RolloutSpec) -> Path | None:
    """The teacher's model directory; None for an endpoint, which has it itself. Raises `InputError`."""
    if spec.engine == "openai":
        return None
    assert spec.teacher is not None
    return locate(spec.teacher, "rollouts.teacher")


def completions_key(spec: RolloutSpec, prompts: str, folder: Path | None, instruction: str | None = None) -> StageKey:
    """What decides the teacher's completions. ``prompts``: digest of the artifact with the problems."""
    settings = {**said_by(spec, folder), "k": spec.k, "reasoning": spec.reasoning if folder is None else ""}
    settings |= {"instruction": instruction} if instruction else {}
    return COMPLETIONS.key({"prompts": prompts}, settings)


def said_by(spec: RolloutSpec, folder: Path | None) -> dict[str, Any]:
    """What decides one completion but for the problem and its place among the K: the teacher and how it is asked."""
    teacher: dict[str, Any] = {"model": reference(folder).sha256} if folder else {"model": spec.teacher}
    if folder is None:
        teacher |= {"endpoint": spec.endpoint, "extra": spec.extra, "tokenizer": _tokenizer_identity(spec)}
    rule = _turn_rule(spec, folder)
    return {
        **spec.model_dump(mode="json", include={"temperature", "max_new_tokens", "seed"}),
        "engine": engine_identity(spec.engine),
        "teacher": teacher | ({"turn": rule} if rule else {}),
        "template": spec.teacher_template,
        "device": slots()[0].kind if folder else "",
    }


def journal_file(spec: RolloutSpec, folder: Path | None) -> Path:
    """Where the teacher's completions are kept as they come.

    Named by `said_by` alone: more of them, or for other problems, are asked of the same teacher without paying again
    for those that are there.
    """
    digest = JOURNAL.key({}, said_by(spec, folder)).digest
    return home.subfolder("journals") / f"{digest}.jsonl"


def _tokenizer_identity(spec: RolloutSpec) -> str | None:
    """The digest of a tokenizer's folder, else its name on the Hub."""
    if spec.teacher_tokenizer is None:
        return None
    folder = expanded(spec.teacher_tokenizer)
    patterns = ("tokenizer*", "*vocab*", "merges.txt", "special_tokens_map.json", "*.jinja")
    return reference(folder, patterns).sha256 if folder.is_dir() else spec.teacher_tokenizer


def teacher_tokenizer(spec: RolloutSpec, folder: Path | None) -> Any:
    """The teacher's tokenizer, None where only the endpoint has it. One without a pad token will do.

    Raises `InputError` where it cannot be had, or has neither a chat template nor ``rollouts.teacher_template``.
    """
    from transformers import AutoTokenizer

    name = folder or spec.teacher_tokenizer
    if name is None:
        return None
    setting = "rollouts.teacher" if folder else "rollouts.teacher_tokenizer"
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(expanded(name)), trust_remote_code=False)
    except Exception as error:  # whatever transformers or the Hub says of a damaged or unknown one
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{setting}: no tokenizer is to be had from {name}: {reason}") from error
    if tokenizer.eos_token_id is None:
        raise InputError(f"{setting}: the tokenizer of {name} has no end-of-sequence token, which ends every answer")
    if spec.teacher_template is None and not tokenizer.chat_template:
        raise InputError(
            f"rollouts.teacher_template: {name} has no chat template; give one, for example "
            "--set rollouts.teacher_template='Question: {question}\\nAnswer:\\n'"
        )
    return tokenizer


def teacher_turn(spec: RolloutSpec, folder: Path | None) -> Turn | None:
    """How the teacher is asked; None where only the endpoint knows that. Raises `InputError` as `teacher_tokenizer`."""
    from tasks.models.turn import turn_of

    tokenizer = teacher_tokenizer(spec, folder)
    return None if tokenizer is None else turn_of(tokenizer, folder or _named(spec), spec.teacher_template)


def _named(spec: RolloutSpec) -> Path | None:
    """The folder of an endpoint's tokenizer, where it is one: its model's configuration may lie beside it."""
    folder = expanded(spec.teacher_tokenizer or "")
    return folder if spec.teacher_tokenizer and folder.is_dir() else None


_rules: dict[str, dict[str, Any] | None] = {}
"""What workers have said of teachers' turns in this process."""


def _turn_rule(spec: RolloutSpec, folder: Path | None) -> dict[str, Any] | None:
    """`tasks.core.results.TurnRecord.rule` of the teacher: transformers says it, so a worker is asked, once."""
    if folder is None and spec.teacher_tokenizer is None:
        return None
    who = reference(folder).sha256 if folder else _tokenizer_identity(spec)
    name = json.dumps([who, spec.teacher_template])
    if name not in _rules:
        log = home.subfolder("logs") / "teacher-turn.log"
        _rules[name] = run_unpinned(turn_rule, {"spec": spec, "folder": folder}, log=log)["rule"]
    return _rules[name]


def turn_rule(*, spec: RolloutSpec, folder: Path | None, progress: Progress = no_progress) -> dict[str, Any]:
    """``rule`` of the teacher's turn. Needs transformers: for a worker process."""
    turn = teacher_turn(spec, folder)
    return {"rule": None if turn is None else turn.record.rule}


def check_teacher(
    *, spec: RolloutSpec, folder: Path | None, base: Path, pad_token: str | None, progress: Progress = no_progress
) -> dict[str, Any]:
    """Refuse a teacher that cannot be asked. Needs transformers: for a worker process.

    Returns whether its ``tokens`` will be known and are the base's own: only then the log-probabilities can be kept.
    Raises `InputError`.
    """
    from tasks.models.load import context_length, load_tokenizer

    check_template(spec.teacher_template, "rollouts.teacher_template")
    tokenizer = teacher_tokenizer(spec, folder)
    if folder is not None and context_length(folder) <= spec.max_new_tokens:
        raise InputError(
            f"rollouts.max_new_tokens: {spec.max_new_tokens} tokens leave no room for a prompt in the teacher's "
            f"context of {context_length(folder)}"
        )
    if tokenizer is None:
        return {"tokens": False}
    return {"tokens": tokenizer_digest(tokenizer) == tokenizer_digest(load_tokenizer(base, pad_token))}
