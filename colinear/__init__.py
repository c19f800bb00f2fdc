"""The `colinear` command's first module: it looks whether the packages that follow are ours before one is imported.

Their names are plain ones (`tasks`, `flows`), so a file of that name in the working folder or on PYTHONPATH hides them.
"""

from __future__ import annotations

import sys
from importlib.machinery import PathFinder
from pathlib import Path

OURS = ("flows", "tasks", "deployments")


def hidden() -> str:
    """What hides a package of ours, in one line; empty where nothing does."""
    root = Path(__file__).resolve().parents[1]
    for name in OURS:
        found = PathFinder.find_spec(name)
        if found is None:  # an editable installation may have finders of its own, which come last
            continue
        places = list(found.submodule_search_locations or [])
        first = Path(found.origin or (places[0] if places else root / name))
        if first.resolve() not in (root / name, root / name / "__init__.py"):
            return (
                f"{first} hides colinear's own package `{name}`: take its folder off PYTHONPATH, rename it, or run "
                "from another folder"
            )
    return ""


def main() -> int:
    """Run the command; returns its exit code."""
    if said := hidden():
        print(f"colinear: {said}", file=sys.stderr)
        return 2
    from flows.cli.main import main as run

    return run()
