"""What the made-up study says of functions: sampled scores, paths, hidden states, distributions; by simple formulas."""

from __future__ import annotations

from itertools import combinations, permutations
from typing import Any

import polars as pl

from tasks.core.frames import BARRIERS, CKA, CONNECTIVITY, DIFFERENCES, DIVERGENCE, LENS, RETENTION, SAMPLES, checked
from tasks.core.results import RunInfo

COSINE_TO_SFT = {"rft": 0.958, "dft": 0.765, "rift": 0.981, "offline_grpo": 0.804, "dpo": -0.021, "sft-order1": 0.975}
GAIN = {"sft": 0.06, "rft": 0.07, "dft": 0.02, "rift": 0.06, "offline_grpo": 0.05, "dpo": 0.0, "sft-order1": 0.06}
LAYERS = 4


def likeness(a: RunInfo, b: RunInfo) -> float:
    """Cosine of two updates in the made-up study; to the base, which has none, what stands in for it."""
    if "base" in (a.method, b.method):
        return 0.5 - 5 * max(GAIN.get(a.run, 0.0), GAIN.get(b.run, 0.0))
    return COSINE_TO_SFT.get(a.run, 1.0) * COSINE_TO_SFT.get(b.run, 1.0)


def make_samples(accuracy: pl.DataFrame) -> pl.DataFrame:
    """Four samples a problem: avg@4 is the accuracy, pass@4 twenty points more, maj@4 five; pass@2 ten."""
    rows = [
        (run, benchmark, metric, k, n, 4, value + gain, value + gain - 0.03, value + gain + 0.03)
        for run, benchmark, n, value in accuracy.select("run", "benchmark", "n", "accuracy").iter_rows()
        for metric, k, gain in (("avg", 4, 0.0), ("pass", 2, 0.1), ("pass", 4, 0.2), ("maj", 4, 0.05))
    ]
    return checked(pl.DataFrame(rows, schema=SAMPLES, orient="row"), SAMPLES, "samples")


def make_differences(accuracy: pl.DataFrame) -> pl.DataFrame:
    """avg@4 is the accuracy, so they are those of the accuracies, give or take four points."""
    rows = [
        (benchmark, a, b, n, 4, first - second, first - second - 0.04, first - second + 0.04)
        for (benchmark,), group in accuracy.group_by("benchmark", maintain_order=True)
        for (a, n, first), (b, _, second) in combinations(group.select("run", "n", "accuracy").rows(), 2)
    ]
    return checked(pl.DataFrame(rows, schema=DIFFERENCES, orient="row"), DIFFERENCES, "differences")


def make_connectivity(runs: list[RunInfo]) -> pl.DataFrame:
    """Paths that rise 4 h a (1 - a) above the chord, h = .2 (1 - cosine), .1 for the solution, ten points of error;
    a tenth of it where the norms are matched."""
    rows: list[tuple[Any, ...]] = []
    for a, b in combinations([info for info in runs if info.method != "base"], 2):
        ends = [{"boxed": 1.5, "solution": 0.5, "accuracy": 0.6 + GAIN.get(info.run, 0.0)} for info in (a, b)]
        for matched, share in ((False, 1.0), (True, 0.1)):
            for reading, height, points in (("boxed", 0.2, 10), ("solution", 0.1, 10), ("accuracy", -0.1, 2)):
                rise = 4 * share * height * (1 - likeness(a, b))
                for alpha in (i / points for i in range(points + 1)):
                    chord = (1 - alpha) * ends[0][reading] + alpha * ends[1][reading]
                    place = (a.run, b.run, matched, reading, alpha)
                    tokens = None if reading == "accuracy" else 900
                    rows.append((*place, chord + rise * alpha * (1 - alpha), 60, tokens))
    return checked(pl.DataFrame(rows, schema=CONNECTIVITY, orient="row"), CONNECTIVITY, "connectivity")


def make_barriers(connectivity: pl.DataFrame) -> pl.DataFrame:
    """The barriers of those paths, by definition; intervals of .004 to either side, not below 0."""
    rows: list[tuple[Any, ...]] = []
    for key, path in connectivity.group_by("run_a", "run_b", "matched", "reading", maintain_order=True):
        alphas, losses = path["alpha"].to_numpy(), path["value"].to_numpy()
        losses = 1 - losses if key[3] == "accuracy" else losses
        heights = losses - ((1 - alphas) * losses[0] + alphas * losses[-1])
        barrier = max(float(heights.max()), 0.0)
        rows.append((*key, barrier, max(barrier - 0.004, 0.0), barrier + 0.004, float(alphas[heights.argmax()]), 60))
    return checked(pl.DataFrame(rows, schema=BARRIERS, orient="row"), BARRIERS, "barriers")


def make_cka(runs: list[RunInfo], layers: int = LAYERS) -> pl.DataFrame:
    """1 - layer / 20 (1 - cosine), the biased value half as far from 1; layer 0 has none."""
    rows: list[tuple[Any, ...]] = []
    for a, b in combinations(runs, 2):
        for layer in range(layers + 1):
            value = 1 - layer / 20 * (1 - likeness(a, b))
            for estimator, number in (("debiased", value), ("biased", (1 + value) / 2)):
                found = (None, "the rows of a run have no variance") if layer == 0 else (number, None)
                rows.append((a.run, b.run, layer, "last", estimator, 200, *found))
    return checked(pl.DataFrame(rows, schema=CKA, orient="row"), CKA, "cka")


def make_lens(runs: list[RunInfo], layers: int = LAYERS) -> pl.DataFrame:
    """The depth of the i-th run is 2 + i / 8 layers."""
    rows: list[tuple[Any, ...]] = []
    for i, info in enumerate(runs):
        rows += [(info.run, layer, "agreement", 900, (layer + 1) / (layers + 1)) for layer in range(layers + 1)]
        rows += [(info.run, layer, "cross_entropy", 900, 3.0 - 0.5 * layer) for layer in range(layers + 1)]
        rows.append((info.run, None, "depth", 900, 2 + i / 8))
    return checked(pl.DataFrame(rows, schema=LENS, orient="row"), LENS, "lens")


def make_retention(runs: list[RunInfo]) -> pl.DataFrame:
    """Forgotten are 5 nats a token for each unit of accuracy gained, a tenth of it either way; KL on the base's own
    answers is the 1.2-fold, half of it at the first token."""
    rows: list[tuple[Any, ...]] = []
    for info in runs:
        rise = 5 * GAIN.get(info.run, 0.0)
        who = (info.run, info.method, info.seed, info.data_seed, info.lr)
        lost = (400, 16_000, 0.5 + rise, rise, 0.9 * rise, 1.1 * rise)
        rows.append((*who, *lost, False, 60, 1800, 1.2 * rise, rise, 1.4 * rise, 0.6 * rise))
    return checked(pl.DataFrame(rows, schema=RETENTION, orient="row"), RETENTION, "retention")


def make_divergence(runs: list[RunInfo]) -> pl.DataFrame:
    """KL(a || b) = .1 (1 - cosine), a tenth more where b is the later run; dpo nearly stays at the base."""
    rows: list[tuple[Any, ...]] = []
    for a, b in permutations(runs, 2):
        value = 0.1 * (1 - likeness(a, b)) * (1.1 if runs.index(a) < runs.index(b) else 1.0)
        value *= 1e-4 if {a.method, b.method} == {"base", "dpo"} else 1.0
        rows.append((a.run, b.run, 60, 900, value, 0.9 * value, 1.1 * value))
    return checked(pl.DataFrame(rows, schema=DIVERGENCE, orient="row"), DIVERGENCE, "divergence")
