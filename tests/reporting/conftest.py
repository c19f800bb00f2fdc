"""A made-up study in the exact schemas: seeded, the size of the default one but for its number of problems."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy.stats import binomtest
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from tasks.contracts import ACCURACY, ITEMS, MCNEMAR, PAIR_METRICS_FRAME, SPECTRA, TRAINING, RunInfo, checked
from tasks.reporting.join import StudyTables

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
COSINE_TO_SFT = {"rft": 0.958, "dft": 0.765, "rift": 0.981, "offline_grpo": 0.804, "dpo": -0.021, "sft-order1": 0.975}
GAIN = {"sft": 0.06, "rft": 0.07, "dft": 0.02, "rift": 0.06, "offline_grpo": 0.05, "dpo": 0.0, "sft-order1": 0.06}
LAYERS, PROJECTIONS = 4, ("q_proj", "k_proj", "v_proj", "o_proj")
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


def make_mcnemar(items: pl.DataFrame) -> pl.DataFrame:
    rows = []
    for (benchmark,), group in items.group_by("benchmark", maintain_order=True):
        right = {str(run): own["correct"].to_numpy() for (run,), own in group.group_by("run", maintain_order=True)}
        pairs = []
        for a, b in combinations(right, 2):
            only_a, only_b = int(np.sum(right[a] & ~right[b])), int(np.sum(right[b] & ~right[a]))
            p = binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
            both, n = int(np.sum(right[a] & right[b])), len(right[a])
            neither, difference = n - both - only_a - only_b, (only_a - only_b) / n
            pairs.append((benchmark, a, b, n, only_a, only_b, both, neither, difference, float(p)))
        adjusted = multipletests([pair[-1] for pair in pairs], method="holm")[1]
        rows += [(*pair, float(p)) for pair, p in zip(pairs, adjusted, strict=True)]
    return pl.DataFrame(rows, schema=MCNEMAR, orient="row")


def make_pairs(rng: np.random.Generator, runs: list[RunInfo]) -> pl.DataFrame:
    """Cosines as in ``COSINE_TO_SFT``, product of the two where neither run is sft; the other metrics from them."""
    rows = []
    for a, b in combinations([info for info in runs if info.method != "base"], 2):
        cosine = COSINE_TO_SFT.get(a.run, 1.0) * COSINE_TO_SFT.get(b.run, 1.0)
        runs_columns = [value for name in ("run", "method", "seed", "data_seed", "lr") for value in
                        (getattr(a, name), getattr(b, name))]  # fmt: skip
        modules: list[tuple[str, int | None, str | None]] = [("*", None, None)]
        modules += [(f"model.layers.{n}.self_attn.{p}", n, p) for n in range(LAYERS) for p in PROJECTIONS]
        for module, layer, projection in modules:
            value = (
                cosine if layer is None else float(np.clip(cosine + 0.02 * (1 - layer) + rng.normal(0, 0.01), -1, 1))
            )
            angle, fraction = float(np.degrees(np.arccos(value))), float(np.sqrt(1 - value**2))
            metrics = {
                ("cosine", None): value,
                ("orthogonal_fraction", None): fraction,
                ("orthogonal_fraction_reverse", None): fraction / 2,
                ("u1_overlap", None): abs(value) ** 0.5,
                ("v1_overlap", None): abs(value) ** 0.25,
                ("angle_left", 1): angle / 2,
                ("angle_left", 5): min(90.0, 20 + angle),
            }
            rows += [(*runs_columns, module, layer, projection, name, k, v) for (name, k), v in metrics.items()]
    return pl.DataFrame(rows, schema=PAIR_METRICS_FRAME, orient="row")


def make_spectra(runs: list[RunInfo]) -> pl.DataFrame:
    rows = []
    for info in runs:
        if info.method != "base":
            norm = 0.21 if info.method == "dpo" else 2.8
            measures = {"norm": norm, "effective_rank": 6.5, "participation_rank": 5.1, "stable_rank": 2.9}
            identity = (info.run, info.method, info.seed, info.data_seed, info.lr)
            rows += [(*identity, "*", None, None, name, None, value) for name, value in measures.items()]
    return pl.DataFrame(rows, schema=SPECTRA, orient="row")


def make_training(rng: np.random.Generator, runs: list[RunInfo]) -> pl.DataFrame:
    rows = [
        (info.run, step, "loss", float(0.2 + 0.8 * np.exp(-step / 20) + rng.normal(0, 0.01)))
        for info in runs
        if info.method != "base"
        for step in range(1, 81)
    ]
    return pl.DataFrame(rows, schema=TRAINING, orient="row")


def make_study(runs: list[RunInfo] = RUNS, solve: float = 1.0) -> StudyTables:
    """A whole study; equal arguments give equal tables."""
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
    return StudyTables(
        runs=list(runs),
        accuracy=make_accuracy(items),
        mcnemar=make_mcnemar(items),
        items=items,
        pair_metrics=make_pairs(rng, runs),
        spectra=make_spectra(runs),
        training=make_training(rng, runs),
        rollouts={
            "prompts": 1024,
            "rows": 4096,
            "correct": 3522,
            "mixed_groups": 311,
            "dropped": {"longer than the model's context": 17},
            "disagreements": None,
        },
        study={
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


@pytest.fixture(scope="session")
def study() -> StudyTables:
    return make_study()


@pytest.fixture(scope="session")
def build_study() -> Callable[..., StudyTables]:
    """`make_study`, for tests that need another one."""
    return make_study
