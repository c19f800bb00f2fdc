"""Path points a second: four ways to have the model at a point, each against the bare forward pass.

    python tests/benchmarks/paths.py [--rounds 5]

A point is the cross-entropy of one text for each problem, or a greedy answer to each; float32, updates of rank 8 + 8 in
q, k, v and o. The ways:

- ``in place``: what `tasks.geometry.paths.line` does; both factored updates are added onto the base's weights;
- ``side branch``: nothing is merged, ``B (A x)`` of the concatenated factors is added to each layer's output;
- ``two dense models``: both merged models held whole, every weight interpolated for each point;
- ``PEFT``: the base read again, both adapters concatenated by `add_weighted_adapter`, merged.

The machine may be shared, so the clock is the process's CPU time (one thread: what the wall would show with a core to
itself, but for caches), and each round takes all ways in turn, beginning with another one. Printed are medians over
rounds of a way's rate and of its time over that round's floor.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import Qwen3Config, Qwen3ForCausalLM
from transformers.utils.logging import disable_progress_bar

from tasks.geometry.delta import LoraDelta, load_delta
from tasks.geometry.paths.line import Line
from tasks.models.generate import generate
from tasks.models.load import load_model
from tasks.models.score import sequence_nll
from tasks.workers.devices import describe_machine

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj"]
VOCABULARY = 146


class Shape(NamedTuple):
    name: str
    hidden: int
    layers: int
    intermediate: int
    heads: int
    problems: int
    decoded: int = 0
    """Tokens that are generated for each problem; 0 scores given texts."""


SHAPES = (
    Shape("the tiny study", 128, 3, 512, 4, 256),
    Shape("the tiny study, answers", 128, 3, 512, 4, 64, decoded=32),
    Shape("wider", 1024, 8, 2048, 16, 8),
    Shape("wider, hardly any text", 1024, 8, 2048, 16, 1),
)
Reading = Callable[[Any], np.ndarray]


class Branch:
    """The side branch: forward hooks with [A_a; A_b] fixed and the two blocks of [B_a, B_b] rescaled for each point."""

    def __init__(self, model: Any, a: LoraDelta, b: LoraDelta) -> None:
        self.parts = []
        for name in a.modules:
            f, g = a.modules[name], b.modules[name]
            lower = torch.tensor(np.vstack([f.A, g.A]), dtype=torch.float32).T.contiguous()
            upper = torch.tensor(np.hstack([f.scale * f.B, g.scale * g.B]), dtype=torch.float32).T.contiguous()
            part = (lower, upper, upper.clone(), f.B.shape[1])
            model.get_submodule(name).register_forward_hook(self._hook(part))
            self.parts.append(part)

    def place(self, alpha: float) -> None:
        for _, upper, scaled, rank in self.parts:
            torch.mul(upper[:rank], 1 - alpha, out=scaled[:rank])
            torch.mul(upper[rank:], alpha, out=scaled[rank:])

    @staticmethod
    def _hook(part: tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]) -> Callable[..., None]:
        def hook(_: Any, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
            x = inputs[0]
            output.view(-1, output.shape[-1]).addmm_(x.reshape(-1, x.shape[-1]) @ part[0], part[2])

        return hook


def write(shape: Shape, folder: Path) -> tuple[Path, list[Path]]:
    """A random base and two random adapters of it."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=VOCABULARY, hidden_size=shape.hidden, num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads, num_key_value_heads=shape.heads // 2, head_dim=shape.hidden // shape.heads,
        intermediate_size=shape.intermediate, max_position_embeddings=256,
    )  # fmt: skip
    Qwen3ForCausalLM(config).save_pretrained(folder / "base")
    adapters = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        lora = LoraConfig(r=8, lora_alpha=2, target_modules=TARGETS, init_lora_weights=False)
        get_peft_model(load_model(folder / "base", "float32"), lora).save_pretrained(folder / f"adapter{seed}")
        adapters.append(folder / f"adapter{seed}")
    return folder / "base", adapters


def reading(shape: Shape) -> tuple[Reading, int]:
    """What is done at a point, on texts with the lengths of the tiny study's, and their tokens."""
    rng = np.random.default_rng(0)
    prompts, targets = (
        [rng.integers(5, VOCABULARY, rng.integers(*lengths)).tolist() for _ in range(shape.problems)]
        for lengths in ((25, 45), (15, 35))
    )

    def score(model: Any) -> np.ndarray:
        return np.array(sequence_nll(model, prompts, targets, pad_id=0, batch_size=64))

    def answer(model: Any) -> np.ndarray:  # no end token, so that every way decodes equally many
        answers = generate(model, prompts, end_ids=[VOCABULARY], pad_id=0, max_new_tokens=shape.decoded, batch_size=64)
        return np.array([len(one.ids) for one in answers])

    if shape.decoded:
        return answer, sum(map(len, prompts)) + shape.problems * shape.decoded
    return score, sum(map(len, prompts + targets))


def ways(base: Path, adapters: list[Path], read: Reading) -> dict[str, Callable[[float], np.ndarray]]:
    """Name -> the reading at a point."""
    a, b = map(load_delta, adapters)
    bare, placed, side, mixed = (load_model(base, "float32") for _ in range(4))
    line, branch = Line(placed, [a, b]), Branch(side, a, b)
    merged = [dict(load_model(base, adapter=adapter).named_parameters()) for adapter in adapters]

    def in_place(alpha: float) -> np.ndarray:
        line.place([1 - alpha, alpha])
        return read(placed)

    def side_branch(alpha: float) -> np.ndarray:
        branch.place(alpha)
        return read(side)

    def two_models(alpha: float) -> np.ndarray:
        with torch.no_grad():
            for name, weight in mixed.named_parameters():
                torch.lerp(merged[0][name], merged[1][name], alpha, out=weight)
        return read(mixed)

    def peft(alpha: float) -> np.ndarray:
        model = PeftModel.from_pretrained(load_model(base, "float32"), str(adapters[0]), "a")
        model.load_adapter(str(adapters[1]), "b")
        model.add_weighted_adapter(["a", "b"], [1 - alpha, alpha], "path", combination_type="cat")
        model.set_adapter("path")
        return read(model.merge_and_unload())

    return {
        "floor": lambda _: read(bare), "in place": in_place, "side branch": side_branch,
        "two dense models": two_models, "PEFT": peft,
    }  # fmt: skip


def measure(shape: Shape, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        read, tokens = reading(shape)
        tried = ways(*write(shape, Path(folder)), read)
        found = {name: at(0.3) for name, at in tried.items()}  # also warms up
        for name, values in found.items():
            if name != "floor" or shape.decoded:
                np.testing.assert_allclose(values, found["in place"], rtol=1e-4, err_msg=name)
        assert shape.decoded or np.abs(found["floor"] - found["in place"]).max() > 1e-2
        seconds: dict[str, list[float]] = {name: [] for name in tried}
        order = list(tried)
        for alpha in np.linspace(0.1, 0.9, rounds).tolist():
            order.append(order.pop(0))  # whoever follows PEFT finds the caches cold
            for name in order:
                began = time.process_time()
                tried[name](alpha)
                seconds[name].append(time.process_time() - began)
    print(f"\n{shape.name}: hidden {shape.hidden}, {shape.layers} layers, n = {shape.problems} ({tokens} tokens)")
    print(f"{'':16}{'points/s':>10}{'time / floor':>14}")
    for name, taken in seconds.items():
        ratio = statistics.median(one / floor for one, floor in zip(taken, seconds["floor"], strict=True))
        print(f"{name:16}{1 / statistics.median(taken):10.2f}{ratio:14.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    disable_progress_bar()
    print(f"{describe_machine()}, 1 thread, CPU time, load {os.getloadavg()[0]:.1f}, {options.rounds} rounds")
    for shape in SHAPES:
        measure(shape, options.rounds)


if __name__ == "__main__":
    main()
