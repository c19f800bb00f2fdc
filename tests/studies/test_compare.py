"""``colinear compare`` through the command line, on small adapters: plain, as a flow, and of MLflow's runs."""

from __future__ import annotations

import shutil
import sqlite3
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from flows.comparison import Request, write
from tasks.core.errors import InputError
from tasks.core.results import RunInfo
from tasks.geometry.adapters.opened import FACTORED, MERGED
from tasks.geometry.compare import Named
from tasks.geometry.compare import compare as measure
from tasks.geometry.delta import load_delta
from tasks.storage.recorded import fetch, recall
from tasks.storage.store import STUDIES, StageKey, Store
from tests.lab.adapters import RANK, Done, adapter, compare, dense
from tests.lab.frames import of_pairs
from tests.lab.homes import furnished
from tests.lab.updates import dense as formed
from tests.lab.world import write_base
from tests.unit.geometry.test_paths import write_adapter

FRAMES = ("pair_metrics", "spectra", "adapters", "unshared")
STUDY_TAGS = {"kind": "method", "run": "rft", "method": "rft", "seed": "3", "data_seed": "4", "lr": "0.001"}


@dataclass(frozen=True)
class Lab:
    """A state folder with an MLflow store, adapters beside it, and the runs that hold two of them."""

    folder: Path
    study_run: str
    """As one of our studies records a trained method."""
    hit_run: str
    """Its child run in another study, which found it in the cache."""
    foreign_run: str
    """Somebody's own, with ``adapter/`` in it."""
    empty_run: str

    @property
    def home(self) -> Path:
        return self.folder / "home"

    def run(self, *words: str, home: Path | None = None, program: tuple[str, ...] = ("-m", "flows.cli")) -> Done:
        """``colinear compare WORDS`` in the adapters' folder."""
        return compare(*words, folder=self.folder, home=home or self.home, program=program)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    folder = tmp_path_factory.mktemp("compare")
    for seed, name in enumerate(("sft/adapter", "sft-again/adapter", "dpo/adapter", "rft", "theirs")):
        adapter(folder / name, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLINEAR_HOME", str(furnished(folder / "home")))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        store = Store()
        key = StageKey("train", 1, {}, {})
        study_run = store.open_run("train rft", key=key, experiment=STUDIES, tags=STUDY_TAGS, params={"lr": 1e-3})
        with store.locked(key):
            store.produce(
                key, study_run, lambda out: {"copied": bool(shutil.copytree(folder / "rft", out / "adapter"))}
            )
        tags = {**STUDY_TAGS, "cache.source_run": study_run}
        runs = [
            store.open_run("train rft", experiment=STUDIES, tags=tags, params={"lr": 1e-3}),
            store.open_run("theirs"),
            store.open_run("empty"),
        ]
        store.client.log_artifacts(runs[1], str(folder / "theirs"), "adapter")
        for run in runs:
            store.end_run(run)
    return Lab(folder, study_run, *runs)


def cosines(folder: Path) -> dict[tuple[str, str], float | None]:
    return of_pairs(pl.read_parquet(folder / "pair_metrics.parquet"), "cosine")


def check_cosines(report: Path, adapters: dict[str, Path]) -> None:
    """Every pair's cosine is the one of the dense updates."""
    measured = cosines(report)
    assert list(measured) == list(combinations(adapters, 2))
    for (a, b), value in measured.items():
        x, y = dense(adapters[a]), dense(adapters[b])
        assert value == pytest.approx(x @ y / np.linalg.norm(x) / np.linalg.norm(y), abs=1e-9)


# --- plain ------------------------------------------------------------------------------------------------------------

LOADED = (
    "import sys; from flows.cli.main import main; code = main(sys.argv[1:]); "
    "print('loaded', *sorted({'prefect', 'mlflow', 'torch', 'transformers'} & sys.modules.keys())); sys.exit(code)"
)


@pytest.fixture(scope="module")
def plain(lab: Lab) -> Done:
    words = ("sft/adapter", "sft-again/adapter", "dpo/adapter", "--replicate", "sft=sft-again", "--plain", "--k", "1,2")
    return lab.run(*words, "--out", "plain", home=lab.folder / "other", program=("-c", LOADED))


def test_plain_writes_the_report_and_loads_neither_prefect_nor_mlflow(lab: Lab, plain: Done) -> None:
    assert plain.returncode == 0, plain.stderr
    assert plain.stdout.splitlines()[-1] == "loaded"
    assert "report: plain/report.html" in plain.stdout
    assert "done    compare sft sft-again dpo" in plain.stdout
    expected = {"report.html", *(f"{name}.parquet" for name in FRAMES)}
    assert expected <= {path.name for path in (lab.folder / "plain").iterdir()}
    assert not list((lab.folder / "other").rglob("*.db"))


def test_plain_measures_what_the_dense_updates_say(lab: Lab, plain: Done) -> None:
    folder = lab.folder / "plain"
    check_cosines(folder, {name: lab.folder / name / "adapter" for name in ("sft", "sft-again", "dpo")})
    metrics = pl.read_parquet(folder / "pair_metrics.parquet")
    assert {1, 2} <= set(metrics["k"].drop_nulls()) <= {1, 2, RANK}  # the full rank is always measured
    assert pl.read_parquet(folder / "adapters.parquet")["source"].to_list() == [
        "sft/adapter", "sft-again/adapter", "dpo/adapter",
    ]  # fmt: skip


def test_a_twin_has_the_method_of_the_other(lab: Lab, plain: Done) -> None:
    table = pl.read_parquet(lab.folder / "plain" / "spectra.parquet").select("run", "method").unique().sort("run")
    assert table.rows() == [("dpo", "dpo"), ("sft", "sft"), ("sft-again", "sft")]


def test_the_report_names_the_base_that_was_given_for_what_names_none(lab: Lab, tmp_path: Path) -> None:
    """The frames, which may come from the cache, hold no path."""
    folders = [lab.folder / name for name in ("sft/adapter", "dpo/adapter", "rft")]
    adapters = [Named(RunInfo(str(i), str(i), None, None, None), one, f"given-{i}") for i, one in enumerate(folders)]
    found = found_frames(adapters, tmp_path)
    merged = found["adapters"].with_columns(
        source=pl.lit(None, pl.String()),
        update=pl.Series([FACTORED, MERGED, MERGED]),
        base=pl.Series([None, None, "owner/base"], dtype=pl.String()),
    )
    asked = Request(tuple(adapters), Path("models/mine"), "0", (1,), tmp_path / "report")
    write(asked, {**found, "adapters": merged}, [])
    table = pl.read_parquet(tmp_path / "report" / "adapters.parquet")
    assert table["base"].to_list() == [None, "models/mine", "owner/base"]
    assert table["source"].to_list() == ["given-0", "given-1", "given-2"]


def found_frames(adapters: list[Named], scratch: Path) -> dict[str, pl.DataFrame]:
    found = measure(adapters, (1,), None, scratch)
    return {name: getattr(found, name) for name in FRAMES}


def test_the_checkpoints_of_a_training_are_a_path(tmp_path: Path) -> None:
    folders = [adapter(tmp_path / "run" / f"checkpoint-{step}", seed) for step, seed in ((100, 2), (20, 1))]
    done = compare("run", "--out", "path", folder=tmp_path, home=tmp_path / "home")
    assert done.returncode == 0, done.stderr
    rows = pl.read_csv(tmp_path / "path" / "trajectory.csv")
    assert rows["step"].to_list() == [20, 100]
    last, first = map(dense, folders)
    sizes = np.linalg.norm(first), np.linalg.norm(last)
    assert rows["norm"].to_list() == pytest.approx(sizes, rel=1e-12)
    assert rows["cosine_to_last"][0] == pytest.approx(first @ last / sizes[0] / sizes[1], abs=1e-12)
    for name in ("report.html", "report.md", "trajectory.json", "figures/trajectory.svg"):
        assert (tmp_path / "path" / name).stat().st_size > 500, name
    again = compare("run", "--out", "path", folder=tmp_path, home=tmp_path / "home")
    assert again.returncode == 0, again.stderr  # its own page is written over


def test_before_a_merge_the_plain_command_says_what_it_would_do(tmp_path: Path) -> None:
    """With texts: on a real model's files, in a process of the worker's own."""
    base = write_base(tmp_path / "base")
    for seed, name in enumerate(("sft", "dpo"), start=1):
        write_adapter(base, tmp_path / name, seed)
    (tmp_path / "dev.jsonl").write_text('{"text": "the sum of 3 and 4 is 7"}\n{"text": "and so the sum is 5"}\n')
    words = ("sft", "dpo", "--merge", "--base", "base", "--texts", "dev.jsonl", "--plain", "--out", "out")
    done = compare(*words, folder=tmp_path, home=tmp_path / "home")
    assert done.returncode == 0, done.stderr
    x, y = (load_delta(tmp_path / name) for name in ("sft", "dpo"))
    total = np.sqrt(sum(np.sum((formed(x.modules[name]) + formed(y.modules[name])) ** 2) for name in x.modules))
    whole = pl.read_parquet(tmp_path / "out" / "merges.parquet").row(0, named=True)
    assert (whole["run_a"], whole["run_b"], whole["kind"]) == ("sft", "dpo", "*")
    assert whole["norm_sum"] == pytest.approx(total, rel=1e-9)
    assert pl.read_parquet(tmp_path / "out" / "merge_losses.parquet")["n"].to_list() == [2]
    said = done.stdout.split("Before a merge:")[1]
    assert "loss, nats/token on 2 texts: base " in said
    assert 'model.add_weighted_adapter(["sft", "dpo"], [0.5, 0.5], "mean", combination_type="cat")' in said
    assert "- sft ~ dpo: unrelated (" in done.stdout.split("Looks like:")[1]


# --- the flow ---------------------------------------------------------------------------------------------------------


def asked(lab: Lab) -> list[str]:
    return ["sft/adapter", lab.study_run, f"mine=runs:/{lab.foreign_run}", "--reference", "mine"]


@pytest.fixture(scope="module")
def flow(lab: Lab) -> Done:
    done = lab.run(*asked(lab), "--out", "flow")
    assert done.returncode == 0, done.stderr
    return done


def test_adapters_of_mlflow_runs_are_found_and_known(lab: Lab, flow: Done) -> None:
    check_cosines(
        lab.folder / "flow",
        {"sft": lab.folder / "sft" / "adapter", "rft": lab.folder / "rft", "mine": lab.folder / "theirs"},
    )
    table = pl.read_parquet(lab.folder / "flow" / "spectra.parquet")
    identities = table.select("run", "method", "seed", "data_seed", "lr").unique().sort("run").rows()
    assert identities == [
        ("mine", "mine", None, None, None),
        ("rft", "rft", 3, 4, 1e-3),
        ("sft", "sft", None, None, None),
    ]


def test_the_flow_gives_what_the_plain_command_gives(lab: Lab, flow: Done) -> None:
    """Here with the other study's child run, whose adapter is the first study's."""
    words = [lab.hit_run if word == lab.study_run else word for word in asked(lab)]
    done = lab.run(*words, "--plain", "--out", "plain-of-runs")
    assert done.returncode == 0, done.stderr
    for name in ("pair_metrics", "spectra", "unshared"):
        ours, flows = (pl.read_parquet(lab.folder / out / f"{name}.parquet") for out in ("plain-of-runs", "flow"))
        assert ours.equals(flows)


def test_mlflow_has_a_run_of_kind_comparison_with_the_report(lab: Lab, flow: Done) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{lab.home / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(STUDIES)
    run = client.search_runs([experiment.experiment_id], "tags.kind = 'comparison'", order_by=["start_time ASC"])[0]
    assert (run.info.run_name, run.info.status) == ("compare sft rft mine", "FINISHED")
    assert run.data.params["adapter.rft"] == lab.study_run
    assert run.data.params["reference"] == "mine"
    kept = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert kept == {path.name for path in (lab.folder / "flow").iterdir()}


def test_prefect_shows_named_runs_that_are_final(lab: Lab, flow: Done) -> None:
    with sqlite3.connect(lab.home / "prefect" / "prefect.db") as database:
        flows = database.execute("select name, state_type from flow_run order by start_time").fetchall()
        tasks = database.execute("select name, state_type from task_run order by start_time").fetchall()
        keys = {key for (key,) in database.execute("select distinct key from artifact where key is not null")}
    assert flows[0] == (f"compare sft {lab.study_run[:8]} mine", "COMPLETED")
    assert tasks[:2] == [("compare sft rft mine", "COMPLETED"), ("report", "COMPLETED")]
    assert keys == {"comparison", "comparison-heat-map", "comparison-page"}


def test_the_second_run_is_a_cache_hit_wherever_the_adapters_lie(lab: Lab, flow: Done) -> None:
    shutil.copytree(lab.folder / "sft", lab.folder / "moved" / "sft")
    words = ["moved/sft" if word == "sft/adapter" else word for word in asked(lab)]
    again = lab.run(*words, "--out", "again")
    assert again.returncode == 0, again.stderr
    assert "cached  compare sft rft mine" in again.stdout
    assert "found in the cache" in again.stdout
    for name in ("pair_metrics", "spectra", "unshared"):
        first, second = (pl.read_parquet(lab.folder / out / f"{name}.parquet") for out in ("flow", "again"))
        assert first.equals(second)
    assert pl.read_parquet(lab.folder / "again" / "adapters.parquet")["source"][0] == "moved/sft"


def test_an_unknown_run_is_refused_in_one_line(lab: Lab) -> None:
    done = lab.run("sft", "0" * 32, "--out", "refused")
    assert done.stderr.startswith(f"colinear: MLflow run {'0' * 32}: not in sqlite:///")
    assert (done.stderr.count("\n"), done.stdout, done.returncode) == (1, "", 2)
    assert not (lab.folder / "refused").exists()


# --- MLflow's runs, within this process -------------------------------------------------------------------------------


@pytest.fixture
def here(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """The lab's store is this process's."""
    monkeypatch.setenv("COLINEAR_HOME", str(lab.home))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return lab


def test_what_mlflow_knows_of_a_run(here: Lab) -> None:
    ours = RunInfo("rft", "rft", 3, 4, 1e-3)
    assert recall(here.study_run) == recall(f"runs:/{here.hit_run}/output/adapter") == ours
    assert recall(here.foreign_run) == RunInfo("theirs", "theirs", None, None, None)
    assert recall("models:/name/1") is None


def test_files_on_this_disk_are_read_in_place(here: Lab, tmp_path: Path) -> None:
    stored = here.home / "artifacts" / STUDIES / here.study_run / "artifacts" / "output"
    assert fetch(here.study_run, tmp_path).resolve() == stored
    assert fetch(f"runs:/{here.hit_run}/output/adapter", tmp_path).resolve() == stored / "adapter"
    assert fetch(here.foreign_run, tmp_path) == fetch(f"runs:/{here.foreign_run}/adapter/", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_is_elsewhere_is_downloaded_once(here: Lab, tmp_path: Path) -> None:
    """A registered model; a run's folder likewise where the artifacts are not on this disk."""
    store = Store()
    store.client.create_registered_model("theirs")
    source = f"{store.run(here.foreign_run).info.artifact_uri}/adapter"
    version = store.client.create_model_version("theirs", source, run_id=here.foreign_run).version
    first = fetch(f"models:/theirs/{version}", tmp_path)
    assert first.is_relative_to(tmp_path)
    assert dense(first) == pytest.approx(dense(here.folder / "theirs"), abs=0)
    (first / "adapter_config.json").write_text("kept")
    again = fetch(f"models:/theirs/{version}", tmp_path)
    assert (again / "adapter_config.json").read_text() == "kept"
    run = store.download(f"runs:/{here.foreign_run}/adapter", tmp_path / "run")
    assert dense(run) == pytest.approx(dense(here.folder / "theirs"), abs=0)


def test_a_damaged_adapter_of_a_study_is_refused(here: Lab, tmp_path: Path) -> None:
    store = Store()
    key = StageKey("train", 1, {}, {"damaged": True})
    run = store.open_run("train", key=key, experiment=STUDIES)
    with store.locked(key):
        store.produce(key, run, lambda out: {"bytes": (out / "weights").write_text("whole")})
    (here.home / "artifacts" / STUDIES / run / "artifacts" / "output" / "weights").write_text("whale")
    from tasks.storage import store as module

    module._store.cache_clear()  # a store that has verified nothing yet, as in a new process
    told = f"^{run}: train of MLflow run {run}: weights does not have its recorded digest; "
    with pytest.raises(InputError, match=told):
        fetch(run, tmp_path)


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("{empty}", "{empty}: no adapter in the run; it holds no artifacts; name its folder: runs:/{empty}/PATH"),
        ("runs:/{theirs}/b", "runs:/{theirs}/b: the run has no folder 'b'; it holds adapter"),
        ("models:/none/1", "models:/none/1: not to be had from MLflow at sqlite:///"),
        ("mlflow-artifacts:/1/x", "mlflow-artifacts:/1/x: not to be had from MLflow at sqlite:///"),
    ],
)
def test_what_mlflow_does_not_have(here: Lab, tmp_path: Path, location: str, message: str) -> None:
    with pytest.raises(InputError) as refused:
        fetch(location.format(empty=here.empty_run, theirs=here.foreign_run), tmp_path)
    assert str(refused.value).startswith(message.format(empty=here.empty_run, theirs=here.foreign_run))
