"""The work pools of ``prefect.yaml``: ``python -m deployments.pools`` makes them, or brings them up to date.

Each is Prefect's own template of its kind with what a GPU needs added: Docker's device requests, Kubernetes' resource
limit. A process sees the GPUs that its worker sees. Run it against the server that ``PREFECT_API_URL`` names.
"""

from __future__ import annotations

import copy
import sys
from dataclasses import dataclass
from typing import Any

GPU_LIMIT = "nvidia.com/gpu"


@dataclass(frozen=True)
class Pool:
    """A work pool, the job variables that every deployment in it gets, and whose presets go there."""

    name: str
    kind: str
    job_variables: dict[str, Any]
    presets: tuple[str, ...] | None
    """None: all."""


COMMON_ENV = {
    "PYTHONSAFEPATH": "1",  # files of the working folder are no libraries
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
}
CONTAINER_ENV = {
    **COMMON_ENV,
    "COLINEAR_HOME": "/state",
    "MLFLOW_TRACKING_URI": "{{ $MLFLOW_TRACKING_URI }}",
}
IMAGE = "colinear:gpu"

POOLS = (
    # The folder that is deployed from: reports go under its runs/, state into its .colinear.
    Pool("colinear-process", "process", {"env": COMMON_ENV, "working_dir": "{{ $PWD }}"}, None),
    Pool(
        "colinear-docker",
        "docker",
        {
            "image": IMAGE,
            "image_pull_policy": "IfNotPresent",
            # Device slots are lock files in the temporary folder: containers of one machine share it.
            "env": {**CONTAINER_ENV, "TMPDIR": "/slots"},
            "volumes": ["colinear-state:/state", "colinear-slots:/slots"],
            "container_create_kwargs": {
                "device_requests": [{"driver": "nvidia", "count": -1, "capabilities": [["gpu"]]}],
                "shm_size": "8g",
            },
        },
        ("tiny", "paper"),
    ),
    Pool(
        "colinear-kubernetes",
        "kubernetes",
        {"image": IMAGE, "env": CONTAINER_ENV, "gpus": 1, "memory_request": "32Gi", "finished_job_ttl": 86_400},
        ("tiny", "paper"),
    ),
)


def with_gpus(kind: str, template: dict[str, Any]) -> dict[str, Any]:
    """Prefect's base job template of a kind of pool, with variables for GPUs where it has none."""
    changed = copy.deepcopy(template)
    job, variables = changed["job_configuration"], changed["variables"]["properties"]
    if kind == "docker":
        job["container_create_kwargs"] = "{{ container_create_kwargs }}"
        variables["container_create_kwargs"] = {
            "title": "Container configuration",
            "description": "Further arguments of docker-py, such as device_requests for GPUs and shm_size.",
            "type": "object",
        }
    if kind == "kubernetes":
        container = job["job_manifest"]["spec"]["template"]["spec"]["containers"][0]
        container["resources"].setdefault("limits", {})[GPU_LIMIT] = "{{ gpus }}"
        variables["gpus"] = {"title": "GPUs", "description": "GPUs of a run's pod.", "type": "integer", "minimum": 0}
    return changed


def make_pools() -> list[str]:
    """Create or update every pool on the server; returns their names. Needs a server, no worker and no Docker."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
    from prefect.exceptions import ObjectNotFound

    with get_client(sync_client=True) as client:
        response = client._client.get("/collections/views/aggregate-worker-metadata")
        response.raise_for_status()
        templates = {
            worker["type"]: worker["default_base_job_configuration"]
            for collection in response.json().values()
            for worker in collection.values()
        }
        for pool in POOLS:
            template = with_gpus(pool.kind, templates[pool.kind])
            try:
                client.read_work_pool(pool.name)
            except ObjectNotFound:
                client.create_work_pool(WorkPoolCreate(name=pool.name, type=pool.kind, base_job_template=template))
            else:
                client.update_work_pool(pool.name, WorkPoolUpdate(base_job_template=template))
    return [pool.name for pool in POOLS]


def main() -> int:
    """Make the pools and say how work gets done in them."""
    for name in make_pools():
        print(f"{name}: prefect worker start --pool {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
