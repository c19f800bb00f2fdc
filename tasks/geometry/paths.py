"""Readings along the straight path between two adapters, ``W0 + (1 - a) dW_a + a dW_b``. Runs in a worker process.

The UPDATES are interpolated: ``(1 - a) s_a B_a A_a + a s_b B_b A_b``, which is the product of the concatenated factors
``[(1 - a) s_a B_a, a s_b B_b] [A_a; A_b]`` of rank r_a + r_b. Interpolating A and B apart would bend the path.

Both products are added onto the base's weights in place for each point, from one copy of those that an adapter
changes. A side branch ``B (A x)`` needs no copy, but costs ``R (in + out)`` operations a token instead of ``R in out``
a point: it only pays below ``in out / (in + out)`` tokens a point (64 at width 128, 512 at 1,024), and decoding would
run it at every step. ``tests/benchmarks/paths.py`` measures both, and the bare forward pass that is the floor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan, sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl

from tasks.contracts import PROBLEMS, InputError, Progress, checked, no_progress
from tasks.geometry.adapter import AdapterSource
from tasks.geometry.connectivity import (
    ENDS,
    PATH_ITEMS,
    barrier_frame,
    check_alphas,
    connectivity_frame,
    matched_scales,
)
from tasks.geometry.cosine import module_inner
from tasks.geometry.delta import Factors, Source
from tasks.geometry.peft_config import explain, read_json

if TYPE_CHECKING:
    from torch import Tensor

READINGS = ("boxed", "solution", "accuracy")
r"""Cross-entropy of ``\boxed{gold}`` right after the prompt (arXiv 2606.23740), of the reference solution, accuracy."""
ANSWERED_AT = (0.0, 0.5, 1.0)
"""Points at which answers are generated: decoding costs many times what scoring does."""


def measure_ends(
    *,
    base: Path,
    adapter: Path | None,
    problems: Path,
    n: int,
    readings: Sequence[str],
    batch_size: int,
    max_new_tokens: int,
    prompt_template: str | None,
    pad_token: str | None,
    max_length: int | None,
    out: Path,
    seed: int = 0,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """One model's readings of each problem, for all the paths that end in it. ``adapter`` None reads the base.

    Writes ``ends.parquet`` (ENDS). Problems and settings are as in `measure_path`; so is the arithmetic, so that both
    give the same numbers.
    """
    meter = open_meter(
        base, problems, n, seed, readings, batch_size, max_new_tokens, prompt_template, pad_token, max_length
    )
    line = Line(meter.model, [] if adapter is None else [open_plain(adapter)])
    line.place([1.0] * len(line.norms))
    progress(0, 1, "ends")
    pl.DataFrame(meter.read(readings), schema=ENDS, orient="row").write_parquet(out / "ends.parquet")
    progress(1, 1, "ends")
    return {**meter.summary, "norm": line.norms[0] if line.norms else 0.0}


def measure_path(
    *,
    base: Path,
    adapter_a: Path,
    adapter_b: Path,
    run_a: str,
    run_b: str,
    problems: Path,
    n: int,
    alphas: Sequence[float],
    readings: Sequence[str],
    batch_size: int,
    max_new_tokens: int,
    prompt_template: str | None,
    pad_token: str | None,
    max_length: int | None,
    matched: bool,
    ends: Mapping[str, Path] | None,
    out: Path,
    seed: int = 0,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Readings of one pair's path at ``alphas``, and with ``matched`` of the path between the norm-matched updates too.

    The first ``n`` held-out problems of a shuffle by ``seed`` that fit the context, the same for every pair. Float32.
    ``ends``: ``{"a": ..., "b": ...}``, the two adapters' ``ends.parquet``; None measures them here. The matched path
    has ends of its own. Writes ``connectivity.parquet`` (CONNECTIVITY), ``barriers.parquet`` (BARRIERS) and
    ``path_items.parquet`` (PATH_ITEMS); ``progress`` counts path points. Where an update is zero there is no matched
    path, and the summary says so.

    Raises `InputError` for alphas without both ends, unknown readings, an adapter that is not plain LoRA or not of
    this base, ends of other problems, and where no problem fits.
    """
    check_alphas(alphas)
    sources = [open_plain(folder) for folder in (adapter_a, adapter_b)]
    meter = open_meter(
        base, problems, n, seed, readings, batch_size, max_new_tokens, prompt_template, pad_token, max_length
    )
    given = {} if ends is None else {at: meter.known(ends[side], readings) for side, at in (("a", 0.0), ("b", 1.0))}
    line = Line(meter.model, sources)
    scales = matched_scales(*line.norms)
    matchable = not any(isnan(scale) for scale in scales)
    rows: list[tuple[Any, ...]] = []
    plan: list[tuple[bool, float, list[str]]] = []
    for one_norm in (False, True) if matched and matchable else (False,):
        for alpha in sorted({*alphas, *(ANSWERED_AT if "accuracy" in readings else ())}):
            wanted = [one for one in readings if alpha in (ANSWERED_AT if one == "accuracy" else alphas)]
            if alpha in given and not one_norm:
                rows += [(one_norm, alpha, *row) for row in given[alpha]]
            elif wanted:
                plan.append((one_norm, alpha, wanted))
    for done, (one_norm, alpha, wanted) in enumerate(plan):
        progress(done, len(plan), _note(one_norm, alpha))
        factor_a, factor_b = scales if one_norm else (1.0, 1.0)
        line.place([(1 - alpha) * factor_a, alpha * factor_b])
        rows += [(one_norm, alpha, *row) for row in meter.read(wanted)]
        progress(done + 1, len(plan), _note(one_norm, alpha))
    items = pl.DataFrame(rows, schema=PATH_ITEMS, orient="row").sort("matched", "reading", "alpha", "problem_id")
    items.write_parquet(out / "path_items.parquet")
    connectivity_frame(items, run_a, run_b).write_parquet(out / "connectivity.parquet")
    barrier_frame(items, run_a, run_b, seed).write_parquet(out / "barriers.parquet")
    norm_a, norm_b = line.norms
    summary = {**meter.summary, "points": len(plan), "norm_a": norm_a, "norm_b": norm_b}
    return {**summary, "unmatchable": matched and not matchable}


def _note(one_norm: bool, alpha: float) -> str:
    return f"alpha {alpha:g}{', one norm' if one_norm else ''}"


# --- the path --------------------------------------------------------------------------------------------------------


class _Term(NamedTuple):
    source: int
    """Whose update it is of, as a place in `Line`'s sources."""
    B: Tensor
    """(out, r)"""
    A: Tensor
    """(r, in)"""
    scale: float


class _Module(NamedTuple):
    weight: Tensor
    """(out, in) view of the model's weight."""
    original: Tensor
    terms: list[_Term]


class Line:
    """A model whose weights can be set to the base's plus any combination of some adapters' updates.

    ``norms``: Frobenius norm of each whole update, from its factors in float64. Modules that only one adapter has are
    the other's zero. Raises `InputError` naming adapter and module where the model has no such linear module, where
    shapes differ, and where the weight is tied to another module's, which would then change with it.
    """

    def __init__(self, model: Any, sources: Sequence[Source]) -> None:
        import torch

        squared = [0.0] * len(sources)
        self._modules: dict[str, _Module] = {}
        for index, source in enumerate(sources):
            for name, shape in source.shapes.items():
                if name not in self._modules:
                    weight = _weight(model, name, source)
                    self._modules[name] = _Module(weight, weight.clone(), [])
                weight = self._modules[name].weight
                if tuple(weight.shape) != tuple(shape):
                    raise InputError(
                        f"{source.source}: module {name} is {tuple(shape)}, in the base {tuple(weight.shape)}; "
                        "give adapters of this base"
                    )
                update = source.read(name)
                assert isinstance(update, Factors)
                squared[index] += max(module_inner(update, update), 0.0)
                b, a = (torch.from_numpy(np.ascontiguousarray(one)).to(weight) for one in (update.B, update.A))
                self._modules[name].terms.append(_Term(index, b, a, update.scale))
        self.norms = [sqrt(value) for value in squared]

    def place(self, coefficients: Sequence[float]) -> None:
        """Set the weights to ``W0 + sum_i coefficients[i] dW_i``, always from W0, so that no error builds up.

        A term with coefficient 0 is left out: an end is exactly what the adapter alone gives.
        """
        import torch

        with torch.no_grad():
            for weight, original, terms in self._modules.values():
                weight.copy_(original)
                for term in terms:
                    if coefficients[term.source]:
                        weight.addmm_(term.B, term.A, alpha=coefficients[term.source] * term.scale)


def open_plain(folder: Path) -> AdapterSource:
    """An adapter whose update is ``scale * B A``; `InputError` with the way out for any other."""
    if reason := explain(read_json(folder)):
        raise InputError(
            f"{folder}: its update is not scale * B A ({reason}), so it has no path here; leave it out, or convert it "
            "to plain LoRA (PEFT's save_pretrained does that for PiSSA and OLoRA: "
            "path_initial_model_for_weight_conversion)"
        )
    return AdapterSource(folder)


def _weight(model: Any, name: str, source: Source) -> Tensor:
    """(out, in) view of the module's weight."""
    import torch
    from transformers.pytorch_utils import Conv1D

    try:
        module = model.get_submodule(name)
    except AttributeError:
        raise InputError(f"{source.source}: the base has no module {name}; give adapters of this base") from None
    if not isinstance(module, torch.nn.Linear | Conv1D):
        raise InputError(f"{source.source}: module {name} is no linear layer; leave this adapter out of the paths")
    if any(other is not module and getattr(other, "weight", None) is module.weight for other in model.modules()):
        raise InputError(
            f"{source.source}: it adapts {name}, whose weight the base ties to another module's; leave this adapter "
            "out of the paths"
        )
    weight: Tensor = module.weight.data
    return weight.T if isinstance(module, Conv1D) else weight


# --- the readings ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Meter:
    """A base model in float32 and its held-out problems, tokenised once; reads whatever the weights now are."""

    model: Any
    tokenizer: Any
    problem_ids: Sequence[str]
    golds: Sequence[str]
    prompts: Sequence[Sequence[int]]
    targets: Mapping[str, Sequence[Sequence[int] | None]]
    """Reading -> a problem's text in tokens; None where no solution is known."""
    too_long: int
    """Problems passed over because they do not fit the context."""
    batch_size: int
    max_new_tokens: int

    @property
    def summary(self) -> dict[str, Any]:
        """What a reader must know of the problems."""
        unknown = self.tokenizer.unk_token_id
        return {
            "problems": len(self.problem_ids),
            "solutions": sum(target is not None for target in self.targets["solution"]),
            "too_long": self.too_long,
            "boxes_with_unknown_tokens": sum(unknown in (target or ()) for target in self.targets["boxed"]),
        }

    def read(self, readings: Sequence[str]) -> list[tuple[str, str, float, int | None]]:
        """Rows of ENDS, reading by reading."""
        return [row for one in readings for row in (self._answers() if one == "accuracy" else self._nll(one))]

    def known(self, file: Path, readings: Sequence[str]) -> list[tuple[str, str, float, int | None]]:
        """The rows of an ``ends.parquet``. Raises `InputError` where they are not of these problems and readings."""
        frame = checked(pl.read_parquet(file), ENDS, "ends").filter(pl.col("reading").is_in(readings))
        rows: list[tuple[str, str, float, int | None]] = list(frame.iter_rows())
        targets = {one: self.targets.get(one, self.golds) for one in readings}
        expected = {(i, one) for one in readings for i, t in zip(self.problem_ids, targets[one], strict=True) if t}
        if {row[:2] for row in rows} != expected:
            raise InputError(f"{file}: not of these problems and readings; measure the ends with the path's settings")
        return rows

    def _nll(self, reading: str) -> list[tuple[str, str, float, int | None]]:
        from tasks.models.score import sequence_nll

        rows = zip(self.problem_ids, self.prompts, self.targets[reading], strict=True)
        have = [(name, prompt, target) for name, prompt, target in rows if target is not None]
        values = sequence_nll(
            self.model,
            [prompt for _, prompt, _ in have],
            [target for _, _, target in have],
            pad_id=self.tokenizer.pad_token_id,
            batch_size=self.batch_size,
        )
        return [(name, reading, nats, len(t)) for (name, _, t), nats in zip(have, values, strict=True)]

    def _answers(self) -> list[tuple[str, str, float, int | None]]:
        from tasks.grading.grade import grade_many
        from tasks.models.generate import generate

        answers = generate(
            self.model,
            self.prompts,
            eos_id=self.tokenizer.eos_token_id,
            pad_id=self.tokenizer.pad_token_id,
            max_new_tokens=self.max_new_tokens,
            batch_size=self.batch_size,
        )
        texts = [self.tokenizer.decode(answer.ids, skip_special_tokens=True) for answer in answers]
        grades = grade_many(texts, self.golds)
        return [(i, "accuracy", grade.reward, None) for i, grade in zip(self.problem_ids, grades, strict=True)]


def open_meter(
    base: Path,
    problems: Path,
    n: int,
    seed: int,
    readings: Sequence[str],
    batch_size: int,
    max_new_tokens: int,
    prompt_template: str | None,
    pad_token: str | None,
    max_length: int | None,
) -> Meter:
    """Load the base and choose the problems: the first ``n`` that fit, of split ``heldout`` shuffled by ``seed``.

    Neither the order of the file nor the readings matter to the choice, so every pair has the same problems.
    """
    from tasks.models.load import context_length, load_model, load_tokenizer
    from tasks.models.prompts import completion_ids, prompt_ids

    if unknown := [one for one in readings if one not in READINGS]:
        raise InputError(f"readings: no reading {unknown[0]!r}; there are {', '.join(READINGS)}")
    tokenizer = load_tokenizer(base, pad_token)
    limit = context_length(base, max_length)
    frame = checked(pl.read_parquet(problems), PROBLEMS, "problems").filter(split="heldout").sort("problem_id")
    fitting: list[tuple[Any, ...]] = []
    too_long = 0
    for place in np.random.default_rng(seed).permutation(frame.height).tolist():
        row = frame.row(place, named=True)
        prompt = prompt_ids(tokenizer, row["question"], prompt_template)
        boxed = boxed_ids(tokenizer, row["answer"])
        solution = None if row["solution"] is None else completion_ids(tokenizer, row["solution"])
        if len(prompt) + max(max_new_tokens, len(boxed), len(solution or ())) > limit:
            too_long += 1
        elif len(fitting) < n:
            fitting.append((row["problem_id"], row["answer"], prompt, boxed, solution))
        if len(fitting) == n:
            break
    if not fitting:
        raise InputError(
            f"problems: none of the {frame.height} held-out problems fits {limit} tokens with an answer of "
            f"{max_new_tokens}; give held-out problems, or lower the answer's tokens"
        )
    ids, golds, prompts, boxes, solutions = zip(*fitting, strict=True)
    targets = {"boxed": boxes, "solution": solutions}
    model = load_model(base, "float32")
    return Meter(model, tokenizer, ids, golds, prompts, targets, too_long, batch_size, max_new_tokens)


def boxed_ids(tokenizer: Any, gold: str) -> list[int]:
    r"""``\boxed{gold}`` in tokens, not closed by the end token: the paper's target.

    A word-level tokenizer may know the command only with a space in front; then it gets one.
    """
    from tasks.models.prompts import completion_ids

    plain, spaced = (completion_ids(tokenizer, rf"{space}\boxed{{{gold}}}", closed=False) for space in ("", " "))
    return spaced if tokenizer.unk_token_id in plain and tokenizer.unk_token_id not in spaced else plain
