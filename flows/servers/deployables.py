"""What can be started from Prefect's pages: each preset as a study, comparisons, sweeps, and example schedules.

`colinear serve` runs them in processes of this machine, ``deployments/prefect.yaml`` in work pools. Flows are named by
module path: a flow named by its file puts ``flows/`` first on ``sys.path``.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasks.settings.presets import PRESETS, preset, summary
from tasks.settings.sweep_presets import SWEEPS, sweep_preset
from tasks.settings.sweep_presets import summary as sweep_summary

if TYPE_CHECKING:
    from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule
    from prefect.flows import Flow

STUDY = "flows.study_flow.study_flow"
COMPARE = "flows.compare_flow.compare_flow"
SWEEP = "flows.sweep_flow.sweep_flow"
CLOCK = "UTC"
NIGHTLY_SEEDS = (1, 2, 3, 4, 5)
CANARY_SECONDS = 12 * 3600


@dataclass(frozen=True)
class Timetable:
    """A schedule: a cron line or an interval, with parameters of its own. It begins paused."""

    slug: str
    parameters: dict[str, Any]
    cron: str | None = None
    interval: int | None = None
    """Seconds."""

    def times(self) -> CronSchedule | IntervalSchedule:
        """As Prefect's client takes it."""
        from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule

        if self.cron is not None:
            return CronSchedule(cron=self.cron, timezone=CLOCK)
        return IntervalSchedule(interval=self.interval, timezone=CLOCK)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Deployable:
    """One entry of Prefect's page of deployments."""

    name: str
    entrypoint: str
    description: str
    parameters: dict[str, Any]
    tags: tuple[str, ...] = ("colinear",)
    timetables: tuple[Timetable, ...] = ()

    @property
    def flow(self) -> Flow[Any, Any]:
        """The flow itself; importing it takes a second or two."""
        module, _, name = self.entrypoint.rpartition(".")
        found: Flow[Any, Any] = getattr(importlib.import_module(module), name)
        return found

    @property
    def title(self) -> str:
        """``flow/deployment``, as Prefect's command line names it."""
        return f"{self.entrypoint.rpartition('.')[2].removesuffix('_flow')}/{self.name}"


def deployables() -> list[Deployable]:
    """All of them, the first to click first."""
    studies = [
        Deployable(name, STUDY, summary(name), {"spec": preset(name)}, timetables=_timetables(name))
        for name in ("smoke", *(name for name in PRESETS if name != "smoke"))
    ]
    compare = Deployable(
        "adapters", COMPARE, "The geometry of adapters that exist: PEFT directories, Hub ids, MLflow runs.", {}
    )
    return [*studies, compare, *_sweeps()]


def _timetables(name: str) -> tuple[Timetable, ...]:
    """Examples of both kinds. A schedule's parameters replace the deployment's whole ``spec``, so they are whole."""
    if name == "tiny":
        return tuple(
            Timetable(f"nightly-seed-{seed}", {"spec": preset(name) | {"seed": seed}}, cron=f"0 2 * * {seed}")
            for seed in NIGHTLY_SEEDS
        )
    if name == "smoke":
        return (Timetable("every-12-hours", {"spec": preset(name)}, interval=CANARY_SECONDS),)
    return ()


def _sweeps() -> list[Deployable]:
    """Each named sweep."""
    found = {name: sweep_preset(name) for name in SWEEPS}
    return [
        Deployable(name, SWEEP, sweep_summary(name), {"spec": spec, "sweep": sweep})
        for name, (spec, sweep) in found.items()
    ]
