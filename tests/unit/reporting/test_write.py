from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from tasks.core.errors import InputError
from tasks.reporting.publish.write import write_report
from tasks.reporting.views.read import read_study
from tasks.reporting.views.study import SCHEMAS, Study
from tests.unit.reporting.conftest import made_anew

FRAMES = tuple(SCHEMAS)


def test_every_file_is_there_and_holds_the_frames(study: Study, tmp_path: Path) -> None:
    out = tmp_path / "new" / "study"
    began = time.process_time()
    paths = write_report(study, out)
    assert time.process_time() - began < 8  # seconds of processor time, with the charts' engine and their code
    assert sorted(paths) == sorted(path for path in out.rglob("*") if path.is_file())
    assert [path.name for path in paths[:3]] == ["report.html", "report.md", "study.json"]
    for name in FRAMES:
        assert_frame_equal(pl.read_parquet(out / f"{name}.parquet"), getattr(study, name))


def test_equal_tables_give_equal_bytes(tmp_path: Path) -> None:
    first, second = (write_report(made_anew(), tmp_path / name) for name in "ab")
    for a, b in zip(first, second, strict=True):
        assert a.read_bytes() == b.read_bytes(), a.name


def test_a_written_folder_reads_back(study: Study, tmp_path: Path) -> None:
    write_report(study, tmp_path)
    again = read_study(tmp_path)
    assert again.runs == study.runs
    for name in FRAMES:
        assert_frame_equal(getattr(again, name), getattr(study, name))
    (tmp_path / "barriers.parquet").unlink()
    with pytest.raises(InputError, match=r"not a finished study's folder: barriers\.parquet missing"):
        read_study(tmp_path)


def test_numbers_of_what_was_not_measured_are_null(study: Study, tmp_path: Path) -> None:
    unmeasured = {name: getattr(study, name).clear() for name in ("barriers", "cka", "lens", "divergence")}
    write_report(replace(study, **unmeasured), tmp_path)
    numbers = json.loads((tmp_path / "study.json").read_text())["numbers"]
    assert [numbers[key] for key in ("barriers", "cka", "lens_depth", "kl_base_run", "kl_run_base")] == [None] * 5


def test_study_json_is_plain_json(study: Study, tmp_path: Path) -> None:
    odd = replace(study, record={**study.record, "wall_seconds": float("nan"), "where": Path("x")})
    write_report(odd, tmp_path)
    record = json.loads((tmp_path / "study.json").read_text())
    assert record["wall_seconds"] is None
    assert record["where"] == "x"
    assert record["settings"] == {
        "train": {"lr": 1e-3, "steps": 80},
        "lora": {"targets": ["q_proj", "k_proj"]},
        "out": None,
    }
    floor = record["noise_floor"]
    assert (floor["cosine"], floor["pairs"]) == (0.975, [["sft", "sft-order1"]])
    assert floor["order"]["pairs"] == [["sft", "sft-order1"]]
    (cosine,) = (row for row in floor["order"]["measures"] if row["metric"] == "cosine")
    assert cosine == {"metric": "cosine", "k": None, "n": 1, "lowest": 0.975, "mean": 0.975, "highest": 0.975}
    assert floor["initialisation"] is None
    assert [run["run"] for run in record["runs"]][:2] == ["base", "sft"]
    assert len(record["headline"]) == 11  # one is the logit lens
    assert record["headline"][-1].startswith("Of ")  # the count of the paper's claims
    numbers = record["numbers"]
    # The highest path: 4 h a (1 - a) at a = 1/2 is h = .2 (1 + .021), against .2 (1 - .975) for the replicates.
    boxed = numbers["barriers"]["boxed"]
    assert (boxed["run"], boxed["other"], boxed["matched"]) == ("sft", "dpo", False)
    assert boxed["barrier"]["value"] == pytest.approx(0.2042, abs=1e-12)
    assert boxed["floor"]["highest"] == pytest.approx(0.005, abs=1e-12)
    # 1 - 4 / 20 * (1 + .021)
    assert numbers["cka"]["lowest"] == {"run": "sft", "other": "dpo", "value": pytest.approx(0.7958), "layer": 4}
    assert numbers["lens_depth"]["sft"] == 2.125
    assert numbers["accuracy"]["heldout"]["base"]["against_base"] is None
    against = numbers["accuracy"]["heldout"]["sft"]["against_base"]
    assert (against["verdict"], against["family"], against["repeats"]) == ("differs", "base", 1)
    # The frame has the base first: the difference and its intervals are turned round.
    row = study.mcnemar.filter(benchmark="heldout", run_a="base", run_b="sft").row(0, named=True)
    assert [against[name] for name in ("low", "high", "method_low", "method_high")] == [
        -row[name] for name in ("high", "low", "method_high", "method_low")
    ]


def test_a_failure_leaves_the_old_file_and_no_other(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "report.html"
    page.write_text("old")

    def full(source: Path, target: Path) -> None:
        if Path(target) == page:
            raise OSError("disk full")
        os.rename(source, target)

    monkeypatch.setattr("tasks.reporting.files.os.replace", full)
    with pytest.raises(OSError, match="disk full"):
        write_report(study, tmp_path)
    assert page.read_text() == "old"
    assert not list(tmp_path.glob(".*"))


def test_bad_frames_are_refused_before_anything_is_written(study: Study, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="accuracy: missing columns"):
        write_report(replace(study, accuracy=study.accuracy.drop("low")), tmp_path / "out")
    assert not (tmp_path / "out").exists()
