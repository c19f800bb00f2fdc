"""``colinear inspect``: did an adapter train, what did it touch, and is anything wrong with the file."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tasks.geometry.inspection import Inspected

SEVERITIES = ("error", "warning", "info")


def run(adapters: Sequence[str], base: str | None, *, as_json: bool, fail_on: str | None) -> int:
    """Look into each adapter; the exit code is 1 where one has a finding as grave as ``fail_on`` or graver."""
    from tasks.core import home
    from tasks.core.errors import InputError
    from tasks.geometry.adapters.arguments import label_all, locate, parse
    from tasks.geometry.adapters.checkpoint import Checkpoint
    from tasks.geometry.inspection import inspect_all
    from tasks.models.external import locate as locate_base
    from tasks.storage.recorded import fetch

    if fail_on is not None and fail_on not in SEVERITIES:
        raise InputError(f"--fail-on {fail_on}: one of {', '.join(SEVERITIES)}")
    if not adapters:
        raise InputError("no adapter: give a folder that PEFT saved, a Hub id or an MLflow run's adapter")
    arguments = [parse(argument) for argument in adapters]
    with tempfile.TemporaryDirectory(prefix="inspect-", dir=home.subfolder("staging")) as scratch:
        folders = [locate(argument, fetch, Path(scratch)) for argument in arguments]
        weights = Checkpoint(locate_base(base, "--base")) if base is not None else None
        found = inspect_all(list(zip(label_all(arguments), folders, strict=True)), weights)
    if as_json:
        print(json.dumps([one.as_json() for one in found], indent=1, ensure_ascii=False, allow_nan=False))
    else:
        for one in found:
            _show(one)
    grave = SEVERITIES[: SEVERITIES.index(fail_on) + 1] if fail_on else ()
    return int(any(one.worst in grave for one in found))


def _show(one: Inspected) -> None:
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from tasks.core.visible import visible

    console = Console(highlight=False, soft_wrap=True)
    adapter, base = (escape(visible(name)) for name in (one.adapter, one.base or "not named"))
    about = f"{one.modules} modules in {one.layers} layers, {one.parameters:,} parameters, {one.dtype}"
    console.print(f"[bold]{adapter}[/]  {about}; base: {base}")
    if one.norm is not None:
        beside = "no --base to hold it against" if one.of_base is None else f"{one.of_base:.2e} of the base's weights"
        moved = "" if one.b_of_a is None else f"; |lora_B| is {one.b_of_a:.3g} of |lora_A|"
        console.print(f"norm of the update {one.norm:.4g} ({beside}){moved}")
    if one.kinds:
        table = Table("kind", box=box.SIMPLE_HEAD)
        for title in ("modules", "layers", "rank", "norm", "of base", "effective rank", "stable rank"):
            table.add_column(title, justify="right")
        for kind in one.kinds:
            of_base = "-" if kind.of_base is None else f"{kind.of_base:.2e}"
            ranks = ("-" if value is None else f"{value:.2f}" for value in (kind.effective_rank, kind.stable_rank))
            counted = (str(kind.modules), kind.layers or "-", str(kind.rank), f"{kind.norm:.4g}", of_base)
            table.add_row(escape(visible(kind.projection)), *counted, *ranks)
        console.print(table)
    colours = {"error": "red", "warning": "yellow", "info": "blue"}
    for finding in one.findings:
        console.print(f"[{colours[finding.severity]}]{finding.severity}[/] {finding.code}: ", end="")
        console.print(finding.said, markup=False, soft_wrap=True)
    if not one.findings:
        console.print("[green]ok[/] nothing was found")
    console.print()
