"""What people see in MLflow's pages beside runs: saved views, descriptions, data sets, registered adapters.

Nothing here decides a number and no cache reads it: callers go on where a store has no registry or refuses a record.

MLflow's table of runs shows no metric and no parameter until somebody picks columns, and keeps the choice in that
browser. What it has for all is a saved view: an experiment tag ``mlflow.sharedViewState.ID`` (MLflow 3.17: name, time
and the page's state as JSON), which the page lists under "Views" and opens at ``?viewStateShareKey=ID``.
"""

from __future__ import annotations

import getpass
import json
import re
import time
import urllib.parse
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from tasks.core import home

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

NOTE = "mlflow.note.content"
LONGEST_NOTE = 7900
"""Characters; MLflow cuts tags at 8,000."""

VIEW = "mlflow.sharedViewState."
PAGES = "mlflow.colinear.pages"
VERSION = "1"
"""Raise it where views or descriptions change: those of an older version are written again, a person's changes stay
until then."""

WEIGHTS = "output/adapter"
"""Where in the run of a training its PEFT directory is."""

ADAPTER = "colinear.adapter"
"""Tag of a model version that `register` made."""

_OF_A_RUN = (
    "tags.study", "params.method", "params.seed", "params.data_seed", "params.lr", "metrics.accuracy",
    "metrics.accuracy_minus_base", "metrics.cosine_to_sft", "metrics.update_norm", "metrics.effective_rank",
)  # fmt: skip
_OF_A_STUDY = (
    "tags.best_run", "metrics.best_accuracy", "metrics.base_accuracy", "metrics.adapters", "metrics.claims_hold",
    "metrics.claims_do_not_hold", "metrics.claims_no_power", "metrics.claims_not_measured",
)  # fmt: skip


FIRST = {"attributes.`Run Name`": 260, "runDateAndNestInfo": 150}
"""Columns that the page always has before the chosen ones, with their widths in pixels."""

WIDTH = 90
WIDER = {
    "tags.`study`": 100, "tags.`best_run`": 200, "params.`method`": 110, "metrics.`accuracy_minus_base`": 160,
    "metrics.`base_accuracy`": 120, "metrics.`best_accuracy`": 120, "metrics.`claims_do_not_hold`": 150,
    "metrics.`claims_no_power`": 140, "metrics.`claims_not_measured`": 170, "metrics.`claims_hold`": 100,
    "metrics.`cosine_to_sft`": 110, "metrics.`effective_rank`": 120, "metrics.`update_norm`": 110,
}  # fmt: skip


@dataclass(frozen=True)
class View:
    """A saved view of an experiment's runs: what is listed, by what it is sorted, with which columns."""

    name: str
    query: str
    order: str
    columns: tuple[str, ...]

    def tag(self, now: int) -> str:
        """The value of the experiment's tag. ``now``: milliseconds since 1970."""
        columns = [_quoted(column) for column in self.columns]
        widths = {**FIRST, **dict.fromkeys(columns, WIDTH), **WIDER}
        state = {
            "searchFilter": self.query,
            "orderByKey": _quoted(self.order),
            "orderByAsc": False,
            "selectedColumns": columns,
            "columnOrder": [*FIRST, *columns],
            "columnWidths": {column: widths[column] for column in (*FIRST, *columns)},
        }
        return json.dumps({"name": self.name, "createdAt": now, "updatedAt": now, "state": json.dumps(state)})


VIEWS = {
    "adapters": View("Adapters, most accurate first", "tags.kind = 'method'", "metrics.accuracy", _OF_A_RUN),
    "studies": View("Studies, newest first", "tags.kind = 'study'", "attributes.start_time", _OF_A_STUDY),
    "nested": View("Studies with their adapters", "", "attributes.start_time", _OF_A_RUN),
}

ABOUT = """{views} (also in the menu *Views*)

A study is a parent run with `report.html`, its tables and figures; its children are the adapters, with the curves of
their training, accuracy and geometry. The adapters are in the *Model registry* as well. Sweeps and comparisons are
parent runs of their own.
"""
ABOUT_CACHE = """Outputs of all stages but training, by content: what a study found here it did not compute again. A
run that is deleted is computed again when it is needed."""

MACHINE_LEARNING = "custom_model_development"
"""MLflow asks every visitor which kind an experiment is unless it is told."""


def _quoted(column: str) -> str:
    """``metrics.accuracy`` as MLflow's page writes it."""
    kind, _, name = column.partition(".")
    return column if column == "attributes.start_time" else f"{kind}.`{name}`"


def prepare(client: MlflowClient, studies: str, cache: str) -> None:
    """Saved views and descriptions for the two experiments, where they have none of this version and can have any."""
    with suppress(Exception):  # nothing of ours reads them
        _prepare(client, studies, cache)


def _prepare(client: MlflowClient, studies: str, cache: str) -> None:
    if client.get_experiment(studies).tags.get(PAGES) == VERSION:
        return
    now = int(time.time() * 1000)
    links = " · ".join(f"[{view.name}]({view_page(studies, key)})" for key, view in VIEWS.items())
    tags = {VIEW + key: view.tag(now) for key, view in VIEWS.items()}
    client.set_experiment_tag(cache, NOTE, ABOUT_CACHE)
    client.set_experiment_tag(cache, "mlflow.experimentKind", MACHINE_LEARNING)
    for name, value in {**tags, NOTE: ABOUT.format(views=links), "mlflow.experimentKind": MACHINE_LEARNING}.items():
        client.set_experiment_tag(studies, name, value)
    client.set_experiment_tag(studies, PAGES, VERSION)  # last: what is interrupted is done again


def view_page(experiment: str, key: str) -> str:
    """The address of a saved view. Without the kind of work MLflow shows the menus of its last visitor, or GenAI's."""
    return f"#/experiments/{experiment}/runs?viewStateShareKey={key}&workflowType=machine_learning"


def run_page(experiment: str, run_id: str) -> str:
    """The address of a run's page, for a link in a description."""
    return f"#/experiments/{experiment}/runs/{run_id}?workflowType=machine_learning"


def model_page(uri: str) -> str:
    """The address of the page of ``models:/NAME/VERSION``."""
    name, version = uri.removeprefix("models:/").split("/")
    return f"#/models/{urllib.parse.quote(name)}/versions/{version}"


def origin() -> dict[str, str]:
    """Tags that fill the columns "Source" and "User"."""
    tags = {"mlflow.source.name": "colinear", "mlflow.source.type": "LOCAL"}
    try:
        return {**tags, "mlflow.user": getpass.getuser()}
    except (KeyError, OSError):  # a container's user without a name
        return tags


def describe(client: MlflowClient, run_id: str, markdown: str) -> None:
    """The description at the top of a run's page; whole paragraphs, as many as MLflow takes."""
    client.set_tag(run_id, NOTE, shortened(markdown, LONGEST_NOTE))


def shortened(markdown: str, most: int) -> str:
    """``markdown`` up to the last empty line, or else line, within ``most`` characters."""
    if len(markdown) <= most:
        return markdown
    end = max(markdown.rfind("\n\n", 0, most - 4), 0) or max(markdown.rfind("\n", 0, most - 4), 0) or most - 4
    return f"{markdown[:end].rstrip()}\n\n…\n"


# --- data sets ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DataSet:
    """A file of a stage's artifact that a run read."""

    name: str
    uri: str
    """Where the file is: a URI of the artifact store."""
    digest: str
    """sha256 of the artifact's manifest."""
    columns: Mapping[str, str]
    """Column -> type, of MLflow's: string, long, double, boolean; with anything else it is an "any"."""
    profile: Mapping[str, Any]
    """Numbers that say what it is, such as its rows."""
    context: str
    """What it was read for: "training" or "evaluation"."""


def log_data(client: MlflowClient, run_id: str, data: Sequence[DataSet]) -> None:
    """Say what a run read; saying it twice changes nothing."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    client.log_inputs(
        run_id,
        [
            DatasetInput(
                Dataset(
                    name=one.name,
                    digest=one.digest[:16],  # MLflow takes 36, its page has room for fewer
                    source_type=_source_type(one.uri),
                    source=json.dumps({"uri": one.uri}),
                    schema=json.dumps({"mlflow_colspec": [{"name": n, "type": t} for n, t in one.columns.items()]}),
                    profile=json.dumps(one.profile),
                ),
                [InputTag("mlflow.data.context", one.context)],
            )
            for one in data
        ],
    )


def _source_type(uri: str) -> str:
    """The scheme of the store that has the file; MLflow's name for a file on a disk is "local"."""
    scheme = urllib.parse.urlparse(uri).scheme
    return "local" if scheme in ("", "file") else scheme


# --- adapters -------------------------------------------------------------------------------------------------------


def model_name(study: str, method: str) -> str:
    """The registered model that has a study's adapters of one method as its versions."""
    plain = re.sub(r"[^\w.-]+", "-", f"{study[:150]}-{method}").strip("-.")
    return plain or method


ABOUT_MODEL = """LoRA adapters of *{method}* from studies named *{study}*. Each version is one training; seeds and
learning rate are in its tags, curves and accuracy in its source run. The files are PEFT directories, not an MLflow
flavour:

    PeftModel.from_pretrained(base, mlflow.artifacts.download_artifacts("models:/{name}/VERSION"))
    colinear compare models:/{name}/1 models:/{name}/2
"""


def register(client: MlflowClient, study: str, run: Run, tags: Mapping[str, str]) -> str:
    """``models:/NAME/VERSION`` of the adapter that ``run`` trained: its own files, registered, not copied.

    A training has one version under each study's name, however often studies find it in the cache.
    """
    from mlflow.exceptions import MlflowException

    method, run_id = run.data.tags["method"], str(run.info.run_id)
    name = model_name(study, method)
    with FileLock(home.subfolder("locks") / "registry.lock", thread_local=False):
        versions = client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'")
        if versions:
            return f"models:/{name}/{versions[0].version}"
        try:
            client.create_registered_model(name, description=ABOUT_MODEL.format(name=name, method=method, study=study))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        made = client.create_model_version(
            name, f"{run.info.artifact_uri}/{WEIGHTS}", run_id, tags={ADAPTER: "1", **tags}, await_creation_for=0
        )
    return f"models:/{name}/{made.version}"


def registered_run(client: MlflowClient, uri: str) -> str | None:
    """``runs:/ID/PATH`` of a ``models:/`` URI whose version `register` made; None of any other."""
    from mlflow.exceptions import MlflowException
    from mlflow.store.artifact.utils.models import get_model_name_and_version

    try:
        match get_model_name_and_version(client, uri):
            case (name, version):
                found = client.get_model_version(name, version)
            case _:
                return None
    except MlflowException:  # what is wrong with it says who wants the files
        return None
    return f"runs:/{found.run_id}/{WEIGHTS}" if found.tags.get(ADAPTER) else None
