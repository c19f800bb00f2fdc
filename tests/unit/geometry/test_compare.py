from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import Qwen3ForCausalLM

from tasks.core.errors import InputError
from tasks.core.results import RunInfo
from tasks.geometry.adapters.checkpoint import Checkpoint
from tasks.geometry.adapters.opened import FACTORED, MERGED, RESCALED
from tasks.geometry.compare import FRAMES, Comparison, compare, examine
from tasks.reporting.findings.comparison import comparison_findings
from tasks.reporting.views.floors import INITIALISATION, ORDER, SHARED_START
from tasks.reporting.views.pairs import ZERO, geometry_of
from tasks.reporting.views.study import Comparison as Compared
from tests.lab.foreign_adapters import check_ranges, check_unshared, dense_metrics, named, tiny_base
from tests.lab.frames import WHOLE, of_pairs
from tests.lab.refusals import refusal as refused
from tests.unit.geometry.test_merged import lora, train

WEIGHTS = "adapter_model.safetensors"
ATTENTION = "model.layers.{}.self_attn.{}_proj"
Q0, Q1 = (ATTENTION.format(i, "q") for i in (0, 1))
K0, K1 = (ATTENTION.format(i, "k") for i in (0, 1))
V0, V1 = (ATTENTION.format(i, "v") for i in (0, 1))
DOWN = "model.layers.{}.mlp.down_proj"

PLAIN = {
    "lora": {"target_modules": ["q_proj", "v_proj"]},
    "rslora": {"use_rslora": True, "r": 2, "target_modules": ["q_proj", "k_proj"]},
}
MERGE = {
    "dora": {"use_dora": True},
    "pissa": {"init_lora_weights": "pissa"},
    "saved": {"modules_to_save": ["lm_head"]},
}
HAS = {
    "dora": {Q0, Q1},
    "full": {Q0, Q1, V1, DOWN.format(0)},
    "lora": {Q0, Q1, V0, V1},
    "pissa": {Q0, Q1},
    "rslora": {Q0, Q1, K0, K1},
    "saved": {Q0, Q1, "lm_head"},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In shards: what a large base is stored in."""
    folder = tiny_base(tmp_path_factory.mktemp("model") / "base", max_shard_size="10KB")
    assert (folder / "model.safetensors.index.json").is_file()
    return folder


@pytest.fixture(scope="module")
def adapters(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder of every kind."""
    folder = tmp_path_factory.mktemp("adapters")
    for name, settings in {**PLAIN, **MERGE}.items():
        train(base, folder / name, lora(**settings))
    model = Qwen3ForCausalLM.from_pretrained(base, dtype=torch.float32)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name in [*sorted(HAS["full"]), "model.norm"]:
            weight = model.get_submodule(name).weight
            weight += 0.05 * torch.randn(weight.shape, generator=generator)
    model.save_pretrained(folder / "full")
    return folder


@pytest.fixture(scope="module")
def found(base: Path, adapters: Path, tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """All six kinds in one comparison, with their base."""
    return compare(named(sorted(adapters.iterdir())), (1, 3), base, tmp_path_factory.mktemp("scratch"))


@pytest.fixture(scope="module")
def truth(base: Path, adapters: Path) -> dict[str, dict[str, np.ndarray]]:
    """Run -> module -> dW: PEFT's own merged weight less the base's; 1e-8 of a weight is float32's rounding."""
    updates = {}
    for folder in sorted(adapters.iterdir()):
        if (folder / WEIGHTS).is_file():
            model = Qwen3ForCausalLM.from_pretrained(base, dtype=torch.float32)
            merged = PeftModel.from_pretrained(model, folder).merge_and_unload()
        else:
            merged = Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.float32)
        original = Qwen3ForCausalLM.from_pretrained(base, dtype=torch.float32)
        updates[folder.name] = {
            name: (merged.get_submodule(name).weight.double() - original.get_submodule(name).weight.double())
            .detach()
            .numpy()
            for name in HAS[folder.name]
        }
    return updates


@pytest.fixture
def copy(adapters: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of an adapter under another name, with tensors changed."""

    def make(source: str, name: str, change: Callable[[str, torch.Tensor], torch.Tensor] | None = None) -> Path:
        shutil.copytree(adapters / source, tmp_path / name)
        if change is not None:
            tensors = {key: change(key, tensor) for key, tensor in load_file(tmp_path / name / WEIGHTS).items()}
            save_file(tensors, tmp_path / name / WEIGHTS)
        return tmp_path / name

    return make


def warnings_of(infos: list[RunInfo], reference: RunInfo, found: Comparison) -> tuple[str, ...]:
    frames = {name: getattr(found, name) for name in FRAMES}
    return comparison_findings(Compared(runs=infos, reference=reference, **frames)).warnings


def refusal(folders: list[Path], base: Path | None = None) -> str:
    """What `examine` refuses, and `compare` in the same words."""
    said = refused(examine, named(folders), base)
    assert refused(compare, named(folders), (1,), base, Path("never")) == said
    assert not Path("never").exists()
    return said


# --- six kinds at once ---------------------------------------------------------------------------------------------


def test_every_kind_is_named_with_the_way_its_update_was_had(found: Comparison) -> None:
    rows = {row["run"]: row for row in found.adapters.iter_rows(named=True)}
    other = "1 other tensor differs and is not compared (model.norm.weight)"
    assert {run: (row["kind"], row["update"], row["rank"], row["note"]) for run, row in rows.items()} == {
        "dora": ("DoRA", RESCALED, None, "DoRA rescales the rows"),
        "full": ("full fine-tune", MERGED, None, other),
        "lora": ("LoRA", FACTORED, 4, None),
        "pissa": ("LoRA (pissa)", MERGED, None, "PiSSA changes the base weights"),
        "rslora": ("rsLoRA", FACTORED, 2, None),
        "saved": ("LoRA", MERGED, None, "modules_to_save holds whole weights: lm_head"),
    }
    assert {run: row["modules"] for run, row in rows.items()} == {run: len(names) for run, names in HAS.items()}
    assert found.notes == ()


def test_what_one_side_lacks_is_listed_and_the_rest_compared(found: Comparison, adapters: Path) -> None:
    expected = {(a, b, name) for a in HAS for b in HAS for name in HAS[a] - HAS[b]}
    assert set(found.unshared.rows()) == expected
    assert found.unshared.height == len(expected)
    check_unshared(found.unshared, {run: adapters / run for run in HAS}, found.adapters)
    modules = found.pair_metrics.filter(pl.col("metric") == "cosine", pl.col("module") != "*")
    assert set(modules.select("run_a", "run_b", "module").rows()) == {
        (a, b, name) for a, b in combinations(sorted(HAS), 2) for name in HAS[a] & HAS[b]
    }


def test_every_pair_equals_the_dense_definition_on_merged_less_base(
    found: Comparison, truth: dict[str, dict[str, np.ndarray]]
) -> None:
    check_ranges(found.pair_metrics)
    compared: dict[str, int] = {}
    for a, b in combinations(sorted(HAS), 2):
        rows = found.pair_metrics.filter(run_a=a, run_b=b)
        for name in HAS[a] & HAS[b]:
            mine = {(m, k): v for m, k, v in rows.filter(module=name).select("metric", "k", "value").rows()}
            for key, value in dense_metrics(truth[a][name], truth[b][name], (1, 2, 3)).items():
                if key in mine:
                    tolerance = 0.02 if key[0].startswith("angle") else 2e-5  # degrees; PEFT merges in float32
                    assert mine[key] == pytest.approx(value, rel=1e-5, abs=tolerance), (a, b, name, key)
                    compared[key[0]] = compared.get(key[0], 0) + 1
    assert compared["cosine"] == len(list(combinations(HAS, 2))) * 2 + 1  # q of both layers; v_1 of full and lora
    assert min(compared.values()) >= 30


def test_whole_cosine_is_over_the_shared_modules(found: Comparison, truth: dict[str, dict[str, np.ndarray]]) -> None:
    whole = of_pairs(found.pair_metrics, "cosine")
    assert len(whole) == 15
    for (a, b), value in whole.items():
        shared = sorted(HAS[a] & HAS[b])
        x, y = (np.concatenate([truth[run][name].ravel() for name in shared]) for run in (a, b))
        assert value == pytest.approx(x @ y / np.linalg.norm(x) / np.linalg.norm(y), abs=1e-6), (a, b)


def test_spectra_with_what_the_base_adds(
    found: Comparison, truth: dict[str, dict[str, np.ndarray]], base: Path
) -> None:
    weights = Checkpoint(base)
    for run, updates in truth.items():
        rows = found.spectra.filter(run=run)
        assert set(rows["module"]) == {*HAS[run], "*"}
        for name, update in updates.items():
            mine = rows.filter(module=name)
            s = mine.filter(metric="singular_value").sort("k")["value"].to_numpy()
            expected = np.linalg.svd(update, compute_uv=False)
            np.testing.assert_allclose(s, expected[: len(s)], atol=1e-6)
            assert np.linalg.norm(expected[len(s) :]) < 1e-5  # nothing but float32's rounding is left out
            w = weights.read_weight(name, update.shape)
            before, after = (np.linalg.svd(matrix, compute_uv=False) for matrix in (w, w + update))
            shift = np.linalg.norm(after - before) / np.linalg.norm(before)
            assert mine.filter(metric="spectrum_shift")["value"].item() == pytest.approx(shift, rel=1e-4)
            measures = {"intruder_dimensions", "base_rotation_left", "base_rotation_right", "update_sparsity"}
            assert measures <= set(mine["metric"])
        norm = rows.filter(module="*", metric="norm")["value"].item()
        assert norm == pytest.approx(np.sqrt(sum(np.sum(update**2) for update in updates.values())), rel=1e-5)


def test_factored_and_merged_way_agree_on_plain_lora(adapters: Path, base: Path, tmp_path: Path) -> None:
    """The same adapter as a merged model: its update is then a difference, and must be what the factors give."""
    model = PeftModel.from_pretrained(Qwen3ForCausalLM.from_pretrained(base, dtype=torch.float64), adapters / "lora")
    model.double().merge_and_unload().save_pretrained(tmp_path / "whole")
    pair = compare(named([adapters / "lora", tmp_path / "whole"]), (1, 3), base, tmp_path).pair_metrics
    whole = {
        (m, k): v
        for m, k, v in pair.filter(*WHOLE).select("metric", "k", "value").rows()
    }  # fmt: skip
    assert whole["cosine", None] == pytest.approx(1, abs=1e-12)
    assert whole["norm_ratio", None] == pytest.approx(1, abs=1e-12)
    assert whole["orthogonal_fraction", None] < 1e-10
    assert max(whole[f"angle_{side}", k] for side in ("left", "right") for k in (1, 3)) < 1e-6


def test_frames_are_written_and_read_back(found: Comparison, tmp_path: Path) -> None:
    found.write(tmp_path)
    for name in FRAMES:
        assert pl.read_parquet(tmp_path / f"{name}.parquet").equals(getattr(found, name))
    assert json.loads((tmp_path / "notes.json").read_text()) == list(found.notes)
    assert {one.name for one in tmp_path.iterdir()} == {*(f"{name}.parquet" for name in FRAMES), "notes.json"}


def test_progress_counts_modules(adapters: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    compare(named([adapters / "lora", adapters / "rslora"]), (1,), None, tmp_path, lambda *state: seen.append(state))
    assert [(done, total) for done, total, _ in seen] == [(i, 6) for i in range(1, 7)]


# --- what a merged adapter's file tells of its initialisation --------------------------------------------------------


def test_a_shared_lora_a_is_seen_through_merging(base: Path, tmp_path: Path) -> None:
    folders = []
    for name, seed, settings in (
        ("seed1", 1, {}), ("seed1-dora", 1, {"use_dora": True}), ("seed1-saved", 1, {"modules_to_save": ["lm_head"]}),
        ("seed2-dora", 2, {"use_dora": True}), ("rank2-dora", 1, {"use_dora": True, "r": 2}),
    ):  # fmt: skip
        train(base, tmp_path / name, lora(**settings), seed=seed)
        folders.append(tmp_path / name)
    found = compare(named(folders), (1,), base, tmp_path / "scratch")
    stored = {
        one.name: {
            key.removeprefix("base_model.model.").removesuffix(".lora_A.weight"): tensor.double().numpy().ravel()
            for key, tensor in load_file(one / WEIGHTS).items() if "lora_A" in key
        } for one in folders
    }  # fmt: skip
    cosines = of_pairs(found.pair_metrics, "lora_a_cosine")
    assert len(cosines) == 10
    for (a, b), value in cosines.items():
        if "rank2-dora" in (a, b):
            assert value is None  # of two ranks: not to be told
            continue
        assert stored[a].keys() == stored[b].keys() == {Q0, Q1}
        x, y = (np.concatenate([stored[run][name] for name in (Q0, Q1)]) for run in (a, b))
        assert value == pytest.approx(x @ y / np.linalg.norm(x) / np.linalg.norm(y), abs=1e-12)
        assert (value > SHARED_START) == ("seed2-dora" not in (a, b)), (a, b)
    infos = [one.info for one in named(folders)]
    replicates = [RunInfo(info.run, "one", None, None, None) for info in infos]
    kinds = geometry_of(replicates, found.pair_metrics, replicates[0])
    assert (kinds.kind("seed1", "seed1-dora"), kinds.kind("seed1", "seed2-dora")) == (ORDER, INITIALISATION)
    assert kinds.kind("seed1", "rank2-dora") is None
    (said, *_) = warnings_of(infos, infos[0], found)
    assert said.startswith("Shared initialisation: seed1, seed1-dora and seed1-saved began from one lora_A (3 pairs")


# --- nothing says where the files lie -------------------------------------------------------------------------------


def test_a_moved_copy_gives_the_same_but_for_the_source(adapters: Path, base: Path, tmp_path: Path) -> None:
    def spoilt(folder: Path) -> Comparison:
        shutil.copytree(base, folder / "base")
        for name in ("lora", "dora", "full"):
            shutil.copytree(adapters / name, folder / name)
        tensors = load_file(folder / "lora" / WEIGHTS)
        tensors[f"base_model.model.{Q1}.lora_A.weight"][0, 0] = torch.nan
        save_file(tensors, folder / "lora" / WEIGHTS)
        chosen = named([folder / name for name in ("lora", "dora", "full")])
        return compare(chosen, (1,), folder / "base", tmp_path / "scratch")

    first, second = (spoilt(tmp_path / name) for name in ("here", "there"))
    for name in ("pair_metrics", "spectra", "unshared"):
        assert getattr(first, name).equals(getattr(second, name))
    assert first.adapters.drop("source").equals(second.adapters.drop("source"))
    assert first.notes == second.notes
    assert len(first.notes) == 1
    told = json.dumps([first.notes, first.adapters.drop("source").to_dicts(), first.unshared.to_dicts()])
    assert str(tmp_path) not in told
    assert first.adapters["base"].to_list() == [str(base), str(base), None]  # what their configurations name


# --- an update that is zero ------------------------------------------------------------------------------------------


def test_an_adapter_before_its_first_step_is_named_as_one(
    adapters: Path, copy: Callable[..., Path], tmp_path: Path
) -> None:
    fresh = copy("lora", "fresh", lambda key, tensor: torch.zeros_like(tensor) if "lora_B" in key else tensor)
    found = compare(named([fresh, adapters / "lora", adapters / "rslora"]), (1,), None, tmp_path / "scratch")
    infos = [one.info for one in named([fresh, adapters / "lora", adapters / "rslora"])]
    view = geometry_of(infos, found.pair_metrics, infos[1])
    assert view.zero == {"fresh"}
    assert (view.cosine("fresh", "fresh"), view.cosine("lora", "lora")) == (None, 1.0)
    for metric, k in (("cosine", None), ("u1_overlap", None), ("angle_left", 1), ("phi_left", 1)):
        assert view.value("fresh", "lora", metric, k) is None
        assert view.missing("fresh", "lora", metric, k) == view.missing("lora", "fresh", metric, k) == ZERO
    assert view.value("fresh", "lora", "norm_ratio") == 0.0  # this one is defined, and its inverse is not
    assert view.value("lora", "fresh", "norm_ratio") is None
    turned = compare(named([adapters / "lora", fresh]), (1,), None, tmp_path / "scratch")
    other_way = geometry_of(infos[:2], turned.pair_metrics, infos[1])
    assert other_way.value("fresh", "lora", "norm_ratio") == 0.0
    assert other_way.value("lora", "fresh", "norm_ratio") is None
    warnings = warnings_of(infos, infos[1], found)
    assert any(one.startswith("Zero update: fresh changes no weight that was compared") for one in warnings)


# --- damaged contents ----------------------------------------------------------------------------------------------


def test_a_module_with_nan_is_left_out_of_that_adapter_and_noted(
    adapters: Path, copy: Callable[..., Path], tmp_path: Path
) -> None:
    def spoil(key: str, tensor: torch.Tensor) -> torch.Tensor:
        if key == f"base_model.model.{Q0}.lora_B.weight":
            tensor[0, :2] = torch.tensor([torch.nan, torch.inf])
        return tensor

    folders = [copy("lora", "spoilt", spoil), adapters / "lora", adapters / "rslora"]
    result = compare(named(folders), (1,), None, tmp_path)
    assert result.notes == (
        f"spoilt: module {Q0}: 2 of 160 entries (1.25 %) of lora_B are NaN or infinite; the module is left out of this "
        "adapter's comparisons",
    )
    # It is there, damaged: what a side has not is another matter.
    assert not result.unshared.filter(module=Q0).height
    assert set(result.unshared.filter(other="spoilt")["module"]) == {K0, K1}
    assert Q0 not in result.spectra.filter(run="spoilt")["module"]
    values = {
        (a, b, name): value
        for a, b, name, value in result.pair_metrics.filter(metric="cosine").select("run_a", "run_b", "module", "value")
        .rows() if name != "*"
    }  # fmt: skip
    assert ("spoilt", "lora", Q0) not in values
    assert values["spoilt", "lora", Q1] == pytest.approx(1, abs=1e-12)
    assert ("lora", "rslora", Q0) in values


def test_nan_everywhere_is_refused(adapters: Path, copy: Callable[..., Path], tmp_path: Path) -> None:
    bad = copy("lora", "bad", lambda key, tensor: torch.full_like(tensor, torch.nan))
    with pytest.raises(InputError, match="NaN or infinite, and so in every other module: nothing to compare"):
        compare(named([adapters / "rslora", bad]), (1,), None, tmp_path)


def test_bfloat16_beside_float32(adapters: Path, copy: Callable[..., Path], tmp_path: Path) -> None:
    """Rounding to 8 bits moves each entry by at most 2^-9 of itself: a cosine of about 1 - 2^-18."""
    half = copy("lora", "half", lambda key, tensor: tensor.bfloat16())
    pair = compare(named([half, adapters / "lora"]), (1,), None, tmp_path).pair_metrics
    cosines = pair.filter(pl.col("metric") == "cosine", pl.col("module") != "*")["value"]
    assert cosines.len() == 4
    assert cosines.is_between(1 - 2e-5, 1 - 1e-7).all()


# --- refused before any work, in one line --------------------------------------------------------------------------


def test_fewer_than_two_or_one_name_twice(adapters: Path) -> None:
    assert "1 adapter given; a comparison takes two or more" in refusal([adapters / "lora"])
    assert "two adapters are called 'lora'; name one of them: NAME=ADAPTER" in refusal([adapters / "lora"] * 2)


@pytest.mark.parametrize("name", ["dora", "pissa", "full"])
def test_without_the_base_the_way_out_is_named(adapters: Path, name: str) -> None:
    assert "give --base MODEL" in refusal([adapters / "lora", adapters / name])


def test_no_module_in_common(base: Path, adapters: Path, tmp_path: Path) -> None:
    train(base, tmp_path / "mlp", lora(target_modules=["down_proj"]))
    said = refusal([adapters / "rslora", tmp_path / "mlp"])
    assert "no module in common" in said
    assert str(adapters / "rslora") in said
    assert str(tmp_path / "mlp") in said


def test_adapters_of_another_base(base: Path, adapters: Path, tmp_path: Path) -> None:
    other = tiny_base(tmp_path / "wide", hidden=48)
    for name in ("one", "two"):
        train(other, tmp_path / name, lora())
    said = refusal([adapters / "lora", tmp_path / "one"])
    assert f"module {Q0} is (40, 32) in {adapters / 'lora'} and (40, 48) in {tmp_path / 'one'}" in said
    # They fit each other, but not the base that is given.
    said = refusal([tmp_path / "one", tmp_path / "two"], base)
    assert f"module {Q0} is (40, 48) in {tmp_path / 'one'} and (40, 32) in {base}: give the base model" in said


def test_a_base_that_is_none(adapters: Path, tmp_path: Path) -> None:
    said = refusal([adapters / "lora", adapters / "dora"], tmp_path)
    assert f"{tmp_path / 'config.json'} is missing; give a model directory" in said


def test_a_shard_that_is_cut_short(base: Path, adapters: Path, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "base")
    shard = sorted((tmp_path / "base").glob("*.safetensors"))[0]
    shard.write_bytes(shard.read_bytes()[:-4])
    assert f"{shard}: not a readable safetensors file" in refusal(
        [adapters / "lora", adapters / "dora"], tmp_path / "base"
    )


def test_a_damaged_adapter_among_many(adapters: Path, copy: Callable[..., Path]) -> None:
    bad = copy("rslora", "bad")
    whole = (bad / WEIGHTS).read_bytes()
    for damaged in (whole[:4], whole[:100], whole[:-1], whole + b"\0", whole[:8] + b"[" + whole[9:]):
        (bad / WEIGHTS).write_bytes(damaged)
        assert f"{bad / WEIGHTS}: not a readable safetensors file" in refusal([adapters / "lora", bad])


def test_a_configuration_of_another_adapter(adapters: Path, copy: Callable[..., Path]) -> None:
    bad = copy("rslora", "bad")
    fields: dict[str, Any] = json.loads((bad / "adapter_config.json").read_text())
    (bad / "adapter_config.json").write_text(json.dumps({**fields, "r": 16}))
    assert "has rank 2, its adapter_config.json says 16" in refusal([adapters / "lora", bad])
