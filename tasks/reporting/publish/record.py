"""What a study says about itself: versions, commit, machine. Everything that is not a measurement."""

from __future__ import annotations

import os
import subprocess
from importlib import metadata
from pathlib import Path

PACKAGES: tuple[str, ...] = (
    "colinear",
    "torch",
    "transformers",
    "trl",
    "peft",
    "datasets",
    "prefect",
    "mlflow",
    "polars",
    "scipy",
)
PACKAGES += ("math-verify", "numpy", "safetensors")


def versions() -> dict[str, str]:
    """Installed versions of the packages that decide numbers."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def commit() -> str | None:
    """The source's commit, with ``+changes`` where the working tree differs.

    Outside a git checkout what an image was told when it was built (``$COLINEAR_COMMIT``), else None.
    """
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists():
        return os.environ.get("COLINEAR_COMMIT") or None
    try:
        head = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        changed = subprocess.run(
            ["git", "-C", str(root), "status", "--porcelain", "--untracked-files=no"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("+changes" if changed else "")
