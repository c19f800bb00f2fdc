"""Everything that can be refused before any work starts is refused here, in one line that names the field."""

from __future__ import annotations

import os
from pathlib import Path

import polars as pl

from tasks.core import home
from tasks.core.errors import InputError
from tasks.core.results import ArtifactRef, ModelRef
from tasks.core.sections import ModelSpec, RolloutSpec
from tasks.core.small_files import expanded
from tasks.engines import named
from tasks.engines.choose import probe_endpoint
from tasks.engines.endpoint import read_key
from tasks.engines.vllm import check_cpu, check_head
from tasks.engines.vllm_adapters import RANKS
from tasks.engines.vllm_installation import check_device
from tasks.geometry.paths.texts import text_rows
from tasks.grading.golds import check_golds
from tasks.grading.grade import unparsed_golds
from tasks.methods import Method
from tasks.methods.common import chosen
from tasks.models.dequantise import described, gguf_reference
from tasks.models.external import check_base, check_vocabulary, locate, reference
from tasks.models.gguf_file import find_gguf
from tasks.models.prompts import check_question, check_template
from tasks.planning.plan import check_machine
from tasks.problems.benchmarks import check_names, open_benchmark, open_heldout
from tasks.problems.synthetic import check as check_world
from tasks.reporting.files import check_out
from tasks.rollouts.files import heldout_split, marks_of, read_rollouts
from tasks.rollouts.prompts import chosen_prompts, prompts_key
from tasks.rollouts.teacher import check_teacher, completions_key, teacher_folder
from tasks.settings.study import StudySpec
from tasks.storage.store import open_store
from tasks.workers.devices import run_unpinned, slots

SHORTEST = 256
"""Questions of own rollouts, the shortest, of which one at least must fit the base's context."""

WORLD_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Linear modules of a Qwen3 block: what the synthetic task's LoRA can target."""


def preflight(spec: StudySpec, out: Path | None = None) -> ModelRef | None:
    """Refuse what cannot work. Returns the user's base model, or None for the synthetic task.

    Raises `InputError`. For a base of one's own this reads the rollouts and the model's configuration and tokenizer
    (a few seconds), but no weights beyond their digest.
    """
    slots()
    if spec.own or spec.rollouts.key_env != RolloutSpec().key_env:  # the synthetic task asks no endpoint
        _check_key(spec.rollouts)
    if out is not None:
        check_out(out)
    if spec.functions.texts is not None:
        _check_texts(spec.functions.texts)
    if not spec.own:
        _check_world(spec)
        _check_vllm(spec, None)
        return None
    return _own(spec)


def _check_texts(texts: str) -> None:
    try:
        text_rows(expanded(texts))
    except InputError as error:
        raise InputError(f"functions.texts: {error}") from None


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
        "model.instruction": spec.model.instruction,
        "model.pad_token": spec.model.pad_token,
        "model.gguf_file": spec.model.gguf_file,
        "model.max_length": spec.model.max_length,
        "evaluation.problems": spec.evaluation.problems,
        "evaluation.benchmarks": spec.evaluation.benchmarks or None,
        "evaluation.fields": spec.evaluation.fields or None,
        "rollouts.problems": spec.rollouts.problems,
        "rollouts.fields": spec.rollouts.fields or None,
    }
    for field, value in unused.items():
        if value is not None:
            raise InputError(f"{field}: the synthetic task has its own; it is for a model.base of one's own")
    if spec.rollouts.engine == "openai":
        raise InputError("rollouts.engine: the synthetic task's teacher is here; use transformers or vllm")
    if not _elsewhere():
        _check_engine(spec.rollouts)


def _own(spec: StudySpec) -> ModelRef:
    check_template(spec.model.prompt_template)
    if spec.model.instruction is not None:
        check_question(spec.model.instruction, "model.instruction")
    questions: list[str] = []
    if spec.rollouts.problems is not None:
        _check_engine(spec.rollouts)
    known = check_machine(spec)
    if spec.rollouts.problems is None:
        questions = _check_file(spec)
    else:
        _check_evaluation(spec)
    folder, ref = _find(spec.model)
    if not known:
        check_machine(spec)  # it has been fetched, and its shape can be read
    found = run_unpinned(
        check_base,
        {
            "folder": folder,
            "prompt_template": spec.model.prompt_template,
            "instruction": spec.model.instruction,
            "questions": questions,
            "pad_token": spec.model.pad_token,
            "max_length": spec.model.max_length,
            "template_date": spec.model.template_date,
            "targets": spec.lora.targets,
        },
        log=home.subfolder("logs") / "preflight.log",
    )
    if spec.rollouts.problems is not None:
        _check_sampling(spec, folder)
    if found["max_length"] <= spec.evaluation.max_new_tokens:
        raise InputError(
            f"evaluation.max_new_tokens: {spec.evaluation.max_new_tokens} tokens leave no room for a prompt in the "
            f"base's {found['max_length']}; lower it"
        )
    if "distillation" in spec.methods:
        _check_distilled(spec, folder)
    _check_vllm(spec, folder)
    return ModelRef(
        ref=ref,
        prompt_template=spec.model.prompt_template,
        instruction=spec.model.instruction,
        pad_token=spec.model.pad_token,
        max_length=spec.model.max_length,
        template_date=spec.model.template_date,
        turn=found["turn"],
    )


def distilled(spec: StudySpec) -> ModelRef | None:
    """The user's teacher for distillation; None where the study has none. Raises `InputError`."""
    if spec.distillation.teacher is None or "distillation" not in spec.methods:
        return None
    return ModelRef(reference(locate(spec.distillation.teacher, "distillation.teacher")))


def _check_distilled(spec: StudySpec, base: Path) -> None:
    assert spec.distillation.teacher is not None
    teacher = locate(spec.distillation.teacher, "distillation.teacher")
    arguments = {"teacher": teacher, "base": base, "pad_token": spec.model.pad_token}
    run_unpinned(check_vocabulary, arguments, log=home.subfolder("logs") / "preflight.log")


def _find(model: ModelSpec) -> tuple[Path, ArtifactRef]:
    """A folder with the base's configuration and tokenizer, and what the study takes its weights from."""
    file = find_gguf(model.base, model.gguf_file)
    if file is not None:
        return described(file), gguf_reference(file)
    folder = locate(model.base)
    return folder, reference(folder)


def _check_file(spec: StudySpec) -> list[str]:
    """The user's own rollouts: readable, gradable, and something in them for every method.

    Returns the shortest of their questions.
    """
    assert spec.rollouts.file is not None
    control = marks_of(spec.model.prompt_template)
    rows = read_rollouts(expanded(spec.rollouts.file), spec.rollouts.columns, control)
    _check_evaluation(spec, rows)
    known = rows.filter(pl.col("reward").is_null() & pl.col("answer").is_not_null())
    golds = known.unique("problem_id", maintain_order=True)
    check_golds(golds["answer"].to_list(), golds["problem_id"].to_list(), "rollouts.file")
    if spec.evaluation.problems is None and spec.rollouts.holdout > 0:
        held = pl.col("problem_id").is_in(list(heldout_split(rows["problem_id"], spec.rollouts.holdout)))
        _check_held_out(rows.filter(held))
        rows = rows.filter(~held)
    if rows["reward"].null_count() == 0:
        _check_rewards(spec, rows)
    return sorted(rows["prompt"].unique(), key=len)[:SHORTEST]


def _check_held_out(rows: pl.DataFrame) -> None:
    """Of problems that are held out with given rewards some golds may be unread: they are counted. But not all."""
    golds = rows.drop_nulls("answer").unique("problem_id", maintain_order=True)["answer"].to_list()
    if golds and len(unparsed_golds(golds)) == len(golds):
        raise InputError(
            f"rollouts.holdout: the grader can read no gold answer of the {len(golds)} problems held out, so no answer "
            "to them could be right; give evaluation.problems, or correct the gold answers"
        )


def _check_sampling(spec: StudySpec, base: Path) -> None:
    """The teacher and what it is asked. An endpoint gets one small request, unless its answers are cached already."""
    rollouts = spec.rollouts
    _, chosen = chosen_prompts(rollouts)
    _check_questions(chosen["question"], "rollouts.problems")
    holdout = 0.0 if spec.evaluation.problems else rollouts.holdout
    heldout_split(chosen["problem_id"], holdout)
    teacher = teacher_folder(rollouts)
    if rollouts.engine == "vllm" and teacher is not None and slots()[0].kind == "cpu":
        check_cpu(teacher, "the teacher's")
    found = run_unpinned(
        check_teacher,
        {"spec": rollouts, "folder": teacher, "base": base, "pad_token": spec.model.pad_token},
        log=home.subfolder("logs") / "preflight.log",
    )
    if "offline_grpo" in spec.methods and spec.offline_grpo.clip is not None and not found["tokens"]:
        raise InputError(
            "offline_grpo.clip: it needs the teacher's log-probabilities of the base's own tokens, and their "
            "tokenizers differ or the teacher's is not known; leave clip unset"
        )
    if teacher is None and not _sampled(spec, chosen, holdout):
        probe_endpoint(rollouts)


def _check_vllm(spec: StudySpec, base: Path | None) -> None:
    """Refuse vLLM where it is not there, or cannot compute the model (``base``; None: the world's) or its adapters.

    Raises `InputError`.
    """
    answers = spec.evaluation.engine == "vllm"
    kind = slots()[0].kind
    if answers:
        if not _elsewhere():
            check_device(kind)
        joined = spec.lora.r * max((len(soup.of) for soup in spec.souped(spec.runs())), default=1)
        for field, rank in (("lora.r", spec.lora.r), ("soups", joined)):
            if rank > RANKS[-1]:
                raise InputError(
                    f"{field}: rank {rank} is above vLLM's largest, {RANKS[-1]}; set evaluation.engine=transformers"
                )
    if kind == "cpu":
        if base is None and (answers or spec.rollouts.engine == "vllm"):
            check_head(spec.tiny.hidden // spec.tiny.heads)
        elif base is not None and answers:
            check_cpu(base)


def _elsewhere() -> bool:
    """Whether a cluster's nodes compute, with devices and a vLLM of their own (`flows.cluster.ray_cluster`)."""
    return bool(os.environ.get("COLINEAR_RAY"))


def _check_engine(rollouts: RolloutSpec) -> None:
    """Refuse vLLM where it is not there. Raises `InputError`."""
    if rollouts.engine == "vllm":
        check_device(slots()[0].kind)


def _check_key(rollouts: RolloutSpec) -> None:
    """Refuse an endpoint whose key is not there, or is not for it. Raises `InputError`.

    The key's variable must be there even where nobody will be asked: settings are recorded, and what names no variable
    may be the key itself.
    """
    if rollouts.engine == "openai" or rollouts.key_env != RolloutSpec().key_env:
        read_key(rollouts.key_env)
    named.check(rollouts)


def _sampled(spec: StudySpec, chosen: pl.DataFrame, holdout: float) -> bool:
    """Whether the teacher's completions are in the store: then nobody will ask for more."""
    store = open_store()
    prompts = store.find(prompts_key(chosen, holdout))
    if prompts is None:
        return False
    return store.find(completions_key(spec.rollouts, prompts.ref.sha256, None, spec.model.instruction)) is not None


def _check_evaluation(spec: StudySpec, rows: pl.DataFrame | None = None) -> None:
    """Whether there is something to evaluate on, and whether the grader can read what it will compare answers with.

    ``rows``: the user's rollouts; None where they will be sampled, for problems that all have a gold answer.
    """
    evaluation = spec.evaluation
    fields = {str(name): column for name, column in evaluation.fields.items()}
    check_names(evaluation.benchmarks)
    if evaluation.problems is not None:
        _check_readable(open_heldout(evaluation.problems, fields).problems.frame, "evaluation.problems")
    elif not evaluation.benchmarks and spec.rollouts.holdout == 0:
        raise InputError(
            "evaluation.problems: rollouts.holdout is 0, so there is nothing to evaluate on; give a file of problems"
        )
    elif not evaluation.benchmarks and rows is not None and rows["answer"].null_count() == rows.height:
        raise InputError(
            "evaluation.problems: the rollouts carry no gold answers to evaluate against; give a file of problems"
        )
    for name in evaluation.benchmarks:
        _check_readable(open_benchmark(name, fields).problems.frame, f"evaluation.benchmarks: {name}")


def _check_questions(questions: pl.Series, source: str) -> None:
    for question in questions.unique(maintain_order=True):
        check_question(question, source)


def _check_readable(problems: pl.DataFrame, source: str) -> None:
    _check_questions(problems["question"], source)
    check_golds(problems["answer"].to_list(), problems["problem_id"].to_list(), source)


def _check_rewards(spec: StudySpec, rows: pl.DataFrame) -> None:
    """With every reward given, whether each method has something to train on is known before anything is tokenised."""
    text = pl.col("completion").rank("dense").cast(pl.Int64)  # equal completions have equal tokens
    stand_in = rows.with_columns(prompt_ids=pl.lit([0], dtype=pl.List(pl.Int64)), completion_ids=pl.concat_list(text))
    for name in spec.methods:
        chosen(spec.method(name), stand_in, spec.train.mask_truncated)


def check_selections(methods: dict[str, Method], graded: Path, mask_truncated: bool = False) -> None:
    """After grading, before training: raise `InputError` for a method that these rollouts leave nothing to train on."""
    frame = pl.read_parquet(graded)
    for method in methods.values():
        chosen(method, frame, mask_truncated)
