"""A folder that colinear does not keep (a base model), as an MLflow artifact that other machines can fetch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tasks.core.digests import MANIFEST, StageKey, file_digest, manifest_digest
from tasks.core.errors import StageError
from tasks.core.results import ArtifactRef
from tasks.core.stages import PUBLISHED
from tasks.storage.store import CACHE, FOLDER, Store


def publish(store: Store, ref: ArtifactRef, patterns: Sequence[str]) -> ArtifactRef:
    """Upload the folder that ``ref`` names, unless that was done; the artifact's digest is the one of ``ref``.

    That is a digest over the files of ``patterns``, which are what is uploaded (see `tasks.models.external.reference`).
    So cache keys are those of a study that reads the folder in place. Raises `StageError` where the files have changed.
    """
    key = PUBLISHED.key({"folder": ref.sha256}, {})
    complete = f"tags.`cache.key` = '{key.digest}' and tags.`cache.complete` = '1'"
    with store.locked(key):
        found = store.client.search_runs([store.experiments[CACHE]], complete, max_results=1)
        run_id = found[0].info.run_id if found else _upload(store, key, ref, patterns)
    uri = f"{store.client.get_run(run_id).info.artifact_uri}/{FOLDER}"
    return replace(ref, uri=uri, kind=key.stage, run_id=run_id)


def _upload(store: Store, key: StageKey, ref: ArtifactRef, patterns: Sequence[str]) -> str:
    run_id = store.open_run(key.stage, key=key)
    files = sorted({file for pattern in patterns for file in Path(ref.uri).glob(pattern)})
    for file in files:
        store.client.log_artifact(run_id, str(file), FOLDER)
    manifest = {file.name: {"size": file.stat().st_size, "sha256": file_digest(file)} for file in files}
    if manifest_digest(manifest) != ref.sha256:
        store.end_run(run_id, "FAILED")
        raise StageError(f"{ref.uri}: its files were changed while the study ran; start it again")
    store.client.log_text(run_id, json.dumps(manifest, sort_keys=True, indent=1), MANIFEST)
    store.end_run(run_id)
    store.client.set_tag(run_id, "cache.complete", "1")
    return run_id
