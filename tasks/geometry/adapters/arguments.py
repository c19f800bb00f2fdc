"""What a person names on the command line of ``colinear compare``: where each adapter is, and what it is called.

Pure but for looking at folders and asking the Hub; MLflow's files come through the function that the caller gives.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tasks.core.errors import InputError
from tasks.core.secrets import without_password
from tasks.core.small_files import expanded
from tasks.core.visible import visible
from tasks.geometry.adapters.other_formats import as_peft
from tasks.geometry.adapters.peft_config import CONFIG
from tasks.geometry.delta import natural

Kind = Literal["folder", "hub", "mlflow"]

MODEL_CONFIG = "config.json"
WITHIN = (".", "adapter", "output/adapter")
"""Where in a given folder the adapter may be: itself, as our studies store it, and as MLflow holds that."""

MLFLOW_URI = re.compile(r"(runs|models|mlflow-artifacts):/.+|[0-9a-f]{32}")
_URI = re.compile(r"[a-z][a-z0-9+.-]*:/.*")
_HUB_ID = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)(?P<subfolder>(/[^/@]+)*)(@(?P<revision>.+))?")
_CHECKPOINT = re.compile(r"checkpoint[-_]?\d+")
_COMMIT = re.compile(r"[0-9a-f]{40}")
LONGEST_LABEL = 200
_NAMELESS = frozenset({"adapter", "output", "artifacts"})
"""Folder names that say nothing of what is in them."""


@dataclass(frozen=True)
class Argument:
    """One adapter as it was named."""

    label: str | None
    """The NAME of ``NAME=ARG``; None where a label has to be found."""
    kind: Kind
    location: str


def parse(argument: str) -> Argument:
    """Read ``ARG`` or ``NAME=ARG``. An argument that is an existing path is that path, whatever is in its name.

    Raises `InputError` for an empty part, a name that does not print, a URI of a kind that is not read or with a
    password in it, and a Hub's or a run's path that leads out of it.
    """
    text = argument.strip()
    label, equals, location = text.partition("=")
    if not equals or "/" in label or os.path.exists(expanded(text)):
        label, location = "", text
    elif not label or not location:
        raise InputError(f"{argument!r}: expected an adapter or NAME=ADAPTER")
    if not location:
        raise InputError("an adapter's name is empty: give a folder, a Hub id or an MLflow URI")
    if not label.isprintable() or len(label) > LONGEST_LABEL:
        raise InputError(f"{argument!r}: a name has at most {LONGEST_LABEL} characters, and they print")
    return Argument(label or None, _kind(location), location)


def _kind(location: str) -> Kind:
    path = expanded(location)
    if os.path.exists(path):
        return "folder"
    if MLFLOW_URI.fullmatch(location):
        if without_password(location) != location:
            raise InputError(f"{location}: a URI is recorded as it is given; leave user and password out of it")
        if ".." in location.split("/"):
            raise InputError(f"{location}: its path leads out of the run; give one within it")
        return "mlflow"
    if _URI.fullmatch(location):
        raise InputError(f"{location}: not a URI that is read; give runs:/, models:/, mlflow-artifacts:/ or a Hub id")
    # Below a folder that is here, a name is a slip of the keyboard, not something to ask the Hub for.
    here = path.is_absolute() or location.startswith((".", "~")) or os.path.isdir(path.parts[0])
    if not here and ".." in location.split("/"):
        raise InputError(f"{location}: its path leads out of the repository; give one within it")
    return "hub" if _HUB_ID.fullmatch(location) and not here else "folder"


# --- labels -----------------------------------------------------------------------------------------------------------


def label_all(arguments: Sequence[Argument], names: Mapping[str, str] | None = None) -> list[str]:
    """A label for each argument: its own, else the shortest tail of its path that no other argument ends in.

    What all end in is left out, as are folder names that say nothing (``sft/adapter`` and ``rft/adapter`` are sft and
    rft); a ``checkpoint-N`` is named with its parent. ``names``: location -> the name that MLflow knows a run by.
    Arguments that cannot be told apart (one adapter given twice) get ``-2``, ``-3``. Raises `InputError` where one
    label is given twice.
    """
    given = [argument.label for argument in arguments if argument.label is not None]
    for label in given:
        if given.count(label) > 1:
            raise InputError(f"label {label!r} is given twice; give each adapter a NAME= of its own")
    paths = [
        tuple(visible(part, LONGEST_LABEL) for part in _parts(argument, names or {}))
        for argument in arguments
        if argument.label is None
    ]
    found = iter(_tails(paths, set(given)))
    return [next(found) if argument.label is None else argument.label for argument in arguments]


def _tails(paths: Sequence[tuple[str, ...]], taken: set[str]) -> list[str]:
    paths = _trimmed(paths)
    labels: list[str] = []
    for path in paths:
        others = [other for other in paths if other != path]
        shortest = 2 if _CHECKPOINT.fullmatch(path[-1]) else 1
        tails = [path[-length:] for length in range(min(shortest, len(path)), len(path) + 1)]
        own = [
            "/".join(tail)
            for tail in tails
            if "/".join(tail) not in taken and all(other[-len(tail) :] != tail for other in others)
        ]
        labels.append(_unique(own[0] if own else "/".join(tails[-1]), taken | set(labels)))
    return labels


def _trimmed(paths: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """The paths without nameless ends, and without the end that all of them share."""
    while True:
        last = {path[-1] for path in paths}
        shared = len(last) == 1 and len(set(paths)) > 1 and all(len(path) > 1 for path in paths)
        shorter = [path[:-1] if shared or (path[-1] in _NAMELESS and len(path) > 1) else path for path in paths]
        if shorter == list(paths):
            return shorter
        paths = shorter


def _unique(label: str, taken: set[str]) -> str:
    numbered = (f"{label}-{number}" for number in range(2, len(taken) + 3))
    return label if label not in taken else next(name for name in numbered if name not in taken)


def _parts(argument: Argument, names: Mapping[str, str]) -> tuple[str, ...]:
    location = argument.location
    if argument.kind == "folder":
        return _named(Path(os.path.abspath(expanded(location))).parts[1:]) or ("/",)
    if argument.kind == "hub":
        path, at, revision = location.partition("@")
        *parents, last = path.split("/")
        return (*parents, last + at + revision)
    scheme, _, rest = location.rpartition(":/")
    parts = [part for part in rest.split("/") if part]
    if scheme == "models":
        return ("-".join(parts),)
    # A run by eight digits of its id, as people quote commits; then the name that tells it from others.
    shortened = [part[:8] if MLFLOW_URI.fullmatch(part) else part for part in parts]
    name = [names[location]] if location in names else []
    return tuple(shortened[:1] + name + shortened[1:] if scheme in ("", "runs") else shortened)


def _named(parts: tuple[str, ...]) -> tuple[str, ...]:
    """A path's parts; in the Hub's cache, which is by commit, the repository's owner and name in their place."""
    for place, (repository, snapshots, commit) in enumerate(zip(parts, parts[1:], parts[2:], strict=False)):
        if repository.startswith("models--") and snapshots == "snapshots" and _COMMIT.fullmatch(commit):
            return (*parts[:place], *repository.removeprefix("models--").split("--"), *parts[place + 3 :])
    return tuple(part.removesuffix(".safetensors") for part in parts)


# --- folders ----------------------------------------------------------------------------------------------------------


def locate(argument: Argument, download: Callable[[str, Path], Path], scratch: Path) -> Path:
    """The folder of an argument's adapter (``adapter_config.json``) or whole model (``config.json``), absolute.

    ``download(uri, scratch)`` gives the folder of an MLflow URI. From the Hub only \\*.json and \\*.safetensors of the
    one folder are fetched. An adapter that MLX, kohya's scripts or diffusers saved is written into ``scratch`` as PEFT
    would have saved it. Raises `InputError`: no such folder, nothing to compare in it, a Hub that does not have it.
    """
    location = argument.location
    if argument.kind == "mlflow":
        folder = download(location, scratch)
    elif argument.kind == "hub":
        folder = _from_hub(location)
    else:
        folder = expanded(location)
        if os.path.isfile(folder) and folder.suffix != ".safetensors":
            raise InputError(f"{location} is a file; give the directory that PEFT saved")
        if not os.path.exists(folder):
            raise InputError(f"{location}: no such folder; a Hub id is owner/name")
    for name in WITHIN:
        if (converted := as_peft(folder / name, scratch)) is not None:
            return converted
        if (folder / name / CONFIG).is_file():
            return Path(os.path.abspath(folder / name))
    if not (folder / MODEL_CONFIG).is_file():
        below = ", ".join(str(found) for found in _below(folder))
        raise InputError(
            f"{location}: neither {CONFIG} (a PEFT adapter) nor {MODEL_CONFIG} (a whole model) in it"
            + (f"; give one of the adapters below it: {below}" if below else "")
        )
    return folder.absolute()


def _below(folder: Path, most: int = 5) -> list[Path]:
    """The first folders up to two levels below that hold an adapter: a trainer's checkpoints, a sweep's runs."""
    found = {path.parent for depth in ("*", "*/*") for path in folder.glob(f"{depth}/{CONFIG}")}
    return sorted(found, key=lambda path: natural(".".join(re.split(r"(\d+)", str(path)))))[:most]


def is_model(folder: Path) -> bool:
    """Whether a located folder is a whole model, whose update only its base tells."""
    return not (folder / CONFIG).is_file()


def _from_hub(location: str) -> Path:
    match = _HUB_ID.fullmatch(location)
    assert match is not None  # or `parse` had called it a folder
    below = match["subfolder"].removeprefix("/")
    prefix = f"{below}/" if below else ""
    from huggingface_hub import snapshot_download

    try:
        snapshot = snapshot_download(
            match["repository"],
            revision=match["revision"],
            allow_patterns=[f"{prefix}*.json", f"{prefix}*.safetensors"],
            ignore_patterns=[f"{prefix}*/*"],  # its * matches / as well: checkpoints below would come along
        )
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{location!r} is neither a folder here nor to be had from the Hub: {reason}") from error
    folder = Path(snapshot) / below
    if not folder.is_dir():
        raise InputError(f"{location}: the Hub's {match['repository']} has no folder {below!r}")
    return folder
