"""Adapters that a person names by their MLflow run or artifact: what is known of them, and where their files are."""

from __future__ import annotations

import hashlib
import posixpath
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from tasks.core.digests import Damaged
from tasks.core.errors import InputError
from tasks.core.results import ArtifactRef, RunInfo
from tasks.storage.mlflow_pages import registered_run
from tasks.storage.store import FOLDER, open_store

CONFIGS = {"adapter_config.json", "config.json"}
"""Either makes a folder one that can be compared."""

WITHIN = ("", "adapter", f"{FOLDER}/adapter", "model")
"""Where in a run's artifacts an adapter is looked for when no path is given."""


def method_tags(info: RunInfo) -> dict[str, str]:
    """What the MLflow run of a training is tagged with; `recall` reads it."""
    return {
        "kind": "method",
        "method": info.method,
        "run": info.run,
        "seed": str(info.seed),
        "data_seed": str(info.data_seed),
        "lr": f"{info.lr:g}",
    }


def recall(location: str) -> RunInfo | None:
    """What MLflow knows of the run in ``location``; None where the URI names no run, nor a model that we registered.

    A run of one of our studies says its method, seeds and learning rate; of another run only the name is known. Raises
    `InputError` where there is no such run.
    """
    run_id, _ = _split(_trained_in(location))
    if run_id is None:
        return None
    run = open_store().run(run_id)
    tags = run.data.tags
    if tags.get("kind") == "method" and {"run", "method", "seed", "data_seed", "lr"} <= tags.keys():
        return RunInfo(
            tags["run"], tags["method"], int(tags["seed"]), int(tags["data_seed"]), _learning_rate(run, tags["lr"])
        )
    name = tags.get("mlflow.runName") or run_id[:8]
    return RunInfo(name, name, None, None, None)


def fetch(location: str, scratch: Path) -> Path:
    """The folder of ``runs:/ID[/path]``, a bare run id, ``models:/name/version`` or ``mlflow-artifacts:/...``.

    Files on this disk are read in place, our own cache entries are verified, others are downloaded into ``scratch``,
    once. Without a path, it is the first folder of `WITHIN` that holds an adapter or a model. Raises `InputError`.
    """
    run_id, path = _split(_trained_in(location))
    if run_id is None:
        return _downloaded(location, scratch)
    store = open_store()
    run = store.run(run_id)
    source = run.data.tags.get("cache.source_run")  # a study's child run whose adapter another study trained
    if source:
        run_id, run = source, store.run(source)
    if run.data.tags.get("cache.complete") == "1" and (not path or posixpath.commonpath([path, FOLDER]) == FOLDER):
        return _verified(run, location) / posixpath.relpath(path or FOLDER, FOLDER)
    path = path or _search(run_id, location)
    root = urllib.parse.urlparse(run.info.artifact_uri)
    if root.scheme in ("", "file"):
        folder = Path(urllib.request.url2pathname(root.path)) / path
        if not folder.is_dir():
            raise InputError(f"{location}: the run has no folder {path!r}; {_holds(run_id)}")
        return folder
    return _downloaded(f"runs:/{run_id}/{path}", scratch)


def _trained_in(location: str) -> str:
    """Of a registered adapter of ours the artifact of its training: it is verified, and knows its method."""
    if not location.startswith("models:/"):
        return location
    return registered_run(open_store().client, location) or location


def _split(location: str) -> tuple[str | None, str]:
    """Run id (None where the URI is not of a run) and path in its artifacts."""
    scheme, _, rest = location.rpartition(":/")
    if scheme not in ("", "runs"):
        return None, ""
    run_id, _, path = rest.strip("/").partition("/")
    path = posixpath.normpath(path) if path else ""
    if ".." in path.split("/"):
        raise InputError(f"{location}: its path leads out of the run; give one within it")
    return run_id, path


def _learning_rate(run: Any, tag: str) -> float:
    """The parameter has every digit; the tag is rounded for reading."""
    return float(run.data.params.get("lr", tag))


def _verified(run: Any, location: str) -> Path:
    ref = ArtifactRef(
        f"{run.info.artifact_uri}/{FOLDER}", run.data.tags["cache.manifest"], run.data.tags["stage"], run.info.run_id
    )
    try:
        return open_store().local(ref)
    except Damaged as damage:
        raise InputError(f"{location}: {damage}") from damage


def _search(run_id: str, location: str) -> str:
    store = open_store()
    for path in WITHIN:
        if not CONFIGS.isdisjoint(store.names(run_id, path)):
            return path or "."
    raise InputError(f"{location}: no adapter in the run; {_holds(run_id)}; name its folder: runs:/{run_id}/PATH")


def _holds(run_id: str) -> str:
    names = open_store().names(run_id)
    return f"it holds {', '.join(names)}" if names else "it holds no artifacts"


def _downloaded(uri: str, scratch: Path) -> Path:
    target = scratch / hashlib.sha256(uri.encode()).hexdigest()[:16]
    marker = target.with_suffix(".path")
    if not marker.is_file():
        marker.write_text(str(open_store().download(uri, target)))
    return Path(marker.read_text())
