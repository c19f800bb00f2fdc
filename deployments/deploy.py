"""What ``prefect deploy --all`` deploys: ``python -m deployments.deploy`` writes ``prefect.yaml`` from the presets.

``prefect.yaml`` is Prefect's format and is committed, so that it can be read, changed and deployed without colinear's
own commands; a test says so where it has fallen behind the presets.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from deployments.pools import POOLS, Pool
from flows.servers.deployables import CLOCK, STUDY, Deployable, Timetable, deployables

FILE = Path(__file__).with_name("prefect.yaml")
NOTHING_TO_PULL = {"prefect.deployments.steps.set_working_directory": {"directory": "."}}
"""The flows are installed where they run. With no step at all, Prefect 3.7.7 takes a module path apart as a file's."""

HEADER = """\
# Written by `python -m deployments.deploy` from the presets. To deploy, with PREFECT_API_URL set, from the repository:
#
#   python -m deployments.pools                                        makes the work pools, GPU settings in them
#   prefect deploy --all --prefect-file deployments/prefect.yaml       MLFLOW_TRACKING_URI: what containers record to
#   prefect worker start --pool colinear-process                       or -docker, -kubernetes; one a machine
#
# GPUs. process: those that the worker sees (CUDA_VISIBLE_DEVICES), shared by all runs through device slots. docker: all
# of the machine, shared the same way; container_create_kwargs says which. kubernetes: `gpus` a run, from the scheduler.
# Schedules begin paused; each has its own parameters, which replace the deployment's.
"""


class _Plain(yaml.SafeDumper):
    """Nothing is an alias: the file is read by people."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def text() -> str:
    """The whole of ``prefect.yaml``."""
    entries = [_entry(offered, pool) for pool in POOLS for offered in deployables() if _goes(offered, pool)]
    content = {"name": "colinear", "pull": [NOTHING_TO_PULL], "deployments": entries}
    return HEADER + "\n" + yaml.dump(content, Dumper=_Plain, sort_keys=False, width=120, default_flow_style=None)


def _goes(offered: Deployable, pool: Pool) -> bool:
    return pool.presets is None or (offered.entrypoint == STUDY and offered.name in pool.presets)


def _entry(offered: Deployable, pool: Pool) -> dict[str, Any]:
    return {
        "name": f"{offered.name}-{pool.kind}",
        "entrypoint": offered.entrypoint,
        "description": offered.description,
        "tags": [*offered.tags, pool.kind],
        "parameters": _plain(offered.parameters),
        "schedules": [_schedule(one) for one in offered.timetables] if pool.presets is None else [],
        "work_pool": {"name": pool.name, "job_variables": pool.job_variables},
    }


def _schedule(timetable: Timetable) -> dict[str, Any]:
    when = {"cron": timetable.cron} if timetable.cron is not None else {"interval": timetable.interval}
    return {
        "slug": timetable.slug,
        **when,
        "timezone": CLOCK,
        "active": False,
        "parameters": _plain(timetable.parameters),
    }


def _plain(value: Any) -> Any:
    """Tuples are lists in YAML."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value


def main() -> int:
    """Write the file."""
    FILE.write_text(text(), encoding="utf-8")
    print(f"{FILE}: written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
