"""The studies that a page joins: read from their folders, named apart, and refused where they are no such thing."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from tasks.core.errors import InputError
from tasks.core.sections import flatten
from tasks.reporting.seal import check_sealed
from tasks.reporting.views.join import StudyTables, base_of
from tasks.reporting.views.pairs import Geometry
from tasks.reporting.views.read import NEEDED, read_tables

CLAIMS = "claims.json"
FEWEST = 2
_CLAIM_KEYS = {"id", "statement", "verdict", "measured", "paper_text", "open", "unit", "detail"}
_STUDY_KEYS = ("settings", "runs", "rollouts")


@dataclass(frozen=True, eq=False)
class Study:
    """One finished study. ``label`` is its name on the page; ``source`` how it was given; ``settings`` flattened."""

    label: str
    source: str
    tables: StudyTables
    claims: tuple[Mapping[str, Any], ...]
    settings: Mapping[str, Any]

    @property
    def view(self) -> Geometry:
        return self.tables.geometry

    @property
    def base(self) -> str:
        """The name of the base's row."""
        return base_of(self.tables).run


def study_folder(path: Path) -> Path:
    """The folder of a study that is given as such, or by its report.html or study.json. Raises `InputError`."""
    folder = path.parent if path.name in ("report.html", "report.md", "study.json") and path.is_file() else path
    if not folder.is_dir():
        raise InputError(f"{path}: no such folder; give a study's folder, its report.html, or its MLflow run")
    for name, what in (("compare.json", "a comparison of adapters"), ("many.json", "a page of many studies")):
        if (folder / name).is_file():
            raise InputError(f"{path}: {what}, not a study; give the folders of studies")
    return folder


def read_studies(folders: Sequence[tuple[str, Path]]) -> list[Study]:
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
    read = [(source, folder, *_read(source, folder)) for source, folder in folders]
    labels = _labels([str(tables.study.get("name") or "study") for _, _, tables, _ in read], [f for _, f, _, _ in read])
    studies = [
        Study(label, source, tables, claims, flatten(tables.study["settings"]))
        for label, (source, _, tables, claims) in zip(labels, read, strict=True)
    ]
    for i, study in enumerate(studies):
        for other in studies[:i]:
            if why := _same(other, study):
                raise InputError(
                    f"{study.source}: {why} as {other.source}; a study counts once, so give only one of the two"
                )
    return studies


def _read(source: str, folder: Path) -> tuple[StudyTables, tuple[Mapping[str, Any], ...]]:
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
        tables = read_tables(folder)
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
    return tables, tuple(claims)


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
    ids = [(study.tables.study.get("mlflow") or {}).get("study") for study in (a, b)]
    if ids[0] and ids[0] == ids[1]:
        return "the same MLflow run"
    frames = ("accuracy", "pair_metrics", "spectra")
    equal = all(getattr(a.tables, name).equals(getattr(b.tables, name)) for name in frames)
    measured = any(getattr(a.tables, name).height for name in frames)
    return "the same results to the last digit" if equal and measured else ""
