"""A made-up study in the exact schemas: seeded, the size of the default one but for its number of problems."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import combinations
from typing import Any

import numpy as np
import polars as pl
import pytest
from statsmodels.stats.proportion import proportion_confint

from tasks.core.frames import ACCURACY, ADAPTERS, ITEMS, PAIR_METRICS_FRAME, SPECTRA, TRAINING, UNSHARED, checked
from tasks.core.results import RunInfo
from tasks.evaluation.accuracy import mcnemar_table
from tasks.reporting.charts.svg import inline_svg
from tasks.reporting.views.study import Study
from tests.lab.functions import (
    COSINE_TO_SFT,
    GAIN,
    LAYERS,
    make_barriers,
    make_cka,
    make_connectivity,
    make_differences,
    make_divergence,
    make_lens,
    make_retention,
    make_samples,
)

RUNS = [
    RunInfo("base", "base", 0, 0, 0.0),
    RunInfo("sft", "sft", 0, 0, 1e-3),
    RunInfo("rft", "rft", 0, 0, 1e-3),
    RunInfo("dft", "dft", 0, 0, 1e-3),
    RunInfo("rift", "rift", 0, 0, 1e-3),
    RunInfo("offline_grpo", "offline_grpo", 0, 0, 1e-3),
    RunInfo("dpo", "dpo", 0, 0, 1e-4),
    RunInfo("sft-order1", "sft", 0, 1, 1e-3),
]
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")
HOSTILE = "<script>alert(1)</script> & so on"


def make_items(rng: np.random.Generator, runs: list[RunInfo], solve: float = 1.0) -> pl.DataFrame:
    """Answers to 400 held-out and 120 hard problems; ``solve`` scales every accuracy."""
    rows: list[dict[str, Any]] = []
    for benchmark, n, start, sign in (("heldout", 400, 0.63, 1.0), ("hard", 120, 0.31, -1.5)):
        luck = rng.random(n)
        for info in runs:
            own = np.abs(luck + rng.normal(0, 0.03, n))
            right = own < solve * (start + sign * GAIN.get(info.run, 0.0))
            parsed, cut = rng.random(n) > 0.01, rng.random(n) < 0.02
            for i in range(n):
                rows.append(
                    {
                        "run": info.run,
                        "method": info.method,
                        "seed": info.seed,
                        "data_seed": info.data_seed,
                        "lr": info.lr,
                        "benchmark": benchmark,
                        "problem_id": f"{benchmark}-{i}",
                        "sample": 0,
                        "completion": HOSTILE,
                        "prediction": "42" if parsed[i] or right[i] else None,
                        "gold": "42",
                        "correct": bool(right[i]),
                        "finish_reason": "length" if cut[i] and not right[i] else "stop",
                        "answer_nll": float(20 - 100 * GAIN.get(info.run, 0.0) + rng.normal()),
                        "answer_tokens": 40,
                    }
                )
    return checked(pl.DataFrame(rows, schema=ITEMS), ITEMS, "items")


def make_accuracy(items: pl.DataFrame) -> pl.DataFrame:
    keys = ["benchmark", "run", "method", "seed", "data_seed", "lr"]
    frame = items.group_by(keys, maintain_order=True).agg(
        n=pl.len(),
        correct=pl.col("correct").sum(),
        accuracy=pl.col("correct").mean(),
        unparsed=pl.col("prediction").is_null().sum(),
        truncated=(pl.col("finish_reason") == "length").sum(),
        answer_loss=pl.col("answer_nll").sum() / pl.col("answer_tokens").sum(),
    )
    bounds = [proportion_confint(correct, n, method="wilson") for correct, n in frame.select("correct", "n").rows()]
    low, high = (pl.Series(name, [bound[i] for bound in bounds]) for i, name in enumerate(("low", "high")))
    return checked(frame.with_columns(low, high), ACCURACY, "accuracy")


def make_pairs(rng: np.random.Generator, runs: list[RunInfo], layers: int = LAYERS) -> pl.DataFrame:
    """Cosines as in ``COSINE_TO_SFT``, product of the two where neither run is sft; the other metrics from them.

    As in a real frame: one row a metric for everything, for each layer, each projection and each module; an interval
    only for everything. Runs of one seed (or of none) share their lora_A.
    """
    rows: list[tuple[Any, ...]] = []
    for a, b in combinations([info for info in runs if info.method != "base"], 2):
        overall = COSINE_TO_SFT.get(a.run, 1.0) * COSINE_TO_SFT.get(b.run, 1.0)
        runs_columns = [value for name in ("run", "method", "seed", "data_seed", "lr") for value in
                        (getattr(a, name), getattr(b, name))]  # fmt: skip
        modules: list[tuple[str, int | None, str | None]] = [("*", None, None)]
        modules += [("*", n, None) for n in range(layers)] + [("*", None, p) for p in PROJECTIONS]
        modules += [(f"model.layers.{n}.self_attn.{p}", n, p) for n in range(layers) for p in PROJECTIONS]
        for module, layer, projection in modules:
            shift = 0.0 if layer is None and projection is None else 0.02 * (1 - (layer or 0)) + rng.normal(0, 0.01)
            cosine = float(np.clip(overall + shift, -1, 1))
            everything = layer is None and projection is None
            for (metric, k), (value, null, percentile) in pair_metrics(cosine, a.seed == b.seed).items():
                spread = 0.01 * (abs(value) + 0.1)
                low, high = (value - spread, value + spread) if everything else (None, None)
                place = (module, layer, projection, metric, k)
                rows.append((*runs_columns, *place, value, low, high, null, percentile, None, None, None))
    return checked(pl.DataFrame(rows, schema=PAIR_METRICS_FRAME, orient="row"), PAIR_METRICS_FRAME, "pair_metrics")


def pair_metrics(
    cosine: float, one_start: bool
) -> dict[tuple[str, int | None], tuple[float, float | None, float | None]]:
    """(metric, k) -> value, the null's mean and the percentile of one made-up comparison of rank 8."""
    angle, fraction = float(np.degrees(np.arccos(abs(cosine)))), float(np.sqrt(1 - cosine**2))
    above = 100.0 if cosine > 0 else 3.25
    return {
        ("cosine", None): (cosine, 0.0, above),
        ("norm_ratio", None): (1.25, None, None),
        ("orthogonal_fraction", None): (fraction, 0.9999, 100 - above),
        ("orthogonal_fraction_reverse", None): (fraction / 2, 0.9999, 100 - above),
        ("lora_a_cosine", None): (0.97 if one_start else 0.01, None, None),
        ("u1_overlap", None): (abs(cosine) ** 0.5, 0.071, above),
        ("v1_overlap", None): (abs(cosine) ** 0.25, 0.071, above),
        **{
            (f"{name}_{side}", k): found
            for side in ("left", "right")
            for k, widen in ((1, 0.5), (5, 0.8), (8, 1.0))
            for name, found in (
                ("angle", (widen * angle, 84.0 + 0.7 * k, 100 - above)),
                ("angle_min", ((0.6 - 0.05 * k) * angle, 90.0 - 2 * k, 100 - above)),
                ("phi", (cosine**2, k / 128, above)),
            )
        },
    }


def make_spectra(runs: list[RunInfo], layers: int = LAYERS, base: bool = False) -> pl.DataFrame:
    """Sizes, ranks and singular values; ``base``: also what only the base's weights can tell."""
    rows: list[tuple[Any, ...]] = []
    for info in runs:
        if info.method == "base":
            continue
        norm = 0.21 if info.method == "dpo" else 2.8
        measures = {"norm": norm, "effective_rank": 6.5, "participation_rank": 5.1, "stable_rank": 2.9}
        identity = (info.run, info.method, info.seed, info.data_seed, info.lr)
        rows += [(*identity, "*", None, None, name, None, value) for name, value in measures.items()]
        if base:
            kinds = (("intruder_dimensions", 1.5), ("base_rotation_left", 4.25), ("base_rotation_right", 3.75))
            rows += [(*identity, "*", None, None, name, k, value) for name, value in kinds for k in (1, 5)]
            rows += [(*identity, "*", None, None, "spectrum_shift", None, 0.00123)]
            rows += [(*identity, "*", None, None, "update_sparsity", None, 0.8125)]
        for n in range(layers):
            for p in PROJECTIONS:
                module = (f"model.layers.{n}.self_attn.{p}", n, p)
                rows += [
                    (*identity, *module, "singular_value", k, norm / 4 * (1 + 0.1 * n) * 0.6**k) for k in range(1, 9)
                ]
    return checked(pl.DataFrame(rows, schema=SPECTRA, orient="row"), SPECTRA, "spectra")


def make_training(rng: np.random.Generator, runs: list[RunInfo]) -> pl.DataFrame:
    rows = [
        (info.run, step, "loss", float(0.2 + 0.8 * np.exp(-step / 20) + rng.normal(0, 0.01)))
        for info in runs
        if info.method != "base"
        for step in range(1, 81)
    ]
    return pl.DataFrame(rows, schema=TRAINING, orient="row")


def make_study(runs: Sequence[RunInfo] = RUNS, solve: float = 1.0) -> Study:
    """A whole study; for equal arguments the same one, in which nobody may change anything."""
    return _made(tuple(runs), solve)


@cache
def _made(runs: tuple[RunInfo, ...], solve: float) -> Study:
    return made_anew(runs, solve)


def made_anew(runs: Sequence[RunInfo] = RUNS, solve: float = 1.0) -> Study:
    """Equal arguments give equal tables."""
    rng = np.random.default_rng(0)
    items = make_items(rng, runs, solve)
    names = [("pretrain", "pretrain tiny"), ("rollouts", "rollouts K=4"), *(("train", info.label) for info in runs[1:])]
    stages = [
        {
            "stage": stage,
            "name": name,
            "seconds": 9.5,
            "hit": i < 2,
            "cached_seconds": 118.25 * (i < 2),
            "started": 12.0 * i,
        }
        for i, (stage, name) in enumerate(names)
    ]
    accuracy, connectivity = make_accuracy(items), make_connectivity(runs)
    return Study(
        runs=list(runs),
        accuracy=accuracy,
        mcnemar=mcnemar_table(items),
        items=items,
        pair_metrics=make_pairs(rng, runs),
        spectra=make_spectra(runs),
        training=make_training(rng, runs),
        samples=make_samples(accuracy),
        differences=make_differences(accuracy),
        connectivity=connectivity,
        barriers=make_barriers(connectivity),
        cka=make_cka(runs),
        lens=make_lens(runs),
        divergence=make_divergence(runs),
        retention=make_retention(runs),
        rollouts={
            "prompts": 1024,
            "rows": 4096,
            "correct": 3522,
            "mixed_groups": 311,
            "dropped": {"longer than the model's context": 17},
            "disagreements": None,
        },
        record={
            "name": "tiny",
            "settings": {"train": {"lr": 1e-3, "steps": 80}, "lora": {"targets": ("q_proj", "k_proj")}, "out": None},
            "versions": {"torch": "2.13.0", "trl": "1.16.0"},
            "commit": "0123456789abcdef",
            "mlflow": {"parent": "f00d"},
            "stages": stages,
            "wall_seconds": 268.6,
            "machine": "2 CPU cores",
            "checks": [{"name": "same lora_A in every run", "ok": True, "detail": "16 of 16 modules"}],
            "notes": ["RIFT uses the linear form: weights +1 and -0.2."],
        },
    )


@pytest.fixture(scope="session", autouse=True)
def drawn_once() -> Iterator[None]:
    """A figure of the same numbers is drawn once a session, and once made a PNG: most of a page's time."""
    import vl_convert

    drawn: dict[str, str] = {}

    def draw(key: str, label: str, spec: dict[str, Any]) -> str:
        name = json.dumps([key, label, spec], default=str)
        if name not in drawn:
            drawn[name] = inline_svg(key, label, spec)
        return drawn[name]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tasks.reporting.charts.picture.inline_svg", draw)
        patch.setattr(vl_convert, "svg_to_png", cache(vl_convert.svg_to_png))
        yield


@pytest.fixture(scope="session")
def study() -> Study:
    return make_study()


@pytest.fixture(scope="session")
def build_study() -> Callable[..., Study]:
    """`make_study`, for tests that need another one."""
    return make_study


def make_comparison(runs: list[RunInfo], layers: int = LAYERS, base: bool = False) -> dict[str, pl.DataFrame]:
    """The four frames of a comparison of ``runs``."""
    about = ("org/base-1B", "LoRA", "scale * B A", 8, 4 * layers, 65_536, 262_400, None, None, None, None)
    adapters = [(info.run, f"adapters/{info.run}", *about) for info in runs]
    return {
        "pair_metrics": make_pairs(np.random.default_rng(0), runs, layers),
        "spectra": make_spectra(runs, layers, base),
        "adapters": pl.DataFrame(adapters, schema=ADAPTERS, orient="row"),
        "unshared": pl.DataFrame(schema=UNSHARED),
    }


@pytest.fixture(scope="session")
def build_comparison() -> Callable[..., dict[str, pl.DataFrame]]:
    """`make_comparison`, for tests of the page of a comparison."""
    return make_comparison
