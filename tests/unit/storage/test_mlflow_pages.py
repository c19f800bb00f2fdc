"""What people see in MLflow's pages, on real MLflow over SQLite: views, descriptions, data sets, adapters."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.core.errors import InputError
from tasks.core.results import RunInfo
from tasks.storage import mlflow_pages
from tasks.storage.mlflow_pages import DataSet, describe, log_data, model_name, prepare, register, shortened
from tasks.storage.recorded import fetch, method_tags, recall
from tasks.storage.store import CACHE, STUDIES, StageKey, Store
from tests.lab.adapters import adapter, dense

pytestmark = pytest.mark.slow  # an MLflow database

RFT = RunInfo("rft", "rft", 3, 4, 1e-3)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One state folder for the module: a fresh MLflow database costs seconds."""
    folder = tmp_path_factory.mktemp("pages")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLINEAR_HOME", str(folder))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        Store()
        yield folder


@pytest.fixture
def store(home: Path) -> Store:
    return Store()


def trained(store: Store, name: str, info: RunInfo = RFT, files: Any = None) -> Any:
    """The MLflow run of a training, with an adapter as its artifact."""
    key = StageKey("train", 1, {}, {"test": name})
    run = store.open_run(name, key=key, experiment=STUDIES, tags=method_tags(info), params={"lr": info.lr})

    def compute(out: Path) -> dict[str, int]:
        (files or (lambda folder: adapter(folder, seed=5)))(out / "adapter")
        return {}

    with store.locked(key):
        store.produce(key, run, compute)
    return store.client.get_run(run)


# --- views and descriptions -------------------------------------------------------------------------------------------


def tags(store: Store, name: str = STUDIES) -> dict[str, str]:
    return dict(store.client.get_experiment(store.experiments[name]).tags)


def test_a_fresh_store_has_saved_views_as_mlflows_page_reads_them(store: Store) -> None:
    found = {key: json.loads(value) for key, value in tags(store).items() if key.startswith("mlflow.sharedViewState.")}
    assert sorted(found) == [f"mlflow.sharedViewState.{key}" for key in ("adapters", "nested", "studies")]
    view = found["mlflow.sharedViewState.adapters"]
    assert view["name"] == "Adapters, most accurate first"
    assert view["createdAt"] == view["updatedAt"] > 1.7e12  # milliseconds
    state = json.loads(view["state"])
    assert (state["searchFilter"], state["orderByKey"], state["orderByAsc"]) == (
        "tags.kind = 'method'", "metrics.`accuracy`", False,
    )  # fmt: skip
    assert state["selectedColumns"][:3] == ["tags.`study`", "params.`method`", "params.`seed`"]
    assert "metrics.`cosine_to_sft`" in state["selectedColumns"]
    links = f"#/experiments/{store.experiments[STUDIES]}/runs?viewStateShareKey=adapters"
    assert links in tags(store)["mlflow.note.content"]
    assert tags(store, CACHE)["mlflow.experimentKind"] == "custom_model_development"  # or MLflow asks every visitor


def test_what_a_person_changed_stays_until_there_is_a_newer_version(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = store.experiments[STUDIES]
    store.client.set_experiment_tag(experiment, "mlflow.note.content", "mine")
    Store()
    assert tags(store)["mlflow.note.content"] == "mine"
    monkeypatch.setattr(mlflow_pages, "VERSION", "newer")
    prepare(store.client, experiment, store.experiments[CACHE])
    assert tags(store)["mlflow.note.content"].startswith("[Adapters, most accurate first](#/experiments/")
    assert tags(store)["mlflow.colinear.pages"] == "newer"


def test_runs_say_who_and_what_made_them(store: Store) -> None:
    run = store.client.get_run(store.open_run("origin"))
    assert run.data.tags["mlflow.source.name"] == "colinear"
    assert run.info.user_id == run.data.tags["mlflow.user"] != ""


def test_a_user_without_a_name_is_no_hindrance(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found: 4242")

    monkeypatch.setattr("getpass.getuser", nobody)
    assert mlflow_pages.origin() == {"mlflow.source.name": "colinear", "mlflow.source.type": "LOCAL"}


@pytest.mark.parametrize(
    ("text", "most", "expected"),
    [
        ("short", 5, "short"),
        (
            "one\n\ntwo\n\nthree",
            12,
            "one\n\n…\n",
        ),  # 12 less 4 for the sign: "one\n\ntwo" has 8, its empty line begins there
        ("one\ntwo\nthree", 11, "one\n\n…\n"),
        ("x" * 20, 10, "xxxxxx\n\n…\n"),
    ],
)
def test_a_description_ends_with_a_whole_paragraph(text: str, most: int, expected: str) -> None:
    assert shortened(text, most) == expected
    assert len(expected) <= most or expected == text


def test_a_long_description_is_whole_in_mlflow(store: Store) -> None:
    run = store.open_run("described")
    describe(store.client, run, "\n\n".join(f"paragraph {number}" for number in range(2000)))
    kept = store.client.get_run(run).data.tags["mlflow.note.content"]
    assert 7500 < len(kept) <= 8000
    assert kept.endswith("\n\n…\n")
    assert kept.removesuffix("\n\n…\n").rpartition("\n\n")[2].startswith("paragraph ")


# --- data sets --------------------------------------------------------------------------------------------------------


def test_a_data_set_is_logged_once_and_its_source_can_be_loaded(store: Store, tmp_path: Path) -> None:
    import mlflow.data

    file = tmp_path / "rollouts.parquet"
    file.write_text("rows")
    one = DataSet("graded rollouts", file.as_uri(), "ab" * 32, {"problem_id": "string"}, {"rows": 7}, "training")
    run = store.open_run("reads")
    log_data(store.client, run, [one])
    log_data(store.client, run, [one])
    (read,) = store.client.get_run(run).inputs.dataset_inputs
    assert (read.dataset.name, read.dataset.digest) == ("graded rollouts", "ab" * 8)
    assert [(tag.key, tag.value) for tag in read.tags] == [("mlflow.data.context", "training")]
    assert json.loads(read.dataset.schema) == {"mlflow_colspec": [{"name": "problem_id", "type": "string"}]}
    assert Path(mlflow.data.get_source(read).load()).read_text() == "rows"


def test_a_data_sets_source_is_where_it_is(store: Store) -> None:
    run = store.open_run("elsewhere")
    log_data(store.client, run, [DataSet("d", "s3://bucket/1/output/rollouts.parquet", "0" * 64, {}, {}, "training")])
    (read,) = store.client.get_run(run).inputs.dataset_inputs
    assert read.dataset.source_type == "s3"
    assert json.loads(read.dataset.source) == {"uri": "s3://bucket/1/output/rollouts.parquet"}


# --- adapters ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("study", "name"),
    [
        ("tiny", "tiny-sft"),
        ("my: study/2", "my-study-2-sft"),
        ("..", "sft"),
        ("../up", "up-sft"),
        ("größe", "größe-sft"),
        ("' or 1=1", "or-1-1-sft"),
        ("x" * 300, "x" * 150 + "-sft"),
    ],
)
def test_a_studys_name_becomes_one_that_the_registry_takes(store: Store, study: str, name: str) -> None:
    assert model_name(study, "sft") == name
    store.client.create_registered_model(name)


def test_a_training_is_registered_once_a_study_and_no_byte_is_copied(store: Store, home: Path) -> None:
    run = trained(store, "once")
    before = sum(1 for path in home.rglob("*.safetensors"))
    first = register(store.client, "tiny", run, {"seed": "3"})
    assert register(Store().client, "tiny", run, {"seed": "3"}) == first
    assert register(store.client, "other", run, {"seed": "3"}) == "models:/other-rft/1"
    assert sum(1 for path in home.rglob("*.safetensors")) == before
    second = register(store.client, "tiny", trained(store, "again"), {"seed": "3"})
    assert (first, second) == ("models:/tiny-rft/1", "models:/tiny-rft/2")
    version = store.client.get_model_version("tiny-rft", "1")
    assert (version.run_id, version.tags["seed"], version.status) == (run.info.run_id, "3", "READY")


def test_two_studies_that_end_at_once_register_a_training_once(store: Store) -> None:
    run = trained(store, "raced")
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(register(Store().client, "raced", run, {}))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == ["models:/raced-rft/1"] * 3


def test_a_registered_adapter_is_its_training(store: Store, tmp_path: Path) -> None:
    """It is read in place, verified, and known by its method, seeds and learning rate."""
    run = trained(store, "known")
    uri = register(store.client, "known", run, {})
    assert recall(uri) == recall(run.info.run_id) == RFT
    folder = fetch(uri, tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert dense(folder) == pytest.approx(dense(adapter(tmp_path / "same", seed=5)), abs=0)
    latest = fetch("models:/known-rft/latest", tmp_path)
    assert latest == folder


def test_a_damaged_one_is_refused(store: Store, tmp_path: Path) -> None:
    run = trained(store, "damaged", files=lambda folder: adapter(folder, seed=6))
    uri = register(store.client, "damaged", run, {})
    folder = fetch(uri, tmp_path)
    from tasks.storage import store as module

    module._store.cache_clear()  # a store that has verified nothing yet, as in a new process
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match=r"^models:/damaged-rft/1: .*adapter/adapter_config.json does not have its"):
        fetch(uri, tmp_path)


def test_it_loads_with_peft(store: Store, base_model: Path, tmp_path: Path) -> None:
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM

    def save(folder: Path) -> None:
        torch.manual_seed(1)
        base = AutoModelForCausalLM.from_pretrained(base_model)
        made = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
        made.save_pretrained(folder)

    uri = register(store.client, "peft", trained(store, "peft", files=save), {})
    base = AutoModelForCausalLM.from_pretrained(base_model)
    tokens = torch.arange(3, 13)[None]
    alone = base(tokens).logits
    here = PeftModel.from_pretrained(base, str(fetch(uri, tmp_path)))(tokens).logits
    # As the model's page says it, with MLflow alone, into a folder of its own.
    downloaded = store.download(uri, tmp_path / "downloaded")
    again = AutoModelForCausalLM.from_pretrained(base_model)
    assert torch.equal(PeftModel.from_pretrained(again, str(downloaded))(tokens).logits, here)
    assert (here - alone).abs().max() > 1e-3


def test_somebody_elses_model_is_none_of_ours(store: Store) -> None:
    run = trained(store, "foreign")
    store.client.create_registered_model("foreign")
    store.client.create_model_version("foreign", f"{run.info.artifact_uri}/output", run_id=run.info.run_id)
    assert recall("models:/foreign/1") is None
    assert recall("models:/no-such-model/1") is None
