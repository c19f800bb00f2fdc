"""Prefect's Ray task runner as colinear uses it: what runs where, and with what. Imported only where Ray is wanted."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future
from typing import Any

import ray
from prefect.futures import PrefectFuture
from prefect.states import State
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.tasks import Task
from prefect.utilities.collections import visit_collection
from prefect_ray.context import remote_options
from prefect_ray.task_runners import PrefectRayFuture, RayTaskRunner

from flows.cluster.ray_cluster import connect
from tasks.core import home
from tasks.core.errors import InputError, StageError
from tasks.core.events import Event, emit
from tasks.core.results import StageResult
from tasks.evaluation.task import accuracy_task, soups_task
from tasks.geometry.function_tasks import texts_task
from tasks.geometry.task import pair_task, soup_task, spectrum_task
from tasks.grading.task import grade_task
from tasks.models.task import dequantise_task
from tasks.problems.task import own_problems_task, problems_task
from tasks.rollouts.task import completions_task, own_rollouts_task, prompts_task
from tasks.workers import devices

ON_DRIVER = (dequantise_task, prompts_task, completions_task, own_rollouts_task, own_problems_task, texts_task)
"""Tasks that read files, folders or keys which only the machine of the command has."""

WITHOUT_DEVICE = (problems_task, grade_task, accuracy_task, spectrum_task, pair_task, soup_task, soups_task)
"""Tasks that need no GPU. All others get one, where the cluster has any."""


class ClusterRunner(RayTaskRunner):
    """A device task is one Ray task with one GPU (on a cluster without GPUs: one CPU).

    Within it `tasks.workers.devices` works as on any machine: the GPU that Ray assigned is the only slot it sees, and
    its lock is held as well, so that a study outside Ray on that node waits.
    """

    def __enter__(self) -> ClusterRunner:
        connect()  # in a node's process, which has a copy of the flow, Ray is there already
        self._local: ThreadPoolTaskRunner[Any] | None = None
        super().__enter__()
        return self

    def __exit__(self, *exc_info: Any) -> None:
        if self._local is not None:
            self._local.__exit__(*exc_info)
        super().__exit__(*exc_info)

    def submit(
        self,
        task: Task[Any, Any],
        parameters: dict[str, Any],
        wait_for: Iterable[PrefectFuture[Any]] | None = None,
        dependencies: Any = None,
    ) -> Any:
        """Start a task where it belongs."""
        if _among(task, ON_DRIVER):
            if self._local is None:
                self._local = ThreadPoolTaskRunner(max_workers=8).__enter__()
            return self._local.submit(task, parameters, wait_for, dependencies)
        parameters = visit_collection(parameters, visit_fn=_awaited, return_data=True)
        with remote_options(**_needs(task)):
            future = super().submit(task, parameters, wait_for, dependencies)
        future.wrapped_future.future().add_done_callback(lambda done: _tell(task, done))
        return future

    @staticmethod
    def _run_prefect_task(*upstream: Any, **rest: Any) -> Any:
        """The body of the Ray task, on its node."""
        home.quiet_environment()
        devices.use_assigned(ray.get_runtime_context().get_accelerator_ids()["GPU"])
        return RayTaskRunner._run_prefect_task(*upstream, **rest)


def _among(task: Task[Any, Any], several: Iterable[Task[Any, Any]]) -> bool:
    return any(task is one for one in several)


def _needs(task: Task[Any, Any]) -> dict[str, Any]:
    """Ray's options. A process serves many tasks (by default one with a GPU ends with its task): it never touches the
    device itself, only its children do. A stage that is lost with its node or process is begun again elsewhere."""
    if _among(task, WITHOUT_DEVICE) or not ray.cluster_resources().get("GPU"):
        return {"num_cpus": 1}
    return {"num_cpus": 1, "num_gpus": 1, "max_calls": 0}


def _awaited(value: Any) -> Any:
    """A driver's future cannot travel: its state can."""
    if isinstance(value, PrefectFuture) and not isinstance(value, PrefectRayFuture):
        value.wait()
        return value.state
    return value


def _tell(task: Task[Any, Any], done: Future[State[Any]]) -> None:
    """Nodes' events do not come here: say what became of a task's stages when it ends."""
    lost = done.exception()  # with its node
    found = lost or done.result().result(raise_on_failure=False)
    if isinstance(found, StageError):
        name, _, reason = str(found).partition(": ")  # see `tasks.stage`
        emit(Event("failed", name, note=reason))
    elif lost or isinstance(found, InputError):
        emit(Event("failed", task.name, note=" ".join(str(found).split())))
    for result in found if isinstance(found, list) else [found]:
        if isinstance(result, StageResult):
            for name, _, what in (one.partition(": ") for one in result.damage):
                emit(Event("damaged", name, note=what))
            emit(Event("hit" if result.hit else "done", result.name, seconds=result.cached_seconds))
