"""The path between two adapters against formed matrices and PEFT's own merging; what is measured along it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from tasks.core.errors import InputError
from tasks.core.frames import BARRIERS, CONNECTIVITY, PROBLEMS
from tasks.core.results import LocalBase
from tasks.core.sections import PathSpec
from tasks.geometry.connectivity import ENDS, PATH_ITEMS
from tasks.geometry.delta import LoraDelta, load_delta
from tasks.geometry.paths.curves import End, measure_ends, measure_path
from tasks.geometry.paths.line import Line, open_plain
from tasks.geometry.paths.meter import SCORED_AT_ONCE
from tasks.models.load import load_model
from tasks.models.score import sequence_nll
from tasks.models.turn import open_turn
from tests.lab.updates import dense, random_factors

IDS = torch.arange(3, 43).view(2, 20)
N = 5
ALPHAS = (0.0, 0.3, 1.0)


def write_adapter(base: Path, folder: Path, seed: int, **settings: Any) -> Path:
    """Random A and B, as PEFT saves them."""
    from peft import LoraConfig, get_peft_model

    chosen = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "init_lora_weights": False, **settings}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        get_peft_model(load_model(base, "float32"), LoraConfig(**chosen)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapters(base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Of ranks 4 and 2, with targets of which they share one; the second scaled by rsLoRA."""
    folder = tmp_path_factory.mktemp("adapters")
    other = {"r": 2, "lora_alpha": 3, "target_modules": ["v_proj", "o_proj", "down_proj"], "use_rslora": True}
    return write_adapter(base_model, folder / "a", 1), write_adapter(base_model, folder / "b", 2, **other)


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight held-out problems, one of them too long for the context and one without a solution; others are hard."""
    rows = [
        {
            "problem_id": f"p{i}",
            "split": "hard" if i >= 8 else "heldout",
            "question": f"{i} + {i}?" if i else "1 + 1? " * 9,
            "answer": str(2 * i),
            "solution": None if i == 3 else f"it is \\boxed{{{2 * i}}}",
        }
        for i in range(10)
    ]
    file = tmp_path_factory.mktemp("problems") / "problems.parquet"
    pl.DataFrame(rows, schema=PROBLEMS).write_parquet(file)
    return file


def formed(base: Path, weights: Mapping[str, np.ndarray]) -> Any:
    """The base with matrices added to its modules in float64."""
    model = load_model(base, "float32")
    with torch.no_grad():
        for name, update in weights.items():
            weight = model.get_submodule(name).weight
            weight.copy_((weight.double() + torch.from_numpy(update)).float())
    return model


def combined(a: LoraDelta, b: LoraDelta, alpha: float) -> dict[str, np.ndarray]:
    """The definition: (1 - alpha) dW_a + alpha dW_b, formed, a missing module being zero."""
    sums: dict[str, np.ndarray] = {}
    for delta, share in ((a, 1 - alpha), (b, alpha)):
        for name, factors in delta.modules.items():
            sums[name] = sums.get(name, 0) + share * dense(factors)
    return sums


def logits(model: Any) -> np.ndarray:
    with torch.inference_mode():
        return model(input_ids=IDS).logits.float().numpy().copy()


def arguments(base: Path, problems: Path, out: Path, **changes: Any) -> dict[str, Any]:
    out.mkdir(parents=True)
    chosen = {name: changes.pop(name) for name in [*changes] if name in PathSpec.model_fields}
    spec = PathSpec(**{"n": N, "alphas": ALPHAS, "matched": False} | chosen)
    settings = {"spec": spec, "batch_size": 3, "max_new_tokens": 4, **changes}
    return {"base": LocalBase(base), "problems": problems, "out": out, **settings}


def path(base: Path, adapters: tuple[Path, Path], problems: Path, out: Path, **changes: Any) -> dict[str, Any]:
    files = changes.pop("ends", {})
    a, b = (End(run, adapter, files.get(run)) for run, adapter in zip("ab", adapters, strict=True))
    return measure_path(a=a, b=b, **arguments(base, problems, out, **changes))


# --- the path --------------------------------------------------------------------------------------------------------


def test_the_path_is_that_of_the_formed_updates(base_model: Path, adapters: tuple[Path, Path]) -> None:
    model = load_model(base_model, "float32")
    base = logits(model)
    line = Line(model, [open_plain(folder) for folder in adapters])
    a, b = map(load_delta, adapters)
    for alpha in (0.0, 0.3, 1.0, 0.3):  # back again: no point depends on the one before it
        line.place([1 - alpha, alpha])
        expected = logits(formed(base_model, combined(a, b, alpha)))
        assert np.abs(logits(model) - base).max() > 1e-2
        np.testing.assert_allclose(logits(model), expected, rtol=0, atol=1e-5)
    line.place([0.0, 0.0])
    assert np.array_equal(logits(model), base)


def test_the_path_does_not_depend_on_how_an_update_is_factored(base_model: Path, adapters: tuple[Path, Path]) -> None:
    """One update, its rank-one terms in two orders: every point is the same model. Averaged factors would not be."""
    delta = load_delta(adapters[1])
    turned = LoraDelta({name: f._replace(B=f.B[:, ::-1], A=f.A[::-1]) for name, f in delta.modules.items()})
    model = load_model(base_model, "float32")
    line = Line(model, [delta, turned])
    line.place([1.0, 0.0])
    end = logits(model)
    line.place([0.5, 0.5])
    np.testing.assert_allclose(logits(model), end, rtol=0, atol=1e-5)
    halves = [(f.scale, (f.B + f.B[:, ::-1]) / 2, (f.A + f.A[::-1]) / 2) for f in delta.modules.values()]
    apart = {name: s * b @ a for name, (s, b, a) in zip(delta.modules, halves, strict=True)}
    assert np.abs(logits(formed(base_model, apart)) - end).max() > 1e-2


def test_the_ends_are_what_peft_merges(base_model: Path, adapters: tuple[Path, Path]) -> None:
    model = load_model(base_model, "float32")
    line = Line(model, [open_plain(folder) for folder in adapters])
    for coefficients, folder in (((1.0, 0.0), adapters[0]), ((0.0, 1.0), adapters[1])):
        line.place(coefficients)
        merged = load_model(base_model, adapter=folder)
        np.testing.assert_allclose(logits(model), logits(merged), rtol=0, atol=1e-5)


def test_on_bfloat16_weights_updates_are_beside_them(base_model: Path, adapters: tuple[Path, Path]) -> None:
    """The logits move as in float32, to a twentieth; no weight changes, and the base comes back bit for bit."""
    light, exact = load_model(base_model, "bfloat16"), load_model(base_model, "float32")
    weights = {name: value.clone() for name, value in light.state_dict().items()}
    found = []
    for model in (light, exact):
        line = Line(model, [open_plain(folder) for folder in adapters])
        base = logits(model)
        line.place([0.3, 0.7])
        found.append(logits(model) - base)
        line.place([0.0, 0.0])
        assert np.array_equal(logits(model), base)
    assert all(torch.equal(value, weights[name]) for name, value in light.state_dict().items())
    assert np.linalg.norm(found[0] - found[1]) < 0.05 * np.linalg.norm(found[1])


def test_half_way_between_an_update_and_its_negative_is_the_base(base_model: Path, adapters: tuple[Path, Path]) -> None:
    model = load_model(base_model, "float32")
    base = logits(model)
    delta = load_delta(adapters[0])
    negative = LoraDelta({name: f._replace(B=-f.B) for name, f in delta.modules.items()})
    line = Line(model, [delta, negative])
    line.place([1.0, 0.0])
    assert np.abs(logits(model) - base).max() > 1e-2
    line.place([0.5, 0.5])
    np.testing.assert_allclose(logits(model), base, rtol=0, atol=1e-6)


def test_norms_are_of_the_whole_formed_updates(base_model: Path, adapters: tuple[Path, Path]) -> None:
    line = Line(load_model(base_model, "float32"), [open_plain(folder) for folder in adapters])
    expected = [
        math.sqrt(sum(np.sum(dense(f) ** 2) for f in load_delta(folder).modules.values())) for folder in adapters
    ]
    assert line.norms == pytest.approx(expected, rel=1e-12)


def test_a_transposed_layer() -> None:
    """GPT-2's Conv1D holds its weight as (in, out); a square one does not show it by its shape."""
    from transformers.pytorch_utils import Conv1D

    model = torch.nn.ModuleDict({"c_attn": Conv1D(5, 5)})
    before = model["c_attn"].weight.detach().clone()
    factors = random_factors(np.random.default_rng(0), 5, 5, 2)
    Line(model, [LoraDelta({"c_attn": factors})]).place([0.5])
    moved = (model["c_attn"].weight - before).detach().numpy()
    np.testing.assert_allclose(moved, 0.5 * dense(factors).T, atol=1e-5)


def test_updates_that_fit_no_module_are_refused(base_model: Path) -> None:
    model = load_model(base_model, "float32")
    factors = random_factors(np.random.default_rng(0), 5, 7, 2)
    for name, message in (
        ("model.layers.0.self_attn.q_proj", r"is \(5, 7\), in the base \(16, 16\); give adapters of this base"),
        ("model.layers.9.self_attn.q_proj", "the base has no module"),
        ("model.embed_tokens", "is no linear layer"),
        ("lm_head", "ties to another module's"),
    ):
        with pytest.raises(InputError, match=message):
            Line(model, [LoraDelta({name: factors})])


def test_an_adapter_that_is_not_plain_lora_is_refused(base_model: Path, tmp_path: Path, problems: Path) -> None:
    folder = write_adapter(base_model, tmp_path / "dora", 1, use_dora=True)
    with pytest.raises(InputError, match=r"not scale \* B A \(DoRA rescales the rows\).*leave it out, or convert it"):
        path(base_model, (folder, folder), problems, tmp_path / "out")


# --- the readings ----------------------------------------------------------------------------------------------------


def test_the_readings_are_their_definitions(
    base_model: Path, adapters: tuple[Path, Path], problems: Path, tmp_path: Path
) -> None:
    """Every problem at alpha = .3 scored by itself on the model with formed updates, text by text."""
    from transformers import AutoTokenizer

    summary = path(base_model, adapters, problems, tmp_path / "out")
    items = pl.read_parquet(tmp_path / "out" / "path_items.parquet")
    assert items.schema == PATH_ITEMS
    model = formed(base_model, combined(*map(load_delta, adapters), 0.3))
    tokenizer = AutoTokenizer.from_pretrained(base_model)
    known = {row["problem_id"]: row for row in pl.read_parquet(problems).rows(named=True)}
    point = items.filter(alpha=0.3)
    assert sorted(point["reading"].unique()) == ["boxed", "solution"]
    for _, _, name, reading, value, tokens in point.rows():
        row = known[name]
        text = f"\\boxed{{{row['answer']}}}" if reading == "boxed" else row["solution"]
        target = tokenizer(text)["input_ids"] + ([tokenizer.eos_token_id] if reading == "solution" else [])
        prompt = tokenizer(f"U: {row['question']}\nA: ")["input_ids"]
        assert tokens == len(target)
        assert value == pytest.approx(sequence_nll(model, [prompt], [target], pad_id=0, batch_size=1)[0], rel=1e-5)
    boxed = point.filter(reading="boxed")
    frame = pl.read_parquet(tmp_path / "out" / "connectivity.parquet")
    assert frame.schema == CONNECTIVITY
    row = frame.filter(reading="boxed", alpha=0.3).row(0, named=True)
    assert row["value"] == pytest.approx(boxed["value"].sum() / boxed["tokens"].sum(), rel=1e-12)
    assert (row["run_a"], row["run_b"], row["n"]) == ("a", "b", N)
    assert summary["problems"] == N
    found = pl.read_parquet(tmp_path / "out" / "barriers.parquet")
    assert found.schema == BARRIERS
    assert found["barrier"].min() >= 0


def test_answers_are_generated_at_the_ends_and_the_middle_only(
    base_model: Path, adapters: tuple[Path, Path], problems: Path, tmp_path: Path
) -> None:
    told: list[tuple[int, int, str]] = []
    path(
        base_model, adapters, problems, tmp_path / "out", matched=True,
        progress=lambda done, total, note="": told.append((done, total, note)),
    )  # fmt: skip
    items = pl.read_parquet(tmp_path / "out" / "path_items.parquet")
    for one_norm in (False, True):
        of = items.filter(matched=one_norm)
        assert of.filter(reading="accuracy")["alpha"].unique().sort().to_list() == [0.0, 0.5, 1.0]
        assert of.filter(reading="boxed")["alpha"].unique().sort().to_list() == list(ALPHAS)
    assert items.filter(reading="accuracy")["value"].is_in([0.0, 1.0]).all()
    assert items.filter(reading="accuracy")["tokens"].null_count() == 6 * N
    assert told[-1] == (8, 8, "alpha 1, one norm")
    assert all(first[0] <= second[0] for first, second in pairwise(told))


def test_every_pair_has_the_same_problems_whatever_the_order_of_the_file(
    base_model: Path, adapters: tuple[Path, Path], problems: Path, tmp_path: Path
) -> None:
    """Of the 7 held-out problems that fit; p0 is too long for the context of 64, p8 and p9 are hard."""

    def chosen(file: Path, name: str, **changes: Any) -> list[str]:
        settings = arguments(base_model, file, tmp_path / name, **{"readings": ("boxed",), **changes})
        summary = measure_ends(run="a", adapter=adapters[0], **settings)
        assert summary["problems"] == min(settings["spec"].n, 7)
        return sorted(pl.read_parquet(tmp_path / name / "ends.parquet")["problem_id"])

    first = chosen(problems, "first")
    turned = tmp_path / "turned.parquet"
    pl.read_parquet(problems).reverse().write_parquet(turned)
    assert chosen(turned, "turned") == first
    assert chosen(problems, "more", n=6) != first
    assert set(chosen(problems, "again", n=6)) > set(first)
    assert {tuple(chosen(problems, f"seed{seed}", seed=seed)) for seed in range(5)} != {tuple(first)}
    assert chosen(problems, "all", n=100) == [f"p{i}" for i in range(1, 8)]


def test_ends_that_were_measured_before_are_those_measured_here(
    base_model: Path, adapters: tuple[Path, Path], problems: Path, tmp_path: Path
) -> None:
    for name, folder in zip("ab", adapters, strict=True):
        measure_ends(run=name, adapter=folder, **arguments(base_model, problems, tmp_path / name))
    ends = {name: tmp_path / name / "ends.parquet" for name in "ab"}
    assert pl.read_parquet(ends["a"]).schema == ENDS
    fresh = path(base_model, adapters, problems, tmp_path / "fresh", matched=True)
    reused = path(base_model, adapters, problems, tmp_path / "reused", matched=True, ends=ends)
    assert (fresh["points"], reused["points"]) == (8, 6)
    for file in ("path_items.parquet", "connectivity.parquet"):
        assert pl.read_parquet(tmp_path / "fresh" / file).equals(pl.read_parquet(tmp_path / "reused" / file))
    with pytest.raises(InputError, match=r"ends\.parquet: not of these problems and readings"):
        path(base_model, adapters, problems, tmp_path / "other", ends=ends, seed=1, n=4)


def test_ends_of_the_base_are_those_of_no_update(base_model: Path, problems: Path, tmp_path: Path) -> None:
    zero = write_adapter(base_model, tmp_path / "zero", 1, init_lora_weights=True)  # B = 0, as training starts
    for name, adapter in (("base", None), ("zero", zero)):
        summary = measure_ends(run=name, adapter=adapter, **arguments(base_model, problems, tmp_path / f"of-{name}"))
        assert summary["norm"] == 0.0
    frames = [pl.read_parquet(tmp_path / f"of-{name}" / "ends.parquet") for name in ("base", "zero")]
    assert frames[0].equals(frames[1])
    assert frames[0].height == 2 * N + summary["solutions"]
    alone = pl.read_parquet(tmp_path / "of-base" / "connectivity.parquet")
    assert alone.schema == CONNECTIVITY
    assert alone.select("run_a", "run_b", "matched", "alpha").unique().rows() == [("base", "base", False, 0.0)]
    boxed = frames[0].filter(reading="boxed")
    assert alone.filter(reading="boxed").select("value", "n", "tokens").row(0) == (
        pytest.approx(boxed["value"].sum() / boxed["tokens"].sum()), N, boxed["tokens"].sum(),
    )  # fmt: skip
    assert not (tmp_path / "of-zero" / "connectivity.parquet").exists()


def test_the_matched_path_is_between_updates_of_one_norm(
    base_model: Path, adapters: tuple[Path, Path], problems: Path, tmp_path: Path
) -> None:
    """Its end at 0 is update a times sqrt(|b| / |a|)."""
    summary = path(base_model, adapters, problems, tmp_path / "out", matched=True, readings=("boxed",))
    scale = math.sqrt(summary["norm_b"] / summary["norm_a"])
    assert abs(scale - 1) > 0.05
    model = load_model(base_model, "float32")
    Line(model, [open_plain(adapters[0])]).place([scale])
    items = pl.read_parquet(tmp_path / "out" / "path_items.parquet").filter(matched=True, alpha=0.0)
    known = {row["problem_id"]: row for row in pl.read_parquet(problems).rows(named=True)}
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base_model)
    for name, value in items.select("problem_id", "value").rows():
        prompt = tokenizer(f"U: {known[name]['question']}\nA: ")["input_ids"]
        target = open_turn(base_model).boxed(known[name]["answer"], closed=False)
        assert value == pytest.approx(sequence_nll(model, [prompt], [target], pad_id=0, batch_size=1)[0], rel=1e-5)


def test_a_zero_update_has_no_matched_path(
    base_model: Path, adapters: tuple[Path, Path], problems: Path, tmp_path: Path
) -> None:
    zero = write_adapter(base_model, tmp_path / "zero", 1, init_lora_weights=True)
    summary = path(base_model, (zero, adapters[1]), problems, tmp_path / "out", matched=True, readings=("boxed",))
    assert summary["unmatchable"] is True
    assert pl.read_parquet(tmp_path / "out" / "connectivity.parquet")["matched"].to_list() == [False] * len(ALPHAS)


def test_small_batches_change_no_reading(
    base_model: Path, adapters: tuple[Path, Path], problems: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Texts are scored a few at a time; the seven problems in one batch, in fours and one by one."""
    found = []
    for size in (7, 4, 1):
        monkeypatch.setitem(SCORED_AT_ONCE, "cpu", size)
        settings = arguments(base_model, problems, tmp_path / str(size), n=7, batch_size=100)
        measure_ends(run="a", adapter=adapters[0], **settings)
        found.append(pl.read_parquet(tmp_path / str(size) / "ends.parquet"))
    for other in found[1:]:
        assert other.drop("value").equals(found[0].drop("value"))
        np.testing.assert_allclose(other["value"], found[0]["value"], rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_new_tokens": 64}, "none of the 8 problems of heldout fits 64 tokens with an answer of 64"),
    ],
)
def test_bad_input(
    base_model: Path, adapters: tuple[Path, Path], problems: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        path(base_model, adapters, problems, tmp_path / "out", **changes)
