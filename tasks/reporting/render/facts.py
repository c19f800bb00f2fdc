"""What was trained, in the line under a study's title: a stranger's questions in the order in which they come."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tasks.core.sections import TinySpec
from tasks.reporting.formats import in_sentence, learning_rate, listed, seconds
from tasks.reporting.notes import count
from tasks.reporting.tables.views import Cell, Table
from tasks.reporting.views.join import StudyTables, trained_runs
from tasks.reporting.views.pairs import Geometry

TINY = "tiny"
"""``model.base`` of the small model that a study trains for itself."""

MADE = "made by the study"
"""Source of a benchmark of synthetic problems."""

_LONGEST_SAMPLE = 200


def study_facts(tables: StudyTables) -> tuple[tuple[str, str], ...]:
    """Label and value; without those that the study's record has not."""
    runs, settings = trained_runs(tables), tables.study.get("settings") or {}
    methods = list(dict.fromkeys(info.method for info in runs))
    facts = {
        "Methods": ", ".join(methods),
        "Model": _model(settings),
        "LoRA": _lora(settings),
        "Training": _training(tables, settings),
        "Rollouts": _rollouts(tables),
        "Judged by": _benchmarks(tables),
        "Seeds": _seeds(tables),
    }
    return tuple((label, value) for label, value in facts.items() if value)


def sample_problem(tables: StudyTables) -> str:
    """One problem that the rollouts answer, on one line; empty where the study kept none."""
    examples = (tables.study.get("rollouts_seen") or {}).get("examples") or []
    text = " ".join(str(examples[0]["prompt"]).split()) if examples else ""
    return text if len(text) <= _LONGEST_SAMPLE else f"{text[: _LONGEST_SAMPLE - 1]}…"


def record_table(tables: StudyTables, view: Geometry) -> Table:
    """How the study was run: time, cache, machine, commit."""
    study, stages = tables.study, tables.study.get("stages") or []
    hits = sum(bool(stage["hit"]) for stage in stages)
    rows = (
        ("Trained runs", str(len(view.runs))),
        ("Wall time", seconds(study.get("wall_seconds"))),
        ("From the cache", f"{hits} of {len(stages)} stages" if stages else "not recorded"),
        ("Machine", str(study.get("machine") or "not recorded")),
        # Twelve digits and a mark such as "+changes", which must not be cut off.
        ("Commit", str(study.get("commit") or "not recorded")[:24]),
    )
    return Table("record", "How it was run", ("What", "Value"), tuple((Cell(a), Cell(b)) for a, b in rows), "", words=2)


def tiny_parameters(spec: TinySpec) -> int:
    """Parameters of the small model: a Qwen3 with tied embeddings (`tasks.models.tiny.network`)."""
    from tasks.models.tokenizer import BOS, EOS, PAD, UNK
    from tasks.problems.synthetic import vocabulary

    tokens = len({PAD, BOS, EOS, UNK, "\n", *vocabulary()})
    head = spec.hidden // spec.heads
    attention = 2 * spec.hidden * spec.hidden + 2 * spec.hidden * spec.kv_heads * head + 2 * head
    layer = attention + 3 * spec.hidden * spec.intermediate + 2 * spec.hidden
    return tokens * spec.hidden + spec.layers * layer + spec.hidden


def _model(settings: Mapping[str, Any]) -> str:
    base = str((settings.get("model") or {}).get("base") or "")
    if base != TINY:
        return base
    try:
        spec = TinySpec(**(settings.get("tiny") or {}))
    except (TypeError, ValueError):  # a record of another version
        return base
    millions = tiny_parameters(spec) / 1e6
    return f"{spec.layers}-layer Qwen3 made for this study, {millions:.2g} M parameters"


def _lora(settings: Mapping[str, Any]) -> str:
    lora = settings.get("lora") or {}
    if "r" not in lora:
        return ""
    targets = [str(target).removesuffix("_proj") for target in lora.get("targets") or []]
    where = f" on {', '.join(targets)}" if 0 < len(targets) <= 7 else ""
    return f"rank {lora['r']}{where}"


def _training(tables: StudyTables, settings: Mapping[str, Any]) -> str:
    train = settings.get("train") or {}
    if "steps" not in train:
        return ""
    rates = sorted({info.lr for info in trained_runs(tables) if info.lr}, reverse=True)
    batch = f" of {train['batch_size']}" if "batch_size" in train else ""
    return f"{train['steps']} steps{batch}, lr {listed([learning_rate(rate) for rate in rates])}"


def _rollouts(tables: StudyTables) -> str:
    found = tables.rollouts
    rows, prompts, correct = (found.get(name) for name in ("rows", "prompts", "correct"))
    if not rows:
        return ""
    share = f", {100 * correct / rows:.0f} % right" if correct is not None else ""
    return f"{rows:,} on {prompts:,} problems{share}" if prompts else f"{rows:,}{share}"


def _benchmarks(tables: StudyTables) -> str:
    sources = {str(one["name"]): str(one["source"]) for one in tables.study.get("benchmarks") or []}
    asked = tables.accuracy.select("benchmark", "n").unique("benchmark", maintain_order=True).rows()
    parts = [f"{n:,} {in_sentence(name)}" for name, n in asked]
    made = "synthetic " if asked and all(sources.get(name) == MADE for name, _ in asked) else ""
    return f"{listed(parts)} {made}problems" if parts else ""


def _seeds(tables: StudyTables) -> str:
    runs = trained_runs(tables)
    main = {(info.method, info.lr): info for info in reversed(runs)}
    repeats = [info for info in runs if info not in main.values()]
    seeds = count(len({info.seed for info in main.values()}), "seed")
    methods = list(dict.fromkeys(info.method for info in repeats))
    again = f", {count(len(repeats), 'repeat run')} of {listed(methods)}" if repeats else ""
    return f"{seeds}{again}" if runs else ""
