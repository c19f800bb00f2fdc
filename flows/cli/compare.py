"""``colinear compare``: adapters that exist already, as a Prefect flow or, with ``--plain``, as a plain function."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl
    from rich.console import Console

    from flows.comparison import Request


def run(
    adapters: Sequence[str],
    base: str | None,
    reference: str | None,
    replicates: Sequence[str],
    dimensions: str,
    out: str | None,
    *,
    plain: bool,
    texts: str | None = None,
    merge: bool = False,
) -> int:
    """Compare adapters."""
    from rich.console import Console

    from flows.cli import checkpoints
    from flows.cli.commands import quiet
    from flows.cli.terminal import StudyDisplay
    from flows.comparison import resolve
    from tasks.core.errors import InputError
    from tasks.core.events import listening
    from tasks.reporting.charts.svg import start_engine

    quiet()
    start_engine()
    if (training := checkpoints.training_folder(adapters)) is not None:
        if reference is not None or replicates or texts is not None or merge:
            raise InputError(
                "--reference, --replicate, --texts and --merge are for adapters; a training's checkpoints have no such"
            )
        return checkpoints.run(training, base, _dimensions(dimensions), out)
    console = Console(soft_wrap=True)
    with StudyDisplay(console) as display, listening(display):
        asked = resolve(adapters, base, reference, replicates, _dimensions(dimensions), out, plain, texts, merge)
    console.print(f"[bold]colinear compare[/] {len(asked.adapters)} adapters", highlight=False)
    began = time.monotonic()
    if plain:
        page, hit = _plain(asked, console), False
    else:
        from flows.cli.commands import run_flow
        from flows.compare_flow import compare_flow

        outcome = run_flow(
            lambda: compare_flow(
                list(adapters), base, reference, tuple(replicates), asked.ks, str(asked.out), texts, merge
            ),
            console,
        )
        page, hit = Path(outcome.page), outcome.hit
    return _show(asked, page, hit, time.monotonic() - began, console)


def _dimensions(text: str) -> list[int]:
    from tasks.core.errors import InputError

    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) for part in parts):
        raise InputError(f"--k: expected whole numbers of at least 1, such as 1,5,10; got {text!r}")
    return [int(part) for part in parts]


def _plain(asked: Request, console: Console) -> Path:
    from flows.cli.terminal import StudyDisplay
    from flows.comparison import write
    from tasks.core.events import Event, emit, listening
    from tasks.geometry.compare import FRAMES, compare
    from tasks.geometry.paths.rate import with_rate

    name = f"compare {asked.title}"

    def tell(done: int, total: int, note: str = "") -> None:
        if total:
            emit(Event("progress", name, done=done, total=total, note=note))

    display, began = StudyDisplay(console), time.monotonic()
    with display, listening(display), tempfile.TemporaryDirectory(prefix="colinear-") as scratch:
        emit(Event("start", name))
        found = compare(asked.adapters, asked.ks, asked.base, Path(scratch), with_rate(tell, "modules"))
        emit(Event("done", name, seconds=time.monotonic() - began))
    frames: Mapping[str, pl.DataFrame] = {frame: getattr(found, frame) for frame in FRAMES}
    notes: Sequence[str] = found.notes
    if asked.texts is not None:
        with StudyDisplay(console) as display, listening(display):
            frames, notes = _weighted(asked, frames, notes)
    if asked.merge:
        with StudyDisplay(console) as display, listening(display):
            frames = {**frames, **_merged(asked)}
    return write(asked, frames, notes)[0]


def _merged(asked: Request) -> dict[str, pl.DataFrame]:
    """What merges would do; with texts their losses, measured in a worker process."""
    from flows.comparison import merge_frames
    from tasks.core import home
    from tasks.core.events import Event, emit
    from tasks.core.results import LocalBase
    from tasks.geometry.merge_losses import measure_merges
    from tasks.workers.devices import run_pinned

    if asked.texts is None or asked.base is None:
        return merge_frames(asked, None)
    name, began = "losses of the merges", time.monotonic()

    def tell(done: int, total: int, note: str = "") -> None:
        if total:
            emit(Event("progress", name, done=done, total=total, note=note))

    emit(Event("start", name))
    with tempfile.TemporaryDirectory(prefix="colinear-") as scratch:
        out = Path(scratch)
        work = {"base": LocalBase(asked.base), "texts": asked.texts, "adapters": asked.merged, "out": out}
        run_pinned(measure_merges, work, log=home.subfolder("logs") / "merges.log", progress=tell)
        found = merge_frames(asked, out)
    emit(Event("done", name, seconds=time.monotonic() - began))
    return found


def _weighted(
    asked: Request, frames: Mapping[str, pl.DataFrame], notes: Sequence[str]
) -> tuple[Mapping[str, pl.DataFrame], Sequence[str]]:
    """The second moments in a worker process, the activation-weighted cosine in this one."""
    from flows.comparison import modules_of, with_weighted
    from tasks.core import home
    from tasks.core.events import Event, emit
    from tasks.core.results import LocalBase
    from tasks.geometry.activations.measure import measure_moments
    from tasks.geometry.activations.moments import read_moments
    from tasks.geometry.compare import weigh
    from tasks.workers.devices import run_pinned

    assert asked.base is not None
    name, began = "activation-weighted cosine", time.monotonic()
    emit(Event("start", name))
    with tempfile.TemporaryDirectory(prefix="colinear-") as scratch:
        folder = Path(scratch)
        work = {"base": LocalBase(asked.base), "targets": modules_of(frames), "texts": asked.texts, "out": folder}
        summary = run_pinned(measure_moments, work, log=home.subfolder("logs") / "moments.log")
        weighted = weigh(asked.adapters, asked.base, read_moments(folder), folder)
    emit(Event("done", name, seconds=time.monotonic() - began))
    return with_weighted(frames, notes, weighted, summary)


def _show(asked: Request, page: Path, hit: bool, seconds: float, console: Console) -> int:
    from flows.comparison import read_frames
    from tasks.reporting.render.terminal import comparison_renderable

    console.print()
    console.print(comparison_renderable(read_frames(page.parent), asked.reference))
    how = "found in the cache" if hit else "computed"
    console.print(f"\n{how}, {seconds:.0f} s\nreport: {page}", highlight=False, markup=False)
    return 0
