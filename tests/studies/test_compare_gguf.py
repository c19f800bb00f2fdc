"""``colinear compare --base FILE.gguf``: the numbers of the dequantised directory, with a store and without."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import save_file

from tasks.models.dequantise import dequantise
from tasks.models.external import file_sha256
from tests.lab.adapters import Done, compare
from tests.lab.gguf_maker import HEADS, HIDDEN, KV_HEADS, LAYERS, write_gguf

FRAMES = ("pair_metrics", "spectra", "adapters")
NOTE = "The base was quantised: base.gguf is Q4_0 (F32 42%, F16 37%, Q8_0 16%, Q4_0 5%), dequantised to bfloat16."


def lora(folder: Path, seed: int) -> None:
    """A PEFT directory of rank 4 on q and v of the model that `write_gguf` writes."""
    folder.mkdir()
    rng = np.random.default_rng(seed)
    tensors = {}
    for layer in range(LAYERS):
        for name, out in (("q_proj", 16 * HEADS), ("v_proj", 16 * KV_HEADS)):
            key = f"base_model.model.model.layers.{layer}.self_attn.{name}.lora_"
            tensors[f"{key}A.weight"] = rng.standard_normal((4, HIDDEN)).astype(np.float32)
            tensors[f"{key}B.weight"] = rng.standard_normal((out, 4)).astype(np.float32) / 100
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "base_model_name_or_path": "owner/base"}
    (folder / "adapter_config.json").write_text(json.dumps(config))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compare")
    for seed, name in enumerate(("sft", "dpo")):
        lora(folder / name, seed)
    write_gguf(folder / "base.gguf")
    (folder / "directory").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLINEAR_HOME", str(folder / "home"))
        dequantise(file=folder / "base.gguf", sha256=file_sha256(folder / "base.gguf"), out=folder / "directory")
    return folder


def run(folder: Path, base: str, out: str, *words: str) -> Done:
    done = compare("sft", "dpo", "--base", base, "--out", out, *words, folder=folder, home=folder / "home")
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def frames(folder: Path) -> list[pl.DataFrame]:
    found = [pl.read_parquet(folder / f"{name}.parquet") for name in FRAMES]
    return [*found[:2], found[2].drop("base", strict=False)]


@pytest.fixture(scope="module")
def expected(folder: Path) -> list[pl.DataFrame]:
    run(folder, "directory", "expected", "--plain")
    assert "quantised" not in (folder / "expected" / "report.md").read_text()
    return frames(folder / "expected")


def test_without_a_store(folder: Path, expected: list[pl.DataFrame]) -> None:
    run(folder, "base.gguf", "plain", "--plain")
    assert all(a.equals(b) for a, b in zip(frames(folder / "plain"), expected, strict=True))
    assert {"intruder_dimensions", "base_rotation_left"} <= set(expected[1]["metric"])  # measured against its weights
    assert NOTE in " ".join((folder / "plain" / "report.md").read_text().split())
    assert not list((folder / "home").rglob("model.safetensors"))  # gone with the process


def test_with_one_it_is_an_artifact_that_the_next_comparison_finds(folder: Path, expected: list[pl.DataFrame]) -> None:
    said = run(folder, "base.gguf", "stored").stdout
    assert "dequantise base.gguf" in said
    assert all(a.equals(b) for a, b in zip(frames(folder / "stored"), expected, strict=True))
    assert NOTE in " ".join((folder / "stored" / "report.md").read_text().split())
    (made,) = (folder / "home").rglob("model.safetensors")
    (folder / "base.gguf").rename(folder / "moved.gguf")
    again = run(folder, "moved.gguf", "again").stdout
    (folder / "moved.gguf").rename(folder / "base.gguf")
    assert "dequantise" not in again
    assert "found in the cache" in again
    assert list((folder / "home").rglob("model.safetensors")) == [made]


def test_what_is_no_gguf_is_refused_in_one_line(folder: Path) -> None:
    (folder / "zip.gguf").write_bytes(b"PK\x03\x04")
    done = compare("sft", "dpo", "--base", "zip.gguf", folder=folder, home=folder / "home")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith(
        f"colinear: --base: {folder / 'zip.gguf'} is no GGUF file (it does not begin with GGUF)"
    )
