"""``colinear presets``: the named studies and sweeps, a line each; in a terminal no line is longer than it is wide."""

from __future__ import annotations

import shutil
import sys
import textwrap


def run() -> int:
    """Print them."""
    from tasks.settings import presets, sweep_presets

    studies = {name: presets.summary(name) for name in presets.PRESETS}
    sweeps = {name: sweep_presets.summary(name) for name in sweep_presets.SWEEPS}
    first = max(map(len, [*studies, *sweeps])) + 4
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize
    for title, listed in (("Studies: colinear study NAME", studies), ("\nSweeps: colinear sweep NAME", sweeps)):
        print(title)
        for name, summary in listed.items():
            print(
                textwrap.fill(summary, columns, initial_indent=f"  {name}".ljust(first), subsequent_indent=" " * first)
            )
    return 0
