"""The studies that a page joins: read from their folders, named apart, and refused where they are no such thing."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from tasks.core.errors import InputError
from tasks.core.sections import flatten
from tasks.reporting.files import check_sealed
from tasks.reporting.views.read import NEEDED, read_study
from tasks.reporting.views.study import Study

CLAIMS = "claims.json"
FEWEST = 2
_CLAIM_KEYS = {"id", "statement", "verdict", "measured", "paper_text", "open", "unit", "detail"}
_STUDY_KEYS = ("settings", "runs", "rollouts")


@dataclass(frozen=True, eq=False)
class NamedStudy(Study):
    """One finished study of several: ``label`` is its name on the page, ``source`` how it was given, ``claims`` its
    claims.json."""

    label: str = ""
    source: str = ""
    claims: tuple[Mapping[str, Any], ...] = ()

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Flattened, as ``--set`` takes them."""
        return flatten(self.record["settings"])


def study_folder(path: Path) -> Path:
    """The folder of a study that is given as such, or by its report.html or study.json. Raises `InputError`."""
    folder = path.parent if path.name in ("report.html", "report.md", "study.json") and path.is_file() else path
    if not folder.is_dir():
        raise InputError(f"{path}: no such folder; give a study's folder, its report.html, or its MLflow run")
    for name, what in (("compare.json", "a comparison of adapters"), ("many.json", "a page of many studies")):
        if (folder / name).is_file():
            raise InputError(f"{path}: {what}, not a study; give the folders of studies")
    return folder


def read_studies(folders: Sequence[tuple[str, Path]]) -> list[NamedStudy]:
    """Read (source, folder) pairs, two or more, in their order.

    Raises `InputError` in one line: fewer than two, a folder that is no finished study or was written by another
    version, a file that cannot be read, and a study that is given twice (the same folder, MLflow run, or results).
    """
    if len(folders) < FEWEST:
        raise InputError(
            f"RUN: {len(folders)} study given; a page of many takes two or more (one study has its own report.html)"
        )
    places: dict[Path, str] = {}
    for source, folder in folders:
        replicate = places.setdefault(folder.resolve(), source)
        if replicate is not source:
            raise InputError(f"{source}: the same study as {replicate}; give each study once")
    read = [_read(source, folder) for source, folder in folders]
    labels = _labels([study.name for study in read], [folder for _, folder in folders])
    studies = [replace(study, label=label) for study, label in zip(read, labels, strict=True)]
    for i, study in enumerate(studies):
        for other in studies[:i]:
            if why := _same(other, study):
                raise InputError(
                    f"{study.source}: {why} as {other.source}; a study counts once, so give only one of the two"
                )
    return studies


def _read(source: str, folder: Path) -> NamedStudy:
    older = "it was written by another version of colinear; run the study again, which recomputes only its report"
    _check(source, folder)
    if (folder / "study.json").is_file():
        absent = [name for name in (CLAIMS, *NEEDED) if not (folder / name).is_file()]
        if absent:
            raise InputError(f"{source}: {', '.join(absent)} missing: {older}")
    try:
        record = json.loads((folder / "study.json").read_bytes()) if (folder / "study.json").is_file() else {}
        if record and (missing := [key for key in _STUDY_KEYS if key not in record]):
            raise InputError(f"{source}: study.json lacks {', '.join(missing)}: {older}")
        study = read_study(folder)
        claims = json.loads((folder / CLAIMS).read_bytes())
    except InputError as error:
        text = str(error)
        said = text if text.startswith((source, str(folder))) else f"{source}: {text}: {older}"
        raise InputError(said) from None
    except (pl.exceptions.PolarsError, OSError) as error:
        raise InputError(
            f"{source}: a parquet file cannot be read ({_first_line(error)}); run the study again"
        ) from None
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise InputError(
            f"{source}: study.json or {CLAIMS} is damaged ({_first_line(error)}); run the study again"
        ) from None
    if not isinstance(claims, list) or any(not isinstance(one, dict) or _CLAIM_KEYS - one.keys() for one in claims):
        raise InputError(f"{source}: {CLAIMS}: {older}")
    own = {one.name: getattr(study, one.name) for one in fields(study)}
    return NamedStudy(**own, source=source, claims=tuple(claims))


def _check(source: str, folder: Path) -> None:
    """Raise `InputError` where files of the folder are not as they were written."""
    try:
        record = json.loads((folder / "study.json").read_bytes())
    except (OSError, ValueError, RecursionError):  # said by what reads it for its contents
        return
    if isinstance(record, dict):
        try:
            check_sealed(folder, record)
        except InputError as error:
            raise InputError(str(error).replace(str(folder), source, 1)) from None


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def _labels(names: Sequence[str], folders: Sequence[Path]) -> list[str]:
    """The studies' names where they tell them apart, else their folders' names, else numbered."""
    for labels in (list(names), [folder.resolve().name for folder in folders]):
        if len(set(labels)) == len(labels):
            return labels
    seen: Counter[str] = Counter()
    numbered = []
    for name in names:
        seen[name] += 1
        numbered.append(f"{name} #{seen[name]}")
    return numbered


def _same(a: Study, b: Study) -> str:
    """Why two studies are one; empty where they are not. A study that was run again out of the cache has the same
    numbers under another MLflow run: counted twice they would look like agreement."""
    ids = [(study.record.get("mlflow") or {}).get("study") for study in (a, b)]
    if ids[0] and ids[0] == ids[1]:
        return "the same MLflow run"
    frames = ("accuracy", "pair_metrics", "spectra")
    equal = all(getattr(a, name).equals(getattr(b, name)) for name in frames)
    measured = any(getattr(a, name).height for name in frames)
    return "the same results to the last digit" if equal and measured else ""
