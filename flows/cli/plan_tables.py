"""A study's plan for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tasks.planning import memory
from tasks.planning.rates import rates

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from tasks.planning.plan import Plan


def plan_renderable(plan: Plan, cached: Mapping[str, str]) -> RenderableType:
    """Head, stages, memory, disk and what the estimates rest on. ``cached``: stage -> what the store says of it."""
    from rich.console import Group
    from rich.text import Text

    return Group(
        Text(f"Plan of {plan.spec.name}: nothing is run", style="bold"),
        *(Text(line) for line in _head(plan)),
        Text(),
        _stages(plan, cached),
        Text(),
        _amounts("memory of one device", _memory(plan)),
        Text(),
        _amounts("disk", [*plan.disk.items(), ("in all", sum(plan.disk.values()))]),
        Text(),
        *(Text(line, style="dim") for line in _grounds(plan)),
    )


def _head(plan: Plan) -> list[str]:
    shape = plan.base.shape
    assert shape is not None
    name = plan.spec.model.base if plan.spec.own else "the synthetic task's"
    place = "" if plan.machine.local else " (not this machine)"
    return [
        f"base: {name}, {counted(shape.parameters)} parameters, from {plan.base.source}",
        f"LoRA: r = {plan.spec.lora.r}, {counted(plan.lora)} parameters; {len(plan.spec.runs())} adapters: "
        + ", ".join(info.run for info in plan.spec.runs()),
        f"devices: {plan.machine.devices}{place}, {size(plan.machine.memory)} and "
        f"{plan.machine.peak / 1e12:,.3g} TFLOP/s each ({plan.machine.source})",
        f"in all: {operations(plan.operations)}, {duration(3600 * plan.device_hours)} of a device's time, about "
        f"{duration(3600 * plan.hours)} from beginning to end",
    ]


def _stages(plan: Plan, cached: Mapping[str, str]) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    table = _table("stage", "tasks", "what", "FLOP", "a task", "until done", "cached")
    for stage in plan.stages:
        cells = (stage.name, str(stage.tasks), stage.size, operations(stage.operations) if stage.operations else "-")
        table.add_row(*cells, duration(stage.seconds), duration(stage.wall), cached.get(stage.name, "?"))
    asked = [stage.name for stage in plan.stages if stage.name in cached]
    waits_for = asked[-1] if asked else plan.stages[0].name
    return Group(table, Text(f"cached ?: known once `{waits_for}` is there, for a stage's key is made of its inputs"))


def _memory(plan: Plan) -> list[tuple[str, float]]:
    training, spec, sizes = plan.training, plan.spec, plan.sizes
    assert plan.base.shape is not None
    weights, cache = memory.answering(
        plan.base.shape, spec.evaluation.batch_size, sizes.prompt + spec.evaluation.max_new_tokens,
        bfloat16=plan.machine.kind == "gpu" or plan.machine.light,
    )  # fmt: skip
    moments = memory.moments(plan.base.shape, spec.lora.targets, bfloat16=plan.machine.light)
    kept = "each layer's input only (checkpointing)" if training.checkpointing else "no checkpointing"
    return [
        ("training: weights", training.weights),
        ("training: LoRA, gradients and AdamW", training.adapter),
        (f"training: activations of {training.pass_tokens:,} tokens a pass, {kept}", training.activations),
        ("training: tiles of logits (never whole)", training.tiles),
        ("training: in all", training.total + training.worker),
        ("training: the least that one example needs", training.least),
        ("evaluation: weights", weights),
        (f"evaluation: KV cache, {spec.evaluation.batch_size} answers of the greatest length", cache),
        ("second moments of inputs, with the weights", moments if spec.geometry.activations else 0),
    ]


def _amounts(title: str, rows: Sequence[tuple[str, float]]) -> Table:
    table = _table(title, "")
    for name, amount in rows:
        if amount:
            table.add_row(name, size(amount))
    return table


def _table(*titles: str) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    text = ("stage", "what", "cached", titles[0])
    for title in titles:
        # Only words may be broken: a number cut short would be another number.
        table.add_column(
            title, justify="left" if title in text else "right", no_wrap=title not in text, overflow="fold"
        )
    return table


def _grounds(plan: Plan) -> list[str]:
    rate = rates(plan.machine)
    kind = "measured on a CPU" if plan.machine.kind == "cpu" else "assumed, never measured here"
    return [
        f"tokens: {plan.sizes.source}.",
        "FLOP: 2 N a token and matrix entry forward, 4 N with the backward pass of frozen weights, 6 N of LoRA's; "
        "attention over half the square; the head for completion tokens only.",
        f"time: {100 * rate.train:g} % of the peak in training, {100 * rate.forward:g} % in forward passes, decoding at"
        f" {100 * rate.decode:g} % or {100 * rate.read:g} % of the bandwidth ({kind}); a worker starts in "
        f"{rate.start:g} s. `until done` is a stage alone on {plan.machine.devices}; the flow overlaps them.",
    ]


def counted(number: float) -> str:
    """``'4.02 billion'``, ``'23.6 million'``, ``'752,832'``."""
    if number >= 1e9:
        return f"{number / 1e9:.2f} billion"
    return f"{number / 1e6:.1f} million" if number >= 1e7 else f"{number:,.0f}"


def operations(number: float) -> str:
    """``'1.2 PFLOP'``."""
    for power, letter in ((18, "E"), (15, "P"), (12, "T")):
        if number >= 10**power:
            return f"{number / 10**power:,.3g} {letter}FLOP"
    return f"{number / 1e9:,.3g} GFLOP"


def duration(seconds: float) -> str:
    """``'12 s'``, ``'8 min'``, ``'5.2 h'``."""
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def size(number: float) -> str:
    """Bytes: ``'94.4 MB'``, in powers of ten as disks and GPUs are sold."""
    for power, unit in ((9, "GB"), (6, "MB")):
        if number >= 10**power:
            return f"{number / 10**power:,.1f} {unit}"
    return f"{number / 1e3:,.0f} kB"
