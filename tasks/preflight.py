"""Everything that can be refused before any work starts is refused here, in one line that names the field."""

from __future__ import annotations

import os
from pathlib import Path

import polars as pl

from tasks import home
from tasks.contracts import InputError, ModelRef
from tasks.devices import run_unpinned, slots
from tasks.methods import Method
from tasks.models.external import check_base, locate, reference
from tasks.models.prompts import check_template
from tasks.problems.files import read_problems
from tasks.problems.synthetic import check as check_world
from tasks.rollouts.files import heldout_split, read_rollouts
from tasks.settings import StudySpec

WORLD_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Linear modules of a Qwen3 block: what the embedded world's LoRA can target."""


def preflight(spec: StudySpec, out: Path | None = None) -> ModelRef | None:
    """Refuse what cannot work. Returns the user's base model, or None for the embedded world.

    Raises `InputError`. For a base of one's own this reads the rollouts and the model's configuration and tokenizer
    (a few seconds), but no weights beyond their digest.
    """
    slots()
    if out is not None:
        check_out(out)
    if not spec.own:
        _check_world(spec)
        return None
    return _own(spec)


def check_out(out: Path) -> None:
    there = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if not there.is_dir():
        raise InputError(f"--out: {there} is a file; give a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"--out: {there} cannot be written to; give another folder")


def _check_world(spec: StudySpec) -> None:
    try:
        check_world(spec.tiny)
    except InputError as error:
        raise InputError(f"tiny.{str(error).removeprefix('tiny.')}") from None
    for target in spec.lora.targets:
        if target not in WORLD_MODULES:
            raise InputError(f"lora.targets: the base has no module {target!r}; it has {', '.join(WORLD_MODULES)}")
    unused = {
        "model.prompt_template": spec.model.prompt_template,
        "model.pad_token": spec.model.pad_token,
        "model.max_length": spec.model.max_length,
        "evaluation.problems": spec.evaluation.problems,
    }
    for field, value in unused.items():
        if value is not None:
            raise InputError(f"{field}: the embedded world has its own; it is for a model.base of one's own")


def _own(spec: StudySpec) -> ModelRef:
    check_template(spec.model.prompt_template)
    assert spec.rollouts.file is not None
    rows = read_rollouts(Path(spec.rollouts.file).expanduser())
    if spec.evaluation.problems is not None:
        read_problems(Path(spec.evaluation.problems).expanduser())
    elif spec.rollouts.holdout == 0:
        raise InputError(
            "evaluation.problems: rollouts.holdout is 0, so there is nothing to evaluate on; give a file of problems"
        )
    elif rows["answer"].null_count() == rows.height:
        raise InputError(
            "evaluation.problems: the rollouts carry no gold answers to evaluate against; give a file of problems"
        )
    else:
        held = heldout_split(rows["problem_id"], spec.rollouts.holdout)
        rows = rows.filter(~pl.col("problem_id").is_in(list(held)))
    if rows["reward"].null_count() == 0:
        _check_rewards(spec, rows)
    folder = locate(spec.model.base)
    run_unpinned(
        check_base,
        {
            "folder": folder,
            "prompt_template": spec.model.prompt_template,
            "pad_token": spec.model.pad_token,
            "max_length": spec.model.max_length,
            "targets": spec.lora.targets,
        },
        log=home.subfolder("logs") / "preflight.log",
    )
    return ModelRef(
        ref=reference(folder),
        prompt_template=spec.model.prompt_template,
        pad_token=spec.model.pad_token,
        max_length=spec.model.max_length,
    )


def _check_rewards(spec: StudySpec, rows: pl.DataFrame) -> None:
    """With every reward given, whether each method has something to train on is known before anything is tokenised."""
    stand_in = rows.with_columns(
        prompt_ids=pl.lit([0], dtype=pl.List(pl.Int64)), completion_ids=pl.lit([0], dtype=pl.List(pl.Int64))
    )
    for name in spec.methods:
        spec.method(name).select(stand_in)


def check_selections(methods: dict[str, Method], graded: Path) -> None:
    """After grading, before training: raise `InputError` for a method that these rollouts leave nothing to train on."""
    frame = pl.read_parquet(graded)
    for method in methods.values():
        method.select(frame)
