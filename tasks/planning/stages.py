"""The stages of a study in order, each with its tasks, its size, its operations and its time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

from tasks.geometry.activations.moments import MOST_WIDTH, RANK
from tasks.geometry.paths.texts import MOST_TEXTS
from tasks.planning import flops, memory
from tasks.planning.machine import Machine
from tasks.planning.memory import Training
from tasks.planning.rates import decoding_seconds, rates, scoring_seconds, training_seconds
from tasks.planning.shapes import Shape
from tasks.planning.sizes import Sizes
from tasks.settings.study import StudySpec
from tasks.training.alignment import PARTS

PRETRAINING_SHARE = 0.55
"""Of tiny.max_steps: the teacher's training ends when it is good enough (650 of 1,200 steps in a default study)."""
ENDPOINT_TOKENS = 30.0
"""Tokens a second that an endpoint is assumed to give one request."""
PAIR_START, PAIR_SECONDS = 0.2, 3.0e-3
"""A pair of adapters, and each of its modules, on one core: 1.6 ms a module were measured at Qwen3-4B's shapes where 15
pairs were done at once; a pair by itself decomposes both adapters."""
WEIGHTED_FLOPS = 1.4e10
"""Operations a second of one core on updates times second moments, in float64: 0.6 s were measured for a module with
4,096 inputs in 8 adapters of rank 32, 0.2 s with 2,560."""
SHOWN_SECONDS, COUNTED_SECONDS = 1e-7, 1e-9
"""An entry of an update in bfloat16, as it is and shuffled; an entry of a pair, likewise. On one core."""
SVD_SECONDS = 7.0
"""A module of 4096 x 2560: its full SVD on two cores (docs/compare.md), and as long again for each adapter's."""
GRADE_SECONDS = 2e-4
TRAIN = "train"
"""First word of the name of every training."""
BOXED = 10.0
"""Tokens of a boxed answer."""
GRADIENT_START = 1.0
"""A method's model and trainer, before its gradient is taken."""
TEXT_TOKENS = 500.0
"""Assumed of one of `functions.texts`."""
REPORT_SECONDS = 10.0


@dataclass(frozen=True)
class Stage:
    """One line of the plan. ``seconds`` are of one task on one device; 0 operations: none on a device."""

    name: str
    tasks: int
    size: str
    operations: float
    seconds: float
    lanes: int
    """How many of its tasks run at once."""

    @property
    def wall(self) -> float:
        """Seconds until its last task is done, had it the devices for itself."""
        return self.seconds * ceil(self.tasks / max(1, self.lanes))

    @property
    def device_seconds(self) -> float:
        """Of all devices together; 0 where none is used."""
        return self.seconds * self.tasks if self.operations else 0.0


@dataclass(frozen=True)
class Work:
    """What all stages are computed from."""

    spec: StudySpec
    shape: Shape
    sizes: Sizes
    machine: Machine
    training: Training
    lora: int


def millions(tokens: float) -> str:
    """``'41.2 M tokens'``; fewer than a million in full."""
    return f"{tokens / 1e6:,.1f} M tokens" if tokens >= 1e6 else f"{tokens:,.0f} tokens"


def stages_of(work: Work) -> list[Stage]:
    """In the order of the flow."""
    return [*_before(work), *_training(work), *_after(work)]


def _before(work: Work) -> Iterator[Stage]:
    spec, sizes, machine, shape = work.spec, work.sizes, work.machine, work.shape
    count = machine.count
    if not spec.own:
        steps = round(PRETRAINING_SHARE * spec.tiny.max_steps) + spec.tiny.branch_steps
        tokens = steps * spec.tiny.batch_size * sizes.example
        scored = steps * spec.tiny.batch_size * sizes.completion
        cost = flops.pretrain(shape, tokens, flops.causal(sizes.example), scored)
        lanes = min(2, count) if machine.kind == "cpu" else 1
        each = training_seconds(machine, cost / lanes, steps)
        yield Stage("pretrain", 1, f"{steps} steps of teacher and student, {millions(tokens)}", cost, each, 1)
        yield Stage("problems", 1, f"{sizes.prompts:,} prompts, {sizes.evaluated:,} held out", 0, 0.5, 1)
        yield _sampled("rollouts", work, shape, sizes.rows)
    elif spec.rollouts.file is None:
        yield Stage("prompts", 1, f"{sizes.prompts:,} problems of {spec.rollouts.problems}", 0, 5.0, 1)
        if spec.rollouts.engine == "openai":
            tokens = sizes.rows * sizes.completion
            seconds = tokens / ENDPOINT_TOKENS / spec.rollouts.concurrency
            at_once = f"{spec.rollouts.concurrency} requests at once"
            size = f"{sizes.rows:,} x {sizes.completion:,.0f} tokens ({millions(tokens)}) of the endpoint, {at_once}"
            yield Stage("completions", 1, size, 0, seconds, 1)
        else:
            yield _sampled("completions", work, shape, sizes.rows)
        yield Stage("rollouts", 1, f"{sizes.rows:,} rows as the base's tokens", 0, 5e-4 * sizes.rows, 1)
    else:
        yield Stage("rollouts", 1, f"{sizes.rows:,} rows of the file", 0, 5e-4 * sizes.rows, 1)
    if spec.own:
        yield Stage("problems", 1, f"{sizes.evaluated:,} held out", 0, 2.0, 1)
    yield Stage("grade", 1, f"{sizes.rows:,} rows", 0, 1.0 + GRADE_SECONDS * sizes.rows, 1)


def _sampled(name: str, work: Work, shape: Shape, answers: float) -> Stage:
    """A teacher is asked on one device; its shape is taken to be the base's."""
    rollouts, sizes = work.spec.rollouts, work.sizes
    longest = None if rollouts.engine == "vllm" else rollouts.max_new_tokens
    seconds = rates(work.machine).start + decoding_seconds(
        work.machine, shape, answers, sizes.prompt, sizes.completion, rollouts.batch_size, longest=longest
    )
    cost = answers * flops.decode(shape, sizes.prompt, sizes.completion)
    return Stage(name, 1, f"{answers:,.0f} x {sizes.completion:,.0f} tokens", cost, seconds, 1)


def _training(work: Work) -> Iterator[Stage]:
    """One line a method, all its phases; a pair is two sequences, held against the log-probabilities of a reference."""
    spec, sizes, machine, shape = work.spec, work.sizes, work.machine, work.shape
    on_gpu = machine.kind == "gpu"
    keys = flops.causal(sizes.example)
    runs: dict[str, int] = {}
    for info in spec.runs():
        runs[info.method] = runs.get(info.method, 0) + 1
    stored = spec.train.reference == "stored" or (spec.train.reference == "auto" and on_gpu)
    referred = False
    for name, count in runs.items():
        method = spec.method(name)
        phases = method.phases(spec.train)
        if method.against_base and stored and not referred:
            referred = True
            most = int(getattr(method, "max_pairs", 1))
            rows = sizes.pairs * min(2 * most, spec.rollouts.k)
            once = flops.forward(shape, rows * sizes.example, keys, rows * sizes.completion)
            seconds = rates(machine).start + scoring_seconds(machine, once)
            yield Stage("reference", 1, f"{rows:,} rows, once", once, seconds, 1)
        steps, tokens, cost, seconds = 0, 0.0, 0.0, 0.0
        for phase in phases:
            steps += phase.train.steps
            sequences = phase.train.steps * spec.train.batch_size * (2 if phase.method.kind == "pairs" else 1)
            read, scored = sequences * sizes.example, sequences * sizes.completion
            each = flops.train(shape, work.lora, read, keys, scored, checkpointing=work.training.checkpointing)
            if phase.method.against_base and not (method.against_base and stored):
                each += flops.forward(shape, read, keys, scored)
            if phase.method.from_teacher:  # its shape is taken to be the base's
                each += flops.forward(shape, read, keys, scored)
            seconds += training_seconds(machine, each, phase.train.steps)
            tokens, cost = tokens + read, cost + each
        if method.kind == "prompts":  # the student is sampled in every step
            cost += sequences * flops.decode(shape, sizes.prompt, sizes.completion)
            batch, longest = spec.train.batch_size, round(sizes.longest - sizes.prompt)
            seconds += decoding_seconds(
                machine, shape, sequences, sizes.prompt, sizes.completion, batch, longest=max(1, longest)
            )
        size = f"{steps:,} steps, {millions(tokens)}"
        yield Stage(f"{TRAIN} {name}", count, size, cost * count, seconds, machine.count)
    if spec.gradients.n:
        yield _gradients(work)


def _gradients(work: Work) -> Stage:
    """Forward and backward once a method over the same rows: for pairs over as many again, and the base's pass."""
    spec, sizes, machine, shape = work.spec, work.sizes, work.machine, work.shape
    measured = [one.kind for one in map(spec.method, spec.methods) if one.on_rollouts]
    rows = min(spec.gradients.n, sizes.rows)
    passes = len(measured) + 2 * measured.count("pairs")
    tokens, scored = passes * rows * sizes.example, passes * rows * sizes.completion
    cost = flops.train(shape, work.lora, tokens, flops.causal(sizes.example), scored)
    seconds = rates(machine).start + len(measured) * GRADIENT_START + training_seconds(machine, cost, 0)
    held = 4.0 * PARTS * len(measured) * work.lora
    size = f"{rows:,} rows x {len(measured)} methods, {held / 1e6:,.0f} MB held"
    return Stage("gradients", 1, size, cost, seconds, 1)


def _answers(name: str, work: Work, models: int, samples: int) -> Stage:
    """All models' answers to the held-out problems."""
    sizes, machine, shape, evaluation = work.sizes, work.machine, work.shape, work.spec.evaluation
    count = machine.count
    answers = models * sizes.evaluated * (1 + samples)
    longest = None if evaluation.engine == "vllm" else evaluation.max_new_tokens
    seconds = rates(machine).start + decoding_seconds(
        machine, shape, answers / count, sizes.prompt, sizes.answer, evaluation.batch_size, longest=longest
    )
    cost = answers * flops.decode(shape, sizes.prompt, sizes.answer)
    kinds = f"1 greedy + {samples} sampled" if samples else "greedy"
    return Stage(name, count, f"{models} models x {sizes.evaluated:,} problems, {kinds}", cost, seconds, count)


def _functions(name: str, work: Work, models: int, tasks: int = 1) -> Stage:
    """Hidden states and output distributions of ``models`` at once, in each of the ``tasks``."""
    sizes, shape, n = work.sizes, work.shape, work.spec.functions.n
    length = sizes.prompt + sizes.reference
    passes = n * models
    # The head: at a solution's tokens for every layer (the logit lens), and once more for the divergences.
    heads = passes * sizes.reference * (shape.layers + 2)
    cost = flops.forward(shape, passes * length, flops.causal(length), heads)
    seconds = rates(work.machine).start + scoring_seconds(work.machine, cost, exact=True)
    devices = min(tasks, work.machine.count)
    return Stage(name, tasks, f"{models} models x {n} problems", cost * tasks, seconds, devices)


def _retention(name: str, work: Work, models: int) -> Stage:
    """The base's own answers, and the texts of a file, once through each of ``models``."""
    sizes, shape, n = work.sizes, work.shape, work.spec.functions.n
    texts = MOST_TEXTS if work.spec.functions.texts else 0
    length = sizes.prompt + sizes.answer
    tokens, scored = models * (n * length + texts * TEXT_TOKENS), models * (n * sizes.answer + texts * TEXT_TOKENS)
    cost = flops.forward(shape, tokens, flops.causal(max(length, TEXT_TOKENS if texts else 0)), scored)
    seconds = rates(work.machine).start + scoring_seconds(work.machine, cost, exact=True)
    also = f", {texts} texts" if texts else ""
    return Stage(name, 1, f"{models} models x {n} answers{also}", cost, seconds, 1)


def _after(work: Work) -> Iterator[Stage]:
    spec, machine, shape = work.spec, work.machine, work.shape
    runs = len(spec.runs())
    pairs = runs * (runs - 1) // 2
    start, count = rates(machine).start, machine.count
    yield _answers("evaluate", work, runs + (1 if spec.own else 3), spec.evaluation.samples)
    modules = shape.layers * len(spec.lora.targets)
    if pairs:
        yield Stage("spectrum", runs, f"{modules} modules each", 0, PAIR_START + modules * PAIR_SECONDS / 2, count)
        yield Stage("geometry", pairs, f"pairs of {modules} modules", 0, PAIR_START + modules * PAIR_SECONDS, count)
    if spec.geometry.base_measures:
        ratio = shape.hidden * shape.hidden * max(shape.hidden, shape.queries) / (2560 * 2560 * 4096)
        seconds = start + modules * SVD_SECONDS * ratio * (runs + 1)
        yield Stage("base measures", 1, f"{modules} modules x {runs} runs, full SVDs", modules * 1e6, seconds, 1)
        entries = shape.layers * sum(math.prod(shape.modules.get(name, (0, 0))) for name in spec.lora.targets)
        if pairs:
            seconds = start + entries * (runs * SHOWN_SECONDS + pairs * COUNTED_SECONDS)
            yield Stage("visible overlap", 1, f"{pairs} pairs of {modules} modules", 0, seconds, 1)
    if spec.geometry.activations and pairs:
        yield from _activations(work, modules, pairs)
    if spec.paths.n and runs > 1:
        yield from _paths(work, runs, len(spec.path_pairs(spec.runs())) if spec.paths.reference else pairs)
    if spec.functions.n:
        yield _functions("functions", work, runs + 1)
        yield _retention("retention", work, runs + 1)
    if parts := spec.truncated(spec.runs()):
        yield _answers("truncated: evaluate", work, len(parts), 0)
        if spec.functions.n:
            of = len({one.of for one in parts})
            yield _functions("truncated: functions", work, 2 + len(parts) // of, of)
    if kept := spec.kept(spec.runs()):
        steps = len(kept) // len({one.of for one in kept})
        seconds = PAIR_START + modules * (steps + 1) * PAIR_SECONDS / 2
        size = f"{steps} steps and the end, {modules} modules each"
        yield Stage("trajectories", len({one.of for one in kept}), size, 0, seconds, count)
        if spec.evaluation.kept_steps:
            yield _answers("kept: evaluate", work, len(kept), 0)
    if soups := spec.souped(spec.runs()):
        yield _answers("soups: evaluate", work, len(soups), 0)
        if spec.functions.n:
            yield _retention("soups: retention", work, 1 + len(soups))
    yield Stage("accuracy, report", 1, f"{runs} runs, {pairs} pairs", 0, REPORT_SECONDS, 1)


def _activations(work: Work, modules: int, pairs: int) -> Iterator[Stage]:
    """One pass of the base with a product for every input; then every update by every second moment."""
    spec, sizes, shape = work.spec, work.sizes, work.shape
    n, length = spec.geometry.activations, sizes.prompt + sizes.reference
    targets = [name for name in spec.lora.targets if name in shape.modules]
    widths = shape.input_widths(targets)
    products = shape.layers * sum(map(_by_moment, widths))
    cost = flops.forward(shape, n * length, flops.causal(length), 0) + n * length * products
    held = memory.moment_bytes(shape, spec.lora.targets) / 1e6
    seconds = rates(work.machine).start + scoring_seconds(work.machine, cost, exact=not work.machine.light)
    yield Stage(
        "second moments", 1, f"{n} problems, {shape.layers * len(widths)} inputs, {held:,.1f} MB", cost, seconds, 1
    )
    rows = len(spec.runs()) * spec.lora.r
    updates = rows * shape.layers * sum(_by_moment(shape.modules[name][0]) for name in targets)
    seconds = PAIR_START + updates / WEIGHTED_FLOPS
    yield Stage("activation geometry", 1, f"{pairs} pairs of {modules} modules", 0, seconds, 1)


def _by_moment(width: int) -> float:
    """Operations of one vector times a second moment: whole, or a factor twice."""
    return 2.0 * width * (width if width <= MOST_WIDTH else 2 * RANK)


def _paths(work: Work, runs: int, pairs: int) -> Iterator[Stage]:
    """Ends once a run, the points between once a pair, again where norms are matched."""
    spec, sizes, machine, shape = work.spec, work.sizes, work.machine, work.shape
    n, between = spec.paths.n, len(spec.paths.alphas) - 2
    lengths = {"boxed": sizes.prompt + BOXED, "solution": sizes.prompt + sizes.reference}
    scored = n * sum(length for name, length in lengths.items() if name in spec.paths.readings)
    targets = n * sum({"boxed": BOXED, "solution": sizes.reference}.get(name, 0.0) for name in spec.paths.readings)
    answered = n if "accuracy" in spec.paths.readings else 0
    longest = None if machine.kind == "gpu" else spec.evaluation.max_new_tokens
    batch = spec.evaluation.batch_size
    points = (len(spec.paths.alphas) if spec.paths.matched else 0) + between
    midpoints = (3 if spec.paths.matched else 0) + 1
    for name, tasks, places, answers in (
        ("path ends", runs + 1, 1, answered),
        ("paths", pairs, points, answered * midpoints),
    ):
        cost = flops.forward(shape, places * scored, flops.causal(max(lengths.values())), places * targets)
        seconds = rates(machine).start / 4 + scoring_seconds(machine, cost, exact=not machine.light)
        seconds += decoding_seconds(machine, shape, answers, sizes.prompt, sizes.answer, batch, longest=longest)
        cost += answers * flops.decode(shape, sizes.prompt, sizes.answer)
        size = f"{places} point{'s' if places > 1 else ''} x {n} problems"
        yield Stage(name, tasks, size, tasks * cost, seconds, machine.count)
