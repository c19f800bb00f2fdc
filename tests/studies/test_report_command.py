"""``colinear report`` through the command line: folders and MLflow runs of studies, adapters compared across them."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from flows.cli.main import main
from tasks.storage.store import STUDIES, StageKey, Store
from tests.lab.adapters import adapter, dense
from tests.lab.homes import furnished
from tests.lab.living import Done, colinear
from tests.lab.many_studies import made, runs_of, write

NORMS = (
    {"sft": 2.0, "rft": 2.2, "dpo": 0.2, "sft-order1": 2.1},
    {"sft": 2.4, "rft": 2.6, "dpo": 0.3, "sft-order2": 2.5},
)


@dataclass(frozen=True)
class Lab:
    """Two studies of two seeds whose SFT adapters are in the project's store, and a third whose are elsewhere."""

    folder: Path
    adapters: tuple[Path, Path]
    parent: str
    """MLflow's run of the first study."""
    child: str
    unfinished: str

    def report(self, *words: str, home: str = "home") -> Done:
        """``colinear report WORDS`` in the lab's folder, as a process of its own."""
        return colinear("report", *words, home=self.folder / home, cwd=self.folder)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    folder = tmp_path_factory.mktemp("many")
    adapters = (adapter(folder / "adapter0", 0), adapter(folder / "adapter1", 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLINEAR_HOME", str(furnished(folder / "home")))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        store = Store()
        trained = [_trained(store, seed, path) for seed, path in enumerate(adapters)]
        parent = store.open_run("zero seed=0", experiment=STUDIES, tags={"kind": "study"})
        first, second = (
            made(
                name, runs_of(seed), norms=NORMS[seed], settings={"seed": seed},
                mlflow={"uri": store.uri, "study": study, f"train sft seed={seed} lr=1e-3": trained[seed]},
            )
            for name, seed, study in (("zero", 0, parent), ("one", 1, "another"))
        )  # fmt: skip
        write(folder / "zero", first)
        write(folder / "one", second)
        store.log_files(parent, sorted((folder / "zero").iterdir()))
        store.end_run(parent)
        unfinished = store.open_run("half", experiment=STUDIES, tags={"kind": "study"})
        store.end_run(unfinished, "FAILED")
    return Lab(folder, adapters, parent, trained[0], unfinished)


def _trained(store: Store, seed: int, path: Path) -> str:
    """The MLflow run of a trained method as a study records it."""
    key = StageKey("train", 1, {}, {"seed": seed})
    run = store.open_run("train sft", key=key, experiment=STUDIES, tags={"kind": "method"})
    with store.locked(key):
        store.produce(key, run, lambda out: {"copied": bool(shutil.copytree(path, out / "adapter"))})
    return run


@pytest.fixture(scope="module")
def done(lab: Lab) -> Done:
    return lab.report(f"runs:/{lab.parent}", "one/study.json", "--out", "page")


def test_a_page_of_an_mlflow_run_and_a_folder(lab: Lab, done: Done) -> None:
    assert done.returncode == 0, done.stderr
    assert "2 studies on 1 base, 8 distinct trainings of 3 methods" in done.stdout
    assert done.stdout.splitlines()[-1] == "report: page/report.html"
    page = (lab.folder / "page" / "report.html").read_text()
    assert "2 studies: zero and one" in page
    record = json.loads((lab.folder / "page" / "many.json").read_text())
    assert [study["label"] for study in record["studies"]] == ["zero", "one"]


def test_adapters_of_two_studies_are_compared_as_their_dense_updates(lab: Lab, done: Done) -> None:
    assert done.returncode == 0, done.stderr
    across = pl.read_parquet(lab.folder / "page" / "across.parquet").filter(pl.col("within").is_null())
    row = across.row(0, named=True)
    x, y = (dense(path) for path in lab.adapters)
    assert across.height == 1  # RFT and DPO have no adapter at hand
    assert (row["a"], row["b"], row["differs"]) == ("zero: sft", "one: sft", "data order and initialisation")
    assert row["cosine"] == pytest.approx(x @ y / np.linalg.norm(x) / np.linalg.norm(y), abs=1e-9)
    assert row["norm_ratio"] == pytest.approx(np.linalg.norm(y) / np.linalg.norm(x), rel=1e-9)


def test_adapters_that_are_not_in_this_store_are_said_and_no_store_is_made(lab: Lab) -> None:
    found = lab.report("zero", "one", "--out", "elsewhere", home="fresh")
    assert found.returncode == 0, found.stderr
    text = (lab.folder / "elsewhere" / "report.md").read_text()
    assert "Adapters of one, zero are not in this project's MLflow store" in text
    assert not (lab.folder / "fresh" / "mlflow.db").exists()


def test_no_across_is_said(lab: Lab) -> None:
    found = lab.report("zero", "one", "--no-across", "--out", "alone")
    assert found.returncode == 0, found.stderr
    assert "--no-across" in (lab.folder / "alone" / "report.md").read_text()
    assert pl.read_parquet(lab.folder / "alone" / "across.parquet")["within"].null_count() == 0


def test_bad_input_is_one_line_and_code_2(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(lab.folder)
    monkeypatch.setenv("COLINEAR_HOME", str(lab.folder / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (lab.folder / "empty").mkdir()
    for words, says in (
        (("zero",), "takes two or more"),
        (("zero", "zero/study.json"), "zero/study.json: the same study as zero"),
        (("zero", "empty"), "empty: not a finished study's folder: study.json"),
        (("zero", "nowhere"), "nowhere: no such folder"),
        (("zero", f"runs:/{lab.parent}"), "the same MLflow run as zero"),
        (("zero", f"runs:/{lab.unfinished}"), "the study is FAILED, not FINISHED"),
        (("one", f"runs:/{lab.child}"), "a run of kind method, not a study's parent run"),
        (("zero", "runs:/" + "0" * 32), "MLflow run " + "0" * 32),
        (("zero", f"runs:/{lab.parent}/report.html"), "expected runs:/ID of a study's parent run, without a path"),
        (("zero", "one", "--out", "zero/study.json"), "--out: zero/study.json is a file"),
    ):
        assert main(["report", *words]) == 2, words
        told = capsys.readouterr().err
        assert says in told
        assert told.startswith("colinear: ")
        assert told.count("\n") == 1
