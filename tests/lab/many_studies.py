"""Made-up studies on disk that a page can join: as `tests.unit.reporting.conftest.make_study`, with seeds and rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import polars as pl

from tasks.core.results import RunInfo
from tasks.reporting.claims.output import claims_json
from tasks.reporting.claims.paper import claims_table
from tasks.reporting.files import json_text, parquet, write_files
from tasks.reporting.views.study import Study
from tests.unit.reporting.conftest import make_study

SETTINGS: dict[str, Any] = {
    "name": "tiny",
    "seed": 0,
    "data_seed": None,
    "methods": ["sft", "rft", "dpo"],
    "model": {"base": "tiny"},
    "tiny": {"seed": 0, "hidden": 128},
    "rollouts": {"k": 4, "seed": 0},
    "lora": {"r": 8},
    "train": {"lr": 1e-3, "steps": 80},
    "sft": {"lr_ratio": 1.0},
    "rft": {"lr_ratio": 1.0, "distinct": False},
    "dpo": {"lr_ratio": 0.1, "beta": 0.1},
}


def runs_of(seed: int = 0, lr: float = 1e-3, ratio: float = 0.1, replicate: bool = True) -> list[RunInfo]:
    """The base, three methods and SFT in another order of the data."""
    runs = [
        RunInfo("base", "base", 0, 0, 0.0),
        RunInfo("sft", "sft", seed, seed, lr),
        RunInfo("rft", "rft", seed, seed, lr),
        RunInfo("dpo", "dpo", seed, seed, lr * ratio),
    ]
    return [*runs, *([RunInfo(f"sft-order{seed + 1}", "sft", seed, seed + 1, lr)] if replicate else [])]


def changed(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``settings`` with ``section.key`` -> value put in."""
    result = {key: dict(value) if isinstance(value, dict) else value for key, value in settings.items()}
    for key, value in changes.items():
        section, _, name = key.rpartition(".")
        (result[section] if section else result)[name] = value
    return result


def made(
    name: str,
    runs: Sequence[RunInfo] | None = None,
    *,
    norms: Mapping[str, float] | None = None,
    cosines: Mapping[tuple[str, str], float] | None = None,
    mlflow: Mapping[str, str] | None = None,
    base_shift: float = 0.0,
    settings: Mapping[str, Any] | None = None,
) -> Study:
    """A study called ``name``. ``norms``: run -> norm of its update; ``cosines``: pair -> global cosine;
    ``base_shift``: added to the base's answer losses, which can make it another base; ``settings``: what differs."""
    own = list(runs) if runs is not None else runs_of()
    tables = make_study(own)
    everything = (pl.col("module") == "*") & pl.col("layer").is_null() & pl.col("projection").is_null()
    spectra, pairs, items = tables.spectra, tables.pair_metrics, tables.items
    for run, norm in (norms or {}).items():
        mine = (pl.col("run") == run) & (pl.col("metric") == "norm")
        spectra = spectra.with_columns(value=pl.when(mine).then(norm).otherwise("value"))
    for (a, b), cosine in (cosines or {}).items():
        both = (pl.col("run_a") == a) & (pl.col("run_b") == b) & (pl.col("metric") == "cosine") & everything
        pairs = pairs.with_columns(value=pl.when(both).then(cosine).otherwise("value"))
    items = items.with_columns(
        answer_nll=pl.when(pl.col("run") == "base").then(pl.col("answer_nll") + base_shift).otherwise("answer_nll")
    )
    record = {
        **tables.record,
        "name": name,
        "settings": changed({**SETTINGS, "name": name}, settings or {}),
        "mlflow": dict(mlflow or {"study": f"run-of-{name}"}),
    }
    return replace(tables, spectra=spectra, pair_metrics=pairs, items=items, record=record)


def write(folder: Path, tables: Study) -> Path:
    """The study's folder on disk, without its page: what a page of many reads."""
    record = {**tables.record, "runs": [asdict(info) for info in tables.runs], "rollouts": tables.rollouts}
    contents = {
        "study.json": json_text(record).encode(),
        "claims.json": claims_json(claims_table(tables)).encode(),
        **{name + ".parquet": parquet(frame) for name, frame in tables.checked().frames.items()},
    }
    write_files(folder, contents)
    return folder
