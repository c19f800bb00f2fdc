"""One pass over base and adapters against a slow definition: dense merges, one text at a time, no padding."""

from __future__ import annotations

import itertools
import json
import math
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from tasks.core.errors import InputError
from tasks.core.frames import CKA, DIVERGENCE, LENS, PROBLEMS, checked
from tasks.core.results import LocalBase
from tasks.core.sections import FunctionSpec
from tasks.geometry.cka import linear_cka
from tasks.geometry.functions import measures as functions
from tasks.geometry.functions.divergence import divergence_frame, pair_divergences
from tasks.geometry.functions.measures import measure_functions
from tasks.geometry.functions.readout import find_readout
from tasks.models.load import load_model
from tests.lab.models import small_model

WORDS = [" the", " sum", " of", " and", " is", " so", " \\boxed{", "}", *(f" {digit}" for digit in range(10))]
LAYERS = 3
Frames = dict[str, pl.DataFrame]


def write_base(folder: Path, kind: str = "qwen3") -> Path:
    """A random model of 3 layers of width 16 over 23 tokens, whose logits are far from flat."""
    from transformers import GPT2Config, GPT2LMHeadModel

    from tasks.models.tokenizer import build_tokenizer

    tokenizer = build_tokenizer(WORDS, max_length=48)
    special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    tokens = {"vocab_size": len(tokenizer), "initializer_range": 0.3, **special}
    if kind == "gpt2":
        torch.manual_seed(1)
        model: Any = GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=LAYERS, n_head=2, n_positions=48, **tokens))
    else:
        shape = {"hidden_size": 16, "num_hidden_layers": LAYERS, "num_attention_heads": 2, "num_key_value_heads": 1}
        more = {"intermediate_size": 32, "max_position_embeddings": 48, "tie_word_embeddings": True}
        model = small_model(1, **shape, **more, **tokens)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_adapter(base: Path, folder: Path, seed: int, size: float = 0.3, **settings: Any) -> Path:
    """A PEFT adapter with random factors."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    config = LoraConfig(**{"r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "v_proj", "down_proj"], **settings})
    model = get_peft_model(load_model(base, "float32"), config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name or "modules_to_save" in name:
                parameter.add_(size * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return folder


def write_problems(file: Path, count: int = 9) -> Path:
    """Held-out problems of unequal length, one without a solution, and one of another split."""
    rng = np.random.default_rng(2)

    def words(low: int, high: int) -> str:
        return "".join(rng.choice(WORDS, rng.integers(low, high)))

    rows = [
        {"problem_id": f"p{i}", "split": "heldout", "question": words(3, 12), "answer": "3", "solution": words(1, 9)}
        for i in range(count)
    ]
    rows[2]["solution"] = None
    rows.insert(1, {**rows[0], "problem_id": "h", "split": "hard"})
    checked(pl.DataFrame(rows, schema=PROBLEMS), PROBLEMS, "problems").write_parquet(file)
    return file


class World:
    """A base, adapters and problems, and what `measure_functions` makes of them."""

    def __init__(self, folder: Path, kind: str = "qwen3", targets: list[str] | None = None) -> None:
        self.folder = folder
        self.base = write_base(folder / "base", kind)
        more = {} if targets is None else {"target_modules": targets}
        self.adapters: dict[str, Path | None] = {"base": None}
        self.adapters["sft.1e-3"] = write_adapter(self.base, folder / "sft", 3, **more)
        self.adapters["dpo"] = write_adapter(self.base, folder / "dpo", 4, size=0.05, r=3, use_rslora=True, **more)
        self.problems = write_problems(folder / "problems.parquet")
        self._calls = itertools.count()

    def settings(self, **changes: Any) -> dict[str, Any]:
        out = self.folder / f"out{next(self._calls)}"
        out.mkdir()
        spec = {name: changes.pop(name) for name in [*changes] if name in FunctionSpec.model_fields}
        return {
            "base": LocalBase(self.base, max_length=changes.pop("max_length", None)),
            "spec": FunctionSpec(**{"n": 100, "batch_size": 4} | spec),
            "adapters": self.adapters, "problems": self.problems, "max_new_tokens": 1, "out": out, **changes,
        }  # fmt: skip

    def measure(self, **changes: Any) -> tuple[Frames, dict[str, Any]]:
        settings = self.settings(**changes)
        summary = measure_functions(**settings)
        names = {"cka": CKA, "lens": LENS, "divergence": DIVERGENCE}
        frames = {n: checked(pl.read_parquet(settings["out"] / f"{n}.parquet"), s, n) for n, s in names.items()}
        return frames, summary


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("functions"))


@pytest.fixture(scope="module")
def measured(world: World) -> tuple[Frames, dict[str, Any]]:
    return world.measure()


class Slow:
    """The definition: each adapter merged densely into a copy of the base, each text alone, all in float64."""

    def __init__(self, world: World, adapters: Mapping[str, Path | None] | None = None) -> None:
        from tasks.models.turn import open_turn

        turn = open_turn(world.base)
        self.prompts, self.solutions = [], []
        for row in pl.read_parquet(world.problems).filter(pl.col("split") == "heldout").iter_rows(named=True):
            self.prompts.append(turn.prompt(row["question"]))
            known = row["solution"]
            self.solutions.append(turn.answer(known) if known else turn.boxed(row["answer"]))
        self.hidden: dict[str, list[torch.Tensor]] = {}
        """run -> each text's (L + 1, T, p)"""
        self.logits: dict[str, list[torch.Tensor]] = {}
        """run -> each text's (L + 1, N, V) lens at the places that predict its solution; the last are the model's"""
        for run, folder in (adapters or world.adapters).items():
            model = load_model(world.base, "float32", folder).double()
            norm = model.base_model.norm if hasattr(model.base_model, "norm") else model.base_model.ln_f
            self.hidden[run], self.logits[run] = [], []
            for prompt, solution in zip(self.prompts, self.solutions, strict=True):
                with torch.no_grad():
                    output = model(input_ids=torch.tensor([[*prompt, *solution]]), output_hidden_states=True)
                    hidden = torch.stack(output.hidden_states)[:, 0]
                    part = slice(len(prompt) - 1, len(prompt) + len(solution) - 1)
                    lens = [model.get_output_embeddings()(norm(layer[part])) for layer in hidden[:-1]]
                self.hidden[run].append(hidden)
                self.logits[run].append(torch.stack([*lens, output.logits[0, part]]))

    def rows(self, run: str, layer: int, pooling: str) -> np.ndarray:
        prompts = [hidden[layer, : len(ids)] for hidden, ids in zip(self.hidden[run], self.prompts, strict=True)]
        if pooling == "tokens":
            return torch.cat(prompts).numpy()
        return torch.stack([p[-1] if pooling == "last" else p.mean(0) for p in prompts]).numpy()

    def kl(self, a: str, b: str) -> np.ndarray:
        """(P,) sums over each solution's tokens."""
        found = []
        for x, y in zip(self.logits[a], self.logits[b], strict=True):
            p, q = torch.log_softmax(x[-1], -1), torch.log_softmax(y[-1], -1)
            found.append(float((p.exp() * (p - q)).sum()))
        return np.array(found)

    def lens(self, run: str) -> tuple[np.ndarray, np.ndarray, float]:
        """Agreement and cross-entropy of each layer, and the depth, token by token."""
        agree, nll, depth = [], [], []
        for logits, solution in zip(self.logits[run], self.solutions, strict=True):
            for t, target in enumerate(solution):
                top = [int(layer[t].argmax()) for layer in logits]
                agree.append([token == top[-1] for token in top])
                nll.append([float(-torch.log_softmax(layer[t], -1)[target]) for layer in logits])
                depth.append(next(i for i in range(len(top)) if all(token == top[-1] for token in top[i:])))
        return np.mean(agree, axis=0), np.mean(nll, axis=0), float(np.mean(depth))


def value(frame: pl.DataFrame, **where: Any) -> Any:
    rows = frame.filter(*(pl.col(k).is_null() if v is None else pl.col(k) == v for k, v in where.items()))
    assert rows.height == 1, where
    return rows["value"].item()


def check_against(frames: Frames, slow: Slow, pooling: str) -> None:
    runs = list(slow.hidden)
    assert frames["cka"].height == math.comb(len(runs), 2) * (LAYERS + 1) * 2
    for (a, b), layer in itertools.product(itertools.combinations(runs, 2), range(LAYERS + 1)):
        x, y = slow.rows(a, layer, pooling), slow.rows(b, layer, pooling)
        constant = np.ptp(x, axis=0).max() == 0
        for estimator in ("debiased", "biased"):
            got = value(frames["cka"], run_a=a, run_b=b, layer=layer, estimator=estimator, pooling=pooling, n=len(x))
            if constant:
                assert got is None
            else:
                assert got == pytest.approx(linear_cka(x, y, estimator == "debiased"), abs=2e-5)
    tokens = sum(map(len, slow.solutions))
    for a, b in itertools.permutations(runs, 2):
        expected = slow.kl(a, b).sum() / tokens
        assert value(frames["divergence"], run_a=a, run_b=b, tokens=tokens) == pytest.approx(expected, rel=1e-4)
    for run in runs:
        agreement, nll, depth = slow.lens(run)
        for layer in range(LAYERS + 1):
            where = {"run": run, "layer": layer, "tokens": tokens}
            assert value(frames["lens"], metric="agreement", **where) == pytest.approx(agreement[layer], abs=1e-12)
            assert value(frames["lens"], metric="cross_entropy", **where) == pytest.approx(nll[layer], rel=1e-5)
        assert value(frames["lens"], run=run, layer=None, metric="depth") == pytest.approx(depth, abs=1e-12)


@pytest.mark.parametrize("pooling", ["last", "mean", "tokens"])
def test_everything_equals_the_slow_definition(world: World, pooling: str) -> None:
    frames, summary = world.measure(pooling=pooling)
    slow = Slow(world)
    check_against(frames, slow, pooling)
    assert summary == {
        "problems": 9, "split": "heldout", "boxed_references": 1, "too_long": 0, "layers": LAYERS, "note": None,
        "tokens": sum(map(len, slow.solutions)),
        "rows": sum(map(len, slow.prompts)) if pooling == "tokens" else 9,
        "unmeasured": 6 if pooling == "last" else 0,
    }  # fmt: skip


def test_the_models_differ_enough_to_tell(measured: tuple[Frames, dict[str, Any]]) -> None:
    """Guards the comparison above: its values are far from their limits, and the lens moves with the layer."""
    frames, _ = measured
    top = frames["cka"].filter(pl.col("layer") == LAYERS)["value"]
    assert 0.1 < top.min() < 0.9  # type: ignore[operator]
    assert value(frames["divergence"], run_a="base", run_b="sft.1e-3") > 0.1
    assert 0.001 < value(frames["divergence"], run_a="base", run_b="dpo") < 0.1
    assert 0.5 < value(frames["lens"], run="base", layer=None, metric="depth") < LAYERS
    assert value(frames["lens"], run="base", layer=LAYERS, metric="agreement") == 1


def test_a_missing_cka_says_why(measured: tuple[Frames, dict[str, Any]]) -> None:
    """Every prompt ends in one token, whose embedding is layer 0's state."""
    frames, _ = measured
    empty = frames["cka"].filter(pl.col("value").is_null())
    assert empty["layer"].unique().to_list() == [0]
    assert empty["reason"].unique().to_list() == ["zero variance: all 9 rows are equal"]
    assert frames["cka"].filter(pl.col("layer") > 0)["reason"].null_count() == 18


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_batches_and_padding_change_nothing(
    world: World, measured: tuple[Frames, dict[str, Any]], batch_size: int
) -> None:
    """Size 1 pads nothing, size 100 pads every text but one to the longest."""
    frames, _ = world.measure(batch_size=batch_size)
    for name, frame in frames.items():
        keys = [column for column in frame.columns if column not in ("value", "low", "high")]
        assert frame.select(keys).equals(measured[0][name].select(keys)), name
        for column in set(frame.columns) - set(keys):
            got, expected = (f[column].fill_null(-1).to_numpy() for f in (frame, measured[0][name]))
            np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5, err_msg=f"{name}.{column}")


def test_small_blocks_change_nothing(
    world: World, measured: tuple[Frames, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One token at a time, as a large vocabulary would have it."""
    monkeypatch.setitem(functions.BLOCK_BYTES, "cpu", 1)
    largest = []

    def watched(logits_NMV: torch.Tensor) -> torch.Tensor:
        largest.append(len(logits_NMV))
        return pair_divergences(logits_NMV)

    monkeypatch.setattr(functions, "pair_divergences", watched)
    frames, summary = world.measure()
    assert largest == [1] * summary["tokens"]
    for name in ("divergence", "lens"):
        np.testing.assert_allclose(frames[name]["value"], measured[0][name]["value"], rtol=1e-5, err_msg=name)


def test_equal_adapters_are_at_no_distance(world: World) -> None:
    """The same adapter twice, the base twice, and an adapter whose update is 0."""
    nothing = write_adapter(world.base, world.folder / "nothing", 5, size=0.0)
    assert world.adapters["dpo"] is not None
    copy = shutil.copytree(world.adapters["dpo"], world.folder / "copy")
    frames, _ = world.measure(adapters={**world.adapters, "twin": copy, "base2": None, "nothing": nothing})
    for a, b in (("dpo", "twin"), ("base", "base2"), ("base", "nothing"), ("base2", "nothing")):
        for layer, estimator in itertools.product(range(1, LAYERS + 1), ("debiased", "biased")):
            got = value(frames["cka"], run_a=a, run_b=b, layer=layer, estimator=estimator)
            assert got == pytest.approx(1, abs=1e-12)
        for pair in ((a, b), (b, a)):
            for bound in ("value", "low", "high"):
                row = frames["divergence"].filter(run_a=pair[0], run_b=pair[1])
                assert abs(row[bound].item()) < 1e-12
    apart = value(frames["divergence"], run_a="dpo", run_b="base2")
    assert apart == pytest.approx(value(frames["divergence"], run_a="twin", run_b="nothing"), rel=1e-9)


def test_the_order_of_runs_changes_nothing(world: World, measured: tuple[Frames, dict[str, Any]]) -> None:
    """Each run acts alone: nothing is left of the one that acted before it."""
    frames, _ = world.measure(adapters={run: world.adapters[run] for run in ("dpo", "base", "sft.1e-3")})
    keys = ["run_a", "run_b"]
    joined = measured[0]["divergence"].join(frames["divergence"], on=keys, validate="1:1")
    assert joined.height == 6
    for column in ("value", "low", "high"):
        np.testing.assert_allclose(joined[column], joined[f"{column}_right"], rtol=1e-6)
    assert value(frames["cka"], run_a="dpo", run_b="base", layer=2, estimator="debiased") == pytest.approx(
        value(measured[0]["cka"], run_a="base", run_b="dpo", layer=2, estimator="debiased"), abs=1e-6
    )


def test_saved_modules_and_an_adapted_head(world: World) -> None:
    """DoRA, a saved final norm, and LoRA on the head, which then has to be switched for the divergence and the lens."""
    adapters = {
        "base": None,
        "dora": write_adapter(world.base, world.folder / "dora", 6, use_dora=True),
        "norm": write_adapter(world.base, world.folder / "norm", 7, modules_to_save=["norm"]),
        "head": write_adapter(world.base, world.folder / "head", 8, target_modules=["q_proj", "lm_head"]),
    }
    frames, _ = world.measure(adapters=adapters)
    merged = {
        run: folder for run, folder in adapters.items() if run != "head"
    }  # PEFT would merge it into the embedding
    slow = Slow(world, merged)
    for a, b in itertools.permutations(merged, 2):
        expected = slow.kl(a, b).sum() / sum(map(len, slow.solutions))
        assert value(frames["divergence"], run_a=a, run_b=b) == pytest.approx(expected, rel=1e-4)
    for run in merged:
        _, nll, depth = slow.lens(run)
        got = frames["lens"].filter(pl.col("run") == run, pl.col("metric") == "cross_entropy")["value"]
        np.testing.assert_allclose(got, nll, rtol=1e-5)
        assert value(frames["lens"], run=run, layer=None, metric="depth") == pytest.approx(depth, abs=1e-12)
    # The head by hand: logits of the switched PEFT model itself.
    from peft import PeftModel

    model = PeftModel.from_pretrained(load_model(world.base, "float32"), str(adapters["head"])).eval()
    total = 0.0
    for i, (prompt, solution) in enumerate(zip(slow.prompts, slow.solutions, strict=True)):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([[*prompt, *solution]])).logits[0, len(prompt) - 1 : -1].double()
        p, q = torch.log_softmax(slow.logits["base"][i][-1], -1), torch.log_softmax(logits, -1)
        total += float((p.exp() * (p - q)).sum())
    expected = total / sum(map(len, slow.solutions))
    assert expected > 0.01
    assert value(frames["divergence"], run_a="base", run_b="head") == pytest.approx(expected, rel=1e-4)


def test_gpt2_has_other_names(tmp_path: Path) -> None:
    world = World(tmp_path, "gpt2", ["c_attn", "c_proj"])
    frames, summary = world.measure(pooling="mean")
    assert summary["note"] is None
    check_against(frames, Slow(world), "mean")
    assert find_readout(load_model(world.base, "float32"), [1, 5, 6]).norm_name == "ln_f"


def test_the_readout_of_a_model_that_others_trained() -> None:
    folder = Path(os.environ.get("COLINEAR_DATA") or "missing") / "stories260K"
    if not folder.is_dir():
        pytest.skip("COLINEAR_DATA names no folder with stories260K")
    assert find_readout(load_model(folder, "float32"), [1, 300, 301]).norm_name == "norm"


def test_a_model_whose_readout_is_another_keeps_its_cka(
    world: World, measured: tuple[Frames, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logits that are scaled after the head, and a norm that is not the last thing before it."""
    from transformers import Qwen3ForCausalLM

    plain = Qwen3ForCausalLM.forward

    def scaled(self: Any, *arguments: Any, **more: Any) -> Any:
        output = plain(self, *arguments, **more)
        output.logits = output.logits / 2
        return output

    with monkeypatch.context() as patch:
        patch.setattr(Qwen3ForCausalLM, "forward", scaled)
        frames, summary = world.measure()
    assert "no logit lens and no divergence" in summary["note"]
    assert "Qwen3ForCausalLM" in summary["note"]
    assert frames["lens"].is_empty()
    assert frames["divergence"].is_empty()
    assert frames["cka"].equals(measured[0]["cka"])

    real = functions.find_readout
    monkeypatch.setattr(functions, "find_readout", lambda model, ids: type(real(model, ids))(model, ""))
    frames, summary = world.measure()
    assert "no logit lens: the model has no final norm" in summary["note"]
    assert frames["lens"].is_empty()
    assert frames["divergence"].equals(measured[0]["divergence"])


def test_divergences_by_hand() -> None:
    """p = (1/2, 1/2), q = (1/4, 3/4): KL(p||q) = (ln 2 + ln(2/3)) / 2 = .14384, KL(q||p) = .75 ln 3 - ln 2 = .13081."""
    logits = torch.tensor([[[0.0, 0.0], [0.0, math.log(3)]]])
    found = pair_divergences(logits)
    np.testing.assert_allclose(found[0], [[0, 0.14384103622], [0.75 * math.log(3) - math.log(2), 0]], rtol=1e-7)
    assert found.dtype == torch.float64
    # A shift of all logits by a constant is the same distribution; tiny divergences keep their digits.
    near = torch.tensor([[[0.0, 0.0], [5.0, 5.0 + 2**-12]]])
    d = 2**-12  # KL = ln cosh(d / 2) = d^2 / 8 up to d^4
    assert float(pair_divergences(near)[0, 0, 1]) == pytest.approx(d**2 / 8, rel=1e-6)


def test_divergences_are_ratios_of_sums_with_their_bootstrap() -> None:
    """Problems of 1 and 9 tokens with sums 2 and 9: 11 / 10 a token, where the mean of their means were 1.5.

    Resamples of two problems: (a, a) gives 2, (b, b) gives 1, both 1.1: 2.5 % and 97.5 % are 1 and 2.
    """
    sums = np.zeros((2, 2, 2))
    sums[:, 0, 1], sums[:, 1, 0] = [2, 9], [1, 9]
    frame = divergence_frame(["x", "y"], sums, np.array([1, 9]))
    assert frame.rows() == [
        ("x", "y", 2, 10, pytest.approx(1.1), 1.0, 2.0),
        ("y", "x", 2, 10, pytest.approx(1.0), 1.0, 1.0),
    ]
    one = divergence_frame(["x", "y"], sums[:1], np.array([1]))
    assert one["value"].to_list() == [2.0, 1.0]
    assert one["low"].null_count() == one["high"].null_count() == 2


def test_intervals_resample_whole_problems(world: World, measured: tuple[Frames, dict[str, Any]]) -> None:
    """Against a plain loop over draws of problems; 9 problems, 4,000 draws."""
    slow = Slow(world)
    sums, tokens = slow.kl("base", "sft.1e-3"), np.array([len(solution) for solution in slow.solutions])
    rng = np.random.default_rng(11)
    draws = []
    for _ in range(4000):
        drawn = rng.integers(9, size=9)
        draws.append(sums[drawn].sum() / tokens[drawn].sum())
    low, high = np.quantile(draws, [0.025, 0.975])
    row = measured[0]["divergence"].filter(run_a="base", run_b="sft.1e-3")
    spread = high - low
    assert row["low"].item() == pytest.approx(low, abs=0.06 * spread)
    assert row["high"].item() == pytest.approx(high, abs=0.06 * spread)


def test_n_and_the_context_choose_the_problems(world: World) -> None:
    told: list[tuple[int, int, str]] = []

    def progress(done: int, total: int, note: str = "") -> None:
        told.append((done, total, note))

    frames, summary = world.measure(n=5, batch_size=2, progress=progress)
    assert summary["problems"] == 5
    assert told == [(2, 5, "functions"), (4, 5, "functions"), (5, 5, "functions")]
    assert frames["divergence"]["n"].unique().to_list() == [5]
    box = 4  # " \\boxed{", " 3", "}" and the end: has to fit as well, as for the paths
    lengths = [len(p) + max(len(s), box) for p, s in zip(Slow(world).prompts, Slow(world).solutions, strict=True)]
    limit = sorted(lengths)[4]
    _, summary = world.measure(max_length=limit)
    assert summary["problems"] == sum(length <= limit for length in lengths)
    assert summary["too_long"] == 9 - summary["problems"] > 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (lambda w: {"adapters": {"base": None}}, "adapters: 1 given"),
        (lambda w: {"max_length": 2}, "none of the 9 problems of heldout fits 2 tokens with an answer of 1"),
        (lambda w: {"n": 0}, "n: 0 problems asked for"),
        (lambda w: {"adapters": {"base": None, "x": w.folder}}, "adapter_config.json is missing"),
        (lambda w: {"adapters": {"base": None, "x": pissa(w)}}, "PiSSA changes the base weights"),
        (lambda w: {"adapters": {"base": None, "x": foreign(w)}}, "does not fit the base: .*size mismatch"),
        (lambda w: {"adapters": {"base": None, "x": missing(w)}}, "does not fit the base: it lacks 2 weights"),
        (lambda w: {"adapters": {"base": None, "x": broken(w)}}, "run x: its hidden states are NaN or infinite"),
    ],
)
def test_what_does_not_fit_is_refused(world: World, changes: Callable[[World], dict[str, Any]], said: str) -> None:
    with pytest.raises(InputError, match=said):
        world.measure(**changes(world))


def test_cka_that_would_not_fit_is_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functions, "CKA_BYTES", 1000)
    with pytest.raises(InputError, match="pooling: CKA of 9 rows of 3 models and 3 layers would hold"):
        world.measure()


def pissa(world: World) -> Path:
    return edited(world, "pissa", lambda config: config.update(init_lora_weights="pissa"))


def foreign(world: World) -> Path:
    return edited(world, "foreign", lambda config: config.update(r=7))


def missing(world: World) -> Path:
    return edited(world, "missing", drop="base_model.model.model.layers.1.self_attn.q_proj")


def broken(world: World) -> Path:
    return edited(world, "broken", spoil=True)


def edited(
    world: World,
    name: str,
    change: Callable[[dict[str, Any]], None] | None = None,
    drop: str = "?",
    spoil: bool = False,
) -> Path:
    """A copy of an adapter with its configuration changed, some weights dropped, or a NaN in one."""
    from safetensors.torch import load_file, save_file

    folder = world.folder / name
    source = world.adapters["dpo"]
    assert source is not None
    shutil.copytree(source, folder, dirs_exist_ok=True)
    if change is not None:
        config = json.loads((folder / "adapter_config.json").read_text())
        change(config)
        (folder / "adapter_config.json").write_text(json.dumps(config))
    file = folder / "adapter_model.safetensors"
    weights = {key: value for key, value in load_file(file).items() if not key.startswith(drop)}
    if spoil:
        next(iter(weights.values()))[0, 0] = math.nan
    save_file(weights, file)
    return folder
