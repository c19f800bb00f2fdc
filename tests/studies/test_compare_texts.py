"""``colinear compare --base MODEL --texts FILE``: the cosine weighted by the inputs of the base, by its definition."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from tasks.geometry.adapters.adapter import AdapterSource
from tasks.models.load import load_model
from tests.definitions.geometry import activation_cosine
from tests.lab.adapters import Done, compare
from tests.lab.frames import WHOLE
from tests.lab.updates import dense
from tests.unit.geometry.test_functions import write_adapter, write_base

TEXTS = (" the sum of 1 and 2 is 3", " so 4", " 5 and 6 and 7 is the sum of 8 of 9 so the")
NOTE = "Activation-weighted cosine: inputs of 9 modules under the base on 3 texts, "


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    base = write_base(folder / "base")
    for seed, name in enumerate(("sft", "dpo")):
        write_adapter(base, folder / name, seed)
    (folder / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return folder


def run(folder: Path, out: str, *words: str) -> Done:
    return compare("sft", "dpo", "--out", out, *words, folder=folder, home=folder / "home")


def weighted(folder: Path, out: str) -> pl.DataFrame:
    return pl.read_parquet(folder / out / "pair_metrics.parquet").filter(metric="activation_cosine")


def test_plain_and_as_a_flow_it_is_the_cosine_of_the_outputs(folder: Path) -> None:
    words = ("--base", "base", "--texts", "texts.jsonl")
    for out, more in (("plain", ("--plain",)), ("flow", ())):
        done = run(folder, out, *words, *more)
        assert done.returncode == 0, done.stderr
        assert NOTE in (folder / out / "report.md").read_text(encoding="utf-8")
        assert "Cosine, weighted by activations" in (folder / out / "report.html").read_text(encoding="utf-8")
    assert weighted(folder, "plain").equals(weighted(folder, "flow"))
    (found,) = weighted(folder, "flow").filter(*WHOLE)["value"]
    assert found == pytest.approx(expected(folder), abs=1e-6)
    again = run(folder, "again", *words)
    assert "found in the cache" in again.stdout


def expected(folder: Path) -> float:
    sources = [AdapterSource(folder / name) for name in ("sft", "dpo")]
    model = load_model(folder / "base", "float32").double()
    kept: dict[str, list[np.ndarray]] = {name: [] for name in sources[0].shapes}
    for name, own in kept.items():
        model.get_submodule(name).register_forward_pre_hook(lambda _, x, own=own: own.append(x[0][0].numpy()))
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(folder / "base"))
    with torch.inference_mode():
        for text in TEXTS:
            model(input_ids=torch.tensor([tokenizer(text)["input_ids"]]))
    formed = [{name: dense(source.read(name)) for name in source.shapes} for source in sources]
    return activation_cosine(*formed, {name: np.concatenate(rows) for name, rows in kept.items()})


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--texts", "texts.jsonl"), "colinear: --texts: they are read by the base, whose inputs weight the cosine;"),
        (("--base", "base", "--texts", "nowhere.jsonl"), "colinear: nowhere.jsonl: no such file;"),
    ],
)
def test_texts_that_cannot_be_read_are_refused_in_one_line(folder: Path, words: tuple[str, ...], said: str) -> None:
    done = run(folder, "refused", *words)
    assert done.stderr.startswith(said), done.stderr
    assert (done.stderr.count("\n"), done.returncode) == (1, 2)
    assert not (folder / "refused").exists()
