"""The columns of the joined frames: written once, for the files and for everything that reads them."""

from __future__ import annotations

import polars as pl

from tasks.reporting.metrics import MANY

_IDENTITY: dict[str, pl.DataType] = {
    "study": pl.String(),
    "run": pl.String(),
    "method": pl.String(),
    "seed": pl.Int64(),
    "data_seed": pl.Int64(),
    "lr": pl.Float64(),
    "training": pl.Int64(),  # one number a distinct training: the same in every study that has it; null: not trained
    "repeated": pl.Boolean(),  # an earlier study has this training: leave it out of a spread
    "base": pl.Int64(),  # studies of one number have one base
    "condition": pl.Int64(),  # all that decides a training but its seeds and its learning rate
}

_METRICS: dict[str, pl.DataType] = {metric.column: pl.Float64() for metric in MANY}
"""``angle``: of the first left singular vectors, degrees, median over modules; the others by their names."""

RUNS: dict[str, pl.DataType] = {
    **_IDENTITY,
    "reference_lr": pl.Float64(),  # of the SFT of its study
    "norm": pl.Float64(),
    "effective_rank": pl.Float64(),
    "cosine_to_sft": pl.Float64(),  # of its study, the same seeds; null for runs of other seeds
    "norm_over_sft": pl.Float64(),
    "kl_from_base": pl.Float64(),  # nats a token
    "barrier_to_sft": pl.Float64(),  # solution reading, nats a token
    "barrier_to_sft_matched": pl.Float64(),  # both updates at one norm
}

SCORES: dict[str, pl.DataType] = {
    **_IDENTITY,
    "benchmark": pl.String(),
    "n": pl.Int64(),
    "accuracy": pl.Float64(),
    "low": pl.Float64(),
    "high": pl.Float64(),
    "difference": pl.Float64(),  # against the base, paired, share
    "difference_low": pl.Float64(),  # 95 %, of these two models
    "difference_high": pl.Float64(),
    "p_value": pl.Float64(),  # exact
    "p_holm": pl.Float64(),  # over the main runs of its study; null for a replicate and for what no study trains
    "verdict": pl.String(),
}

PAIRS: dict[str, pl.DataType] = {
    "study": pl.String(),
    "run_a": pl.String(),
    "run_b": pl.String(),
    "method_a": pl.String(),
    "method_b": pl.String(),
    "lr_a": pl.Float64(),
    "lr_b": pl.Float64(),
    "training_a": pl.Int64(),
    "training_b": pl.Int64(),
    "condition": pl.Int64(),
    "repeated": pl.Boolean(),
    "one_start": pl.Boolean(),  # the same seed and data seed
    "two_orders": pl.Boolean(),  # the same seed, another data seed: what a noise floor of the data order judges
    "floor": pl.String(),  # the noise floor that it measures: "order", "initialisation" or null
    **_METRICS,  # of a against b
    "null_cosine": pl.Float64(),
    "midpoint": pl.Float64(),  # of the path between them, solution reading, above the mean of its ends, nats a token
    "barrier": pl.Float64(),
}

ACROSS: dict[str, pl.DataType] = {
    "method": pl.String(),
    "differs": pl.String(),  # what the two trainings differ in: "data order", "initialisation", "learning rate", ...
    "within": pl.String(),  # the study that has both; null: two studies
    "a": pl.String(),
    "b": pl.String(),
    "training_a": pl.Int64(),
    "training_b": pl.Int64(),
    "lr_a": pl.Float64(),
    "lr_b": pl.Float64(),
    **_METRICS,  # a ratio of norms is that of b over a
    "lora_a_cosine": pl.Float64(),
    "low": pl.Float64(),  # of the cosine
    "high": pl.Float64(),
}

MIDPOINTS: dict[str, pl.DataType] = {
    "method": pl.String(),
    "lr": pl.Float64(),
    "differs": pl.String(),  # as in ACROSS: the noise floor that the path measures
    "a": pl.String(),
    "b": pl.String(),
    "midpoint": pl.Float64(),  # solution reading, above the mean of its ends, nats a token
    "barrier": pl.Float64(),
}
