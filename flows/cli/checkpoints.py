"""``colinear compare RUN``: the checkpoints of one training as a trajectory."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from tasks.geometry.trajectory import Trajectory


def training_folder(adapters: Sequence[str]) -> Path | None:
    """The folder of checkpoints that a person named alone; None where something else was named."""
    from tasks.core.small_files import expanded
    from tasks.geometry.trajectory import find_checkpoints

    folder = expanded(adapters[0]) if len(adapters) == 1 else None
    return folder if folder is not None and folder.is_dir() and find_checkpoints(folder) else None


def run(folder: Path, base: str | None, ks: Sequence[int], out: str | None) -> int:
    """Measure, write the page, print the table. Neither Prefect nor MLflow is used."""
    from rich.console import Console

    from flows.cli.terminal import StudyDisplay
    from tasks.core.events import Event, emit, listening
    from tasks.core.visible import dated_folder, visible
    from tasks.geometry.trajectory import read_trajectory
    from tasks.models.external import locate
    from tasks.reporting.files import check_out
    from tasks.reporting.publish.trajectory import write_trajectory

    to = Path(out) if out else dated_folder("trajectory")
    check_out(to)
    weights = locate(base, "--base") if base is not None else None
    console, began = Console(soft_wrap=True), time.monotonic()
    display = StudyDisplay(console)

    def tell(done: int, total: int, note: str = "") -> None:
        emit(Event("progress", name, done=done, total=total, note=note))

    name = f"trajectory {visible(folder.name)}"
    with display, listening(display):
        emit(Event("start", name))
        found = read_trajectory(folder, ks, weights, tell)
        emit(Event("done", name, seconds=time.monotonic() - began))
    page = write_trajectory(visible(folder.resolve().name), found.as_json(), to)[0]
    _show(found, console)
    console.print(f"\nreport: {page}", highlight=False, markup=False)
    return 0


def _show(found: Trajectory, console: Console) -> None:
    from tasks.reporting.publish.trajectory import sentences, trajectory_table
    from tasks.reporting.render.terminal import grid

    record = found.as_json()
    rows, locks = record["checkpoints"], record["locks"]
    console.print()
    for sentence in sentences(rows, locks):
        console.print(f"- {sentence}", highlight=False, markup=False)
    titles = ("step", "norm", "cos last", "turn °", "rank-1 %", *(f"top-{k}" for k in found.ks))
    cells = ([cell.text for cell in row] for row in trajectory_table(rows, locks).rows)
    console.print()
    console.print(grid(titles, cells, words=()))
    console.print(
        "turn: angle to the checkpoint before. top-k: overlap of the output subspaces with the last checkpoint's.",
        style="dim", highlight=False,
    )  # fmt: skip
