"""``colinear report``: several studies, or the cells of a sweep, on one page."""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

EXAMPLES = """a RUN is a finished study: its folder, its report.html, or its MLflow run (runs:/ID or the bare id).

examples:
  colinear report runs/tiny-a runs/tiny-b            two seeds on one page
  colinear report runs/sweep-*/ --out report         every cell of a sweep
  colinear report runs:/0f3c...e1 runs/tiny-b        by MLflow run
"""


def add_report(commands: Any) -> None:
    """Add the subcommand to ``argparse``'s subparsers."""
    report = commands.add_parser(
        "report",
        help="join several studies into one page",
        description="Join two or more finished studies (seeds, learning rates, a sweep) into one self-contained page.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    report.add_argument("studies", nargs="*", metavar="RUN", help="two or more finished studies, see below")
    report.add_argument("--out", metavar="DIR", help="folder of the page (default: under runs/)")
    report.add_argument(
        "--no-across",
        action="store_true",
        help="do not compare adapters of different studies (by default: where they share a base and are in this store)",
    )
    report.set_defaults(run=_report)


def _report(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from flows.cli.commands import quiet
    from flows.many_studies import across, locate
    from tasks.core import home
    from tasks.core.visible import dated_folder
    from tasks.planning.preflight import check_out
    from tasks.reporting.many.joined import join
    from tasks.reporting.many.studies import read_studies
    from tasks.reporting.many.write import write_many

    quiet()
    began = time.monotonic()
    out = Path(arguments.out) if arguments.out else dated_folder("report")
    check_out(out)
    console = Console(soft_wrap=True)
    with tempfile.TemporaryDirectory(prefix="report-", dir=home.subfolder("staging")) as scratch:
        studies = read_studies(locate(arguments.studies, Path(scratch)))
    many = join(studies)
    console.print(
        f"[bold]colinear report[/] {len(studies)} studies, {len(many.distinct)} distinct trainings", highlight=False
    )
    if arguments.no_across:
        measured, why = None, "Trainings of different studies were not compared: --no-across."
    else:
        with console.status("comparing adapters across studies"):
            measured, why = across(many)
    page, *_ = write_many(many, out, measured, why)
    for line in _said(page.parent):
        console.print(line, highlight=False, markup=False)
    console.print(f"\n{time.monotonic() - began:.0f} s\nreport: {page}", highlight=False, markup=False)
    return 0


def _said(folder: Path) -> list[str]:
    """Warnings and headline of the page, for the terminal."""
    import json

    record = json.loads((folder / "many.json").read_text(encoding="utf-8"))
    return ["", *(f"! {text}" for text in record["warnings"]), *(f"- {text}" for text in record["headline"])]
