"""``colinear accuracy`` and ``colinear inspect`` through the command line, on files as people have them."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from flows.cli.main import main
from tests.unit.evaluation.test_logs import harness, lines
from tests.unit.geometry.test_inspection import NAMES, tensors, write, zero_b


@pytest.fixture
def logs(tmp_path: Path) -> list[str]:
    """Two models on 100 documents by two filters each: 10 right only in the first, 2 only in the second."""
    rights = {"a": [1.0] * 60 + [0.0] * 40, "b": [1.0] * 50 + [0.0] * 10 + [1.0] * 2 + [0.0] * 38}
    return [
        lines(
            tmp_path / name / "samples_gsm8k_1.jsonl",
            [harness(i, value, of) for of in ("strict-match", "flexible-extract") for i, value in enumerate(values)],
        )
        for name, values in rights.items()
    ]


def test_accuracy_prints_a_table_or_json_and_writes_both(
    logs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    assert main(["accuracy", *logs, "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    for expected in ("a ~ b", "10 / 2", "+8.0 [", "differs", "read by the filter strict-match", "60.0", "52.0"):
        assert expected in said
    assert said.startswith("a is right more often than b (by 8.0 points).")
    written = {str(file.relative_to(tmp_path / "out")) for file in (tmp_path / "out").rglob("*") if file.is_file()}
    assert written == {
        "report.html", "report.md", "accuracy.json", "models.csv", "models.parquet", "pairs.csv", "pairs.parquet",
        "figures/accuracy.svg", "figures/accuracy.png",
    }  # fmt: skip
    assert "a is right more often than b" in (tmp_path / "out" / "report.html").read_text()
    assert pl.read_csv(tmp_path / "out" / "pairs.csv")["only_a"].to_list() == [10]
    assert main(["accuracy", *logs, "--out", str(tmp_path / "out")]) == 0  # its own page is written anew
    capsys.readouterr()
    assert main(["accuracy", *logs, "--json", "--margin", "20"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads((tmp_path / "out" / "accuracy.json").read_text()) | {
        "margin": 20.0, "pairs": [found["pairs"][0]],
    }  # fmt: skip
    pair = found["pairs"][0]
    assert {name: pair[name] for name in ("a", "b", "n", "only_a", "only_b", "difference")} == {
        "a": "a", "b": "b", "n": 100, "only_a": 10, "only_b": 2, "difference": 8.0,
    }  # fmt: skip
    assert pair["p"] == pytest.approx(2 * (1 + 12 + 66) / 2**12)
    assert pair["verdict"] == "differs, by less than 20 points"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["accuracy"], "0 model: give the logs of at least two"),
        (["accuracy", "{a}"], "1 model: give the logs of at least two"),
        (["accuracy", "{a}", "{b}", "--margin", "0"], "--margin 0: points of accuracy"),
        (["accuracy", "{a}", "{b}", "--id", "doc_id"], "--id needs --correct beside it"),
        (["accuracy", "nope.jsonl", "{b}"], "nope.jsonl: no such log"),
        (["accuracy", "{a}", "{b}", "--margin", "100"], "--margin 100: points of accuracy"),
        (["accuracy", "{a}", "{b}", "--margin", "nan"], "--margin nan: points of accuracy"),
        (["accuracy", "{a}", "{other}"], "common ids are other problems"),
        (["accuracy", "{a}", "{far}"], "a and far have no problem in common (ids such as 0, 1000)"),
        (["accuracy", "{a}", "{b}", "--out", "{a}"], "is a file; give a folder"),
        (["inspect", "empty"], "neither adapter_config.json"),
        (["inspect"], "no adapter: give a folder that PEFT saved"),
        (["inspect", "."], "neither adapter_config.json"),
        (["inspect", ".", "--fail-on", "bad"], "--fail-on bad: one of error, warning, info"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    logs: list[str], tmp_path: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLINEAR_HOME", str(tmp_path / "home"))
    (tmp_path / "empty").mkdir()
    rows = [harness(i, 1.0) | {"doc": {"question": f"of another benchmark {i}"}} for i in range(100)]
    other = lines(tmp_path / "other" / "samples_arc_1.jsonl", rows)
    far = lines(tmp_path / "far" / "samples_gsm8k_1.jsonl", [harness(1000 + i, 1.0) for i in range(100)])
    assert main([word.format(a=logs[0], b=logs[1], other=other, far=far) for word in words]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


def test_inspect_says_what_it_found_and_its_exit_code_follows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLINEAR_HOME", str(tmp_path / "home"))
    good, bad = write(tmp_path / "good"), write(tmp_path / "bad", zero_b(tensors(), NAMES))
    assert main(["inspect", str(good), str(bad)]) == 0
    said = capsys.readouterr().out
    assert "ok nothing was found" in said
    assert "error zero-update: every lora_B is zero" in said
    assert main(["inspect", str(good), "--fail-on", "info"]) == 0
    capsys.readouterr()
    assert main(["inspect", str(good), str(bad), "--json", "--fail-on", "error"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [(one["adapter"], [finding["code"] for finding in one["findings"]]) for one in found] == [
        ("good", []), ("bad", ["zero-update"]),
    ]  # fmt: skip
