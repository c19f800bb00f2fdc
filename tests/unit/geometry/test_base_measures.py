"""The study's base measures are those of a comparison with the base at hand, whoever is measured beside whom."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
import torch

from tasks.core.errors import InputError
from tasks.core.frames import SPECTRA
from tasks.core.results import RunInfo
from tasks.geometry.base.measures import measure_base
from tasks.geometry.base.metrics import BASE_METRICS
from tasks.geometry.compare import Named, compare
from tests.lab.foreign_adapters import tiny_base, train

KS = (1, 3)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    """A base and two adapters of it, one of which lacks half the modules."""
    root = tmp_path_factory.mktemp("made")
    base = tiny_base(root / "base")
    batches = [torch.randint(0, 24, (2, 8), generator=torch.Generator().manual_seed(step)) for step in range(2)]
    train(base, root / "a", batches, seed=0)
    train(base, root / "b", batches, seed=1, layers_to_transform=[1])
    return base, [root / "a", root / "b"]


def infos() -> list[RunInfo]:
    return [RunInfo(name, name, 0, 0, 1e-3) for name in "ab"]


def test_they_equal_those_of_a_comparison(made: tuple[Path, list[Path]], tmp_path: Path) -> None:
    base, folders = made
    counted: list[tuple[int, int]] = []
    summary = measure_base(
        base=base, adapters=folders, infos=infos(), ks=KS, out=tmp_path,
        progress=lambda done, total, _: counted.append((done, total)),
    )  # fmt: skip
    named = [Named(info, folder, str(folder)) for info, folder in zip(infos(), folders, strict=True)]
    expected = compare(named, KS, base).spectra.filter(pl.col("metric").is_in(list(BASE_METRICS)))
    found = pl.concat([pl.read_parquet(tmp_path / f"{i}.parquet") for i in range(2)])
    assert dict(found.schema) == SPECTRA
    keys = ["run", "module", "metric", "k"]
    joined = found.join(expected, on=keys, nulls_equal=True)
    assert joined.height == found.height == expected.height
    assert (joined["value"] - joined["value_right"]).abs().max() == 0
    assert set(found["metric"]) == set(BASE_METRICS)
    assert summary["modules"] == found.filter(pl.col("module") != "*")["module"].n_unique()
    assert counted[-1] == (summary["modules"], summary["modules"])


def test_one_alone_gives_the_same_numbers(made: tuple[Path, list[Path]], tmp_path: Path) -> None:
    base, folders = made
    for name in ("both", "one"):
        (tmp_path / name).mkdir()
    measure_base(base=base, adapters=folders, infos=infos(), ks=KS, out=tmp_path / "both")
    measure_base(base=base, adapters=folders[1:], infos=infos()[1:], ks=KS, out=tmp_path / "one")
    assert pl.read_parquet(tmp_path / "one" / "0.parquet").equals(pl.read_parquet(tmp_path / "both" / "1.parquet"))


def test_an_adapter_of_another_base_is_refused(made: tuple[Path, list[Path]], tmp_path: Path) -> None:
    other = tiny_base(tmp_path / "other", hidden=24)
    with pytest.raises(InputError, match="base model that the adapter was trained on"):
        measure_base(base=other, adapters=made[1], infos=infos(), ks=KS, out=tmp_path)
