"""``colinear compare``: adapters that exist already, as a Prefect flow or, with ``--plain``, as a plain function."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import polars as pl
    from rich.console import Console

    from flows.comparison import Request

EXAMPLES = """an ADAPTER is a PEFT directory, a model directory (a full fine-tune; needs --base), a Hub id
(owner/name[/folder][@revision]), an MLflow run id, or a URI (runs:/ID[/path], models:/name/version,
mlflow-artifacts:/...). NAME=ADAPTER gives it a name; otherwise it gets the end of its path.

examples:
  colinear compare sft/adapter rft/adapter dpo/adapter
  colinear compare ours=out/final theirs=owner/name --reference ours
  colinear compare sft sft-again dpo --twin sft=sft-again     a noise floor: one method, trained twice
  colinear compare sft tuned-model --base owner/base          whole models, and what compares to the base
  colinear compare 0f3c...e1 runs:/77aa...02/adapter          adapters of MLflow runs
  colinear compare a b --plain --out report                   without Prefect and MLflow, for scripts
"""


def add_compare(commands: Any) -> None:
    """Add the subcommand to ``argparse``'s subparsers."""
    compare = commands.add_parser(
        "compare",
        help="compare adapters that exist already",
        description="Compare the weight updates of two or more adapters, every pair of them.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    compare.add_argument("adapters", nargs="*", metavar="ADAPTER", help="two or more, see below")
    compare.add_argument(
        "--base", metavar="MODEL", help="directory, Hub id or GGUF file of the model they were trained from"
    )
    compare.add_argument("--reference", metavar="NAME", help="the adapter to hold others against (default: the first)")
    compare.add_argument(
        "--twin", action="append", default=[], metavar="A=B", dest="twins", help="B is A's method trained again"
    )
    compare.add_argument("--k", default="1,5,10", metavar="K,K,...", help="subspace dimensions (default: 1,5,10)")
    compare.add_argument("--out", metavar="DIR", help="folder of the report (default: under runs/)")
    compare.add_argument("--plain", action="store_true", help="neither Prefect nor MLflow: a fast start, no record")
    compare.set_defaults(run=_compare)


def _compare(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from flows.cli.commands import quiet
    from flows.cli.terminal import StudyDisplay
    from flows.comparison import resolve
    from tasks.core.events import listening

    quiet()
    console = Console(soft_wrap=True)
    with StudyDisplay(console) as display, listening(display):
        asked = resolve(
            arguments.adapters, arguments.base, arguments.reference, arguments.twins, _dimensions(arguments.k),
            arguments.out, arguments.plain,
        )  # fmt: skip
    console.print(f"[bold]colinear compare[/] {len(asked.adapters)} adapters", highlight=False)
    began = time.monotonic()
    if arguments.plain:
        page, hit = _plain(asked, console), False
    else:
        page, hit = _flow(arguments, asked, console)
    return _show(asked, page, hit, time.monotonic() - began, console)


def _dimensions(text: str) -> list[int]:
    from tasks.core.contracts import InputError

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
    return write(asked, frames, found.notes)[0]


def _flow(arguments: argparse.Namespace, asked: Request, console: Console) -> tuple[Path, bool]:
    from flows.cli.commands import run_flow
    from flows.compare_flow import compare_flow

    outcome = run_flow(
        lambda: compare_flow(
            arguments.adapters, arguments.base, arguments.reference, tuple(arguments.twins), asked.ks, str(asked.out)
        ),
        console,
    )
    return Path(outcome.page), outcome.hit


def _show(asked: Request, page: Path, hit: bool, seconds: float, console: Console) -> int:
    from flows.comparison import read_frames
    from tasks.reporting.render.terminal import comparison_renderable

    console.print()
    console.print(comparison_renderable(read_frames(page.parent), asked.reference))
    how = "found in the cache" if hit else "computed"
    console.print(f"\n{how}, {seconds:.0f} s\nreport: {page}", highlight=False, markup=False)
    return 0
