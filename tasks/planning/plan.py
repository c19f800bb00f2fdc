"""The plan of a study: its stages, what they take, and the reasons why this machine could not run it."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from tasks.core import home
from tasks.core.errors import InputError
from tasks.models.load import light, native_bfloat16
from tasks.planning import disk, memory
from tasks.planning.machine import Machine, here
from tasks.planning.shapes import Found, Shape, find_shape, shape_of_world
from tasks.planning.sizes import Sizes, sizes_of
from tasks.planning.stages import TRAIN, Stage, Work, stages_of
from tasks.settings.study import StudySpec

GPU_PARAMETERS = 1e9
"""A base with more is refused on a machine without a GPU."""


@dataclass(frozen=True)
class Plan:
    """What a study will take. Bytes, seconds, floating-point operations."""

    spec: StudySpec
    base: Found
    machine: Machine
    sizes: Sizes
    training: memory.Training
    lora: int
    stages: list[Stage]
    disk: dict[str, float]
    refusals: list[str]

    @property
    def operations(self) -> float:
        """Of all stages."""
        return sum(stage.operations for stage in self.stages)

    @property
    def device_hours(self) -> float:
        """Hours that devices are held, all of them together."""
        return sum(stage.device_seconds for stage in self.stages) / 3600

    @property
    def hours(self) -> float:
        """From beginning to end: trainings beside each other, other stages one after the other. The flow overlaps more,
        so that it is an upper estimate."""
        trained = [stage for stage in self.stages if stage.name.startswith(TRAIN)]
        shared = sum(stage.device_seconds for stage in trained) / self.machine.count
        together = max(shared, *(stage.seconds for stage in trained))
        return (together + sum(stage.wall for stage in self.stages if stage not in trained)) / 3600


def base_of(spec: StudySpec) -> Found:
    """The base's shape and where it was read. Reads a config.json at most."""
    if not spec.own:
        return Found(shape_of_world(spec.tiny), "the synthetic task's settings", True)
    return find_shape(spec.model.base, spec.model.gguf_file)


def is_light(spec: StudySpec) -> bool:
    """Whether a CPU here computes with the base in bfloat16 (`tasks.models.load.light`)."""
    return spec.own and _held_in_bfloat16(base_of(spec))


def _held_in_bfloat16(base: Found) -> bool:
    """A GGUF file's weights are written once as bfloat16, whatever lies there now."""
    return native_bfloat16("cpu") if base.quantised else light(base.folder, "cpu")


def plan_study(spec: StudySpec, machine: Machine, completion: float | None = None) -> Plan:
    """The plan of ``spec`` on ``machine``; it needs no network.

    ``completion``: mean tokens of a completion, where the user knows. Raises `InputError` where the base's shape is not
    known, for then nothing can be said.
    """
    base = base_of(spec)
    if base.shape is None:
        raise InputError(
            f"model.base: no plan for {spec.model.base!r}: {base.source}; give a directory, or a model in the Hub's "
            "cache on this disk, of Qwen3, Qwen2, Llama or Mistral"
        )
    sizes = sizes_of(spec, completion)
    training = training_memory(spec, base.shape, sizes, machine)
    lora = base.shape.lora_parameters(spec.lora.r, spec.lora.targets)
    work = Work(spec, base.shape, sizes, machine, training, lora)
    needed = disk_needed(spec, base, sizes, machine.count)
    refusals = _memory_refusals(spec, base.shape, machine, training)
    if machine.local:
        refusals += _disk_refusals(needed)
    return Plan(spec, base, machine, sizes, training, lora, stages_of(work), needed, refusals)


def check_machine(spec: StudySpec) -> bool:
    """Refuse, before anything is fetched or started, a base or a study that this machine cannot hold.

    Returns whether the base's shape is known; where it is not, nothing was checked. On a Ray cluster ($COLINEAR_RAY)
    the nodes do the work, not this machine. Raises `InputError`.
    """
    if os.environ.get("COLINEAR_RAY"):
        return True
    base = base_of(spec)
    if base.shape is None:
        return False
    machine = here(measure=False, light=_held_in_bfloat16(base))
    sizes = sizes_of(spec, read=False)
    training = training_memory(spec, base.shape, sizes, machine)
    needed = disk_needed(spec, base, sizes, machine.count)
    for refusal in [*_memory_refusals(spec, base.shape, machine, training), *_disk_refusals(needed)]:
        raise InputError(refusal)
    return True


def training_memory(spec: StudySpec, shape: Shape, sizes: Sizes, machine: Machine) -> memory.Training:
    """What training one adapter takes of one device."""
    precision = spec.train.precision
    return memory.training(
        shape,
        spec.lora.r,
        shape.lora_parameters(spec.lora.r, spec.lora.targets),
        machine.memory,
        sizes.longest,
        spec.train.batch_size * max(sizes.example, 1.0),
        bfloat16=precision == "bfloat16" or (precision == "auto" and (machine.kind == "gpu" or machine.light)),
        setting=spec.train.gradient_checkpointing,
        on_cpu=machine.kind == "cpu",
        teacher=any(spec.method(name).from_teacher for name in spec.methods),
    )


def disk_needed(spec: StudySpec, base: Found, sizes: Sizes, devices: int) -> dict[str, float]:
    """What is written where: label -> bytes. The base counts where it must be downloaded."""
    assert base.shape is not None
    runs = len(spec.runs())
    kept, soups = len(spec.kept(spec.runs())), spec.souped(spec.runs())
    made = runs + len(spec.truncated(spec.runs()))
    asked = made + len(soups) + (kept if spec.evaluation.kept_steps else 0)
    directions = len(spec.methods) if kept and spec.gradients.n else 0
    written = made + kept + directions + sum(len(soup.of) for soup in soups)  # a soup's ranks are its parts' together
    lora = base.shape.lora_parameters(spec.lora.r, spec.lora.targets)
    modules = base.shape.layers * len(spec.lora.targets)
    checkpoints = min(runs, devices) * disk.KEPT_CHECKPOINTS * disk.checkpoint_bytes(lora)
    needed = {
        "base": 0.0 if base.here else float(disk.base_bytes(base.shape)),
        "rollouts": disk.rollout_bytes(sizes.rows, sizes.example) + 3.0 * sizes.file_bytes * (sizes.rows == 0),
        "adapters": float(written * disk.adapter_bytes(lora)),
        "checkpoints": float(checkpoints) if spec.train.checkpoint_steps else 0.0,
        "answers and tables": runs * (runs - 1) / 2 * modules * disk.PAIR_BYTES
        + (asked + 3) * sizes.evaluated * (1 + spec.evaluation.samples) * sizes.answer * disk.TOKEN_BYTES,
    }
    if spec.geometry.activations:
        needed["second moments"] = float(memory.moment_bytes(base.shape, spec.lora.targets))
    if base.quantised:
        needed["dequantised base"] = float(disk.base_bytes(base.shape))
    if not spec.own:
        needed["student, teacher"] = 8.0 * base.shape.parameters
    return needed


def _memory_refusals(spec: StudySpec, shape: Shape, machine: Machine, training: memory.Training) -> list[str]:
    refusals = []
    moments = memory.moments(shape, spec.lora.targets, bfloat16=machine.light)
    large = shape.parameters > GPU_PARAMETERS
    if large and machine.kind == "cpu" and not spec.model.allow_cpu:
        refusals.append(
            f"model.base: {spec.model.base} has {shape.parameters / 1e9:.1f} billion parameters and this machine no "
            "GPU; run the study where there is one (--dry-run --on 8xH100 plans for it), or --set model.allow_cpu=true"
        )
    if machine.memory and training.least > machine.memory:
        refusals.append(
            f"model.base: to train one adapter takes {training.least / 1e9:,.0f} GB of a device, and the smallest "
            f"here has {machine.memory / 1e9:,.0f}; "
            + _ways_out(spec, shape)
            + ("" if machine.kind == "gpu" else ", or a lower COLINEAR_SLOTS")
        )
    elif spec.geometry.activations and machine.memory < moments and machine.memory:
        refusals.append(
            f"geometry.activations: the weights and the second moments of their inputs take {moments / 1e9:,.1f} GB of "
            "a device, and the smallest here has "
            f"{machine.memory / 1e9:,.1f}; --set geometry.activations=0 leaves that cosine out"
        )
    return refusals


def _ways_out(spec: StudySpec, shape: Shape) -> str:
    shorter = "a smaller model.base, a lower rollouts.max_new_tokens or model.max_length"
    return shorter if spec.train.gradient_checkpointing != "off" else f"train.gradient_checkpointing=auto, {shorter}"


def _disk_refusals(needed: dict[str, float]) -> list[str]:
    """The base goes to the Hub's cache, all else to the state folder; on one disk they add up."""
    state = home.home()
    hub = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    cache = next(folder for folder in (hub, *hub.absolute().parents) if folder.exists())
    own = sum(value for name, value in needed.items() if name != "base")
    wanted = {state: own, cache: needed["base"]}
    if state.stat().st_dev == cache.stat().st_dev:
        wanted = {state: own + needed["base"]}
    return [
        f"disk: the study writes about {amount / 1e9:,.1f} GB to {folder}, where {free / 1e9:,.1f} GB are free; free "
        "some, or set COLINEAR_HOME (and HF_HOME for the base) to another disk"
        for folder, amount in wanted.items()
        if amount > (free := shutil.disk_usage(folder).free)
    ]
