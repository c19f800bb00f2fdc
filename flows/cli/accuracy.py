"""``colinear accuracy``: paired statistics on item-level logs that other tools wrote."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tasks.evaluation.logs import Columns
    from tasks.evaluation.paired import Compared


def run(logs: Sequence[str], columns: Columns, *, margin: float, as_json: bool, folder: str | None) -> int:
    """Read ``logs``, compare every pair of models, print or write what is found."""
    from tasks.evaluation.logs import read_logs
    from tasks.evaluation.paired import compare_logs
    from tasks.reporting.files import check_out

    if folder is not None:
        check_out(Path(folder))
    found = compare_logs([log for argument in logs for log in read_logs(argument, columns)], margin)
    if folder is not None:
        _write(found, Path(folder))
    if as_json:
        print(json.dumps(found.as_json(), indent=1, ensure_ascii=False))
        return 0
    _show(found)
    if folder is not None:
        print(f"\nreport: {Path(folder) / 'report.html'} (beside it report.md, accuracy.json, parquet and CSV)")
    return 0


def _write(found: Compared, folder: Path) -> None:
    from tasks.reporting.publish.logs import write_logs

    frames = found.model_frame, found.pair_frame
    write_logs(*frames, found.margin, found.as_json(), folder, found.notes, found.warnings)


def _show(found: Compared) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from tasks.core.results import NO_POWER
    from tasks.core.visible import visible
    from tasks.reporting.findings.logs import answer
    from tasks.reporting.formats import p_value

    console = Console(highlight=False)
    console.print(visible(answer(found.pair_frame, found.margin), 2000), markup=False, style="bold")
    for warning in found.warnings:
        console.print(f"! {visible(warning, 400)}", markup=False, style="yellow")
    several = any(model.k > 1 for model in found.models)
    models = Table("model", box=box.SIMPLE_HEAD)
    for title in ("n", "accuracy %", "95 % interval", *(["samples", "pass@k %"] if several else [])):
        models.add_column(title, justify="right")
    for one in sorted(found.models, key=lambda model: -model.accuracy):
        more = [str(one.k), f"{one.pass_at_k:.1f}"] if several else []
        cells = (str(one.n), f"{one.accuracy:.1f}", f"{one.low:.1f} to {one.high:.1f}", *more)
        models.add_row(visible(one.model), *cells)
    console.print(models)
    pairs = Table(box=box.SIMPLE_HEAD)
    pairs.add_column("a ~ b", overflow="fold")
    for title in ("only a / b", "a - b, points [95 %]", "p (Holm)"):
        pairs.add_column(title, justify="right", no_wrap=True)
    pairs.add_column("verdict", no_wrap=True)
    for pair in found.pairs:
        unseen = f" below {pair.detectable:.1f}" if pair.verdict == NO_POWER and pair.detectable is not None else ""
        pairs.add_row(
            f"{visible(pair.a)} ~ {visible(pair.b)}", f"{pair.only_a} / {pair.only_b}",
            f"{pair.difference:+.1f} [{pair.low:+.1f}, {pair.high:+.1f}]".replace("[", r"\["), p_value(pair.p_holm),
            pair.verdict.removesuffix(" points") + unseen,
        )  # fmt: skip
    console.print(pairs)
    console.print(
        f"p: exact McNemar (sign flips where problems were sampled), Holm over {len(found.pairs)} pairs; equal: the "
        f"interval lies within {found.margin:g} points; no power below: a true difference of fewer points is mostly "
        "missed.",
        style="dim",
    )
    for note in found.notes:
        console.print(f"- {visible(note, 400)}", markup=False)
