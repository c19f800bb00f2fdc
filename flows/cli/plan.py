"""``colinear study --dry-run``: print what the study would take, and why it could not start here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tasks.core.errors import InputError

if TYPE_CHECKING:
    from tasks.settings.study import StudySpec


def dry_run(
    spec: StudySpec, out: Path | None, *, on: str | None, tflops: float | None, completion: float | None
) -> int:
    """Print the plan. Raises `InputError` after it where this machine, or the one named with --on, cannot run it.

    Args:
        on: GPUs that are not here, like ``8xH100``.
        tflops: peak of a device in matrix products, as the user measured it.
        completion: mean tokens of a completion.
    """
    from rich.console import Console

    from flows.cli.plan_tables import plan_renderable
    from tasks.planning.cached import known
    from tasks.planning.machine import here, named, with_peak
    from tasks.planning.plan import is_light, plan_study

    for option, value in (("--tflops", tflops), ("--tokens", completion)):
        if value is not None and not 0 < value < 1e9:
            raise InputError(f"{option}: expected a number above 0, got {value:g}")
    machine = with_peak(named(on) if on else here(light=is_light(spec)), tflops)
    plan = plan_study(spec, machine, completion)
    Console(soft_wrap=True).print(plan_renderable(plan, known(spec)))
    for refusal in plan.refusals:
        raise InputError(refusal)
    if machine.local:
        _check_rest(spec, out)
    return 0


def _check_rest(spec: StudySpec, out: Path | None) -> None:
    """What else can be refused without asking anybody: the output folder, and an endpoint's missing key."""
    from tasks.engines.endpoint import read_key
    from tasks.reporting.files import check_out

    if out is not None:
        check_out(out)
    if spec.rollouts.problems is not None and spec.rollouts.engine == "openai":
        read_key(spec.rollouts.key_env)
