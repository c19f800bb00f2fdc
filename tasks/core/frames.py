"""The schemas of the frames on disk: one each, written once, checked where a frame enters."""

from __future__ import annotations

import polars as pl

from tasks.core.errors import InputError

PROBLEMS: dict[str, pl.DataType] = {
    "problem_id": pl.String(),
    "split": pl.String(),  # "rollouts", "heldout", "hard", ...: what the problem may be used for
    "question": pl.String(),
    "answer": pl.String(),  # gold, bare: "42"
    "solution": pl.String(),  # a worked solution that ends in the answer; null where none is known
}


RUN: dict[str, pl.DataType] = {
    "run": pl.String(),
    "method": pl.String(),
    "seed": pl.Int64(),
    "data_seed": pl.Int64(),
    "lr": pl.Float64(),
}
"""Which training a row is of: the columns of `tasks.core.results.RunInfo`."""


ROLLOUTS: dict[str, pl.DataType] = {
    "problem_id": pl.String(),
    "rollout_id": pl.Int64(),  # 0..K-1 within a problem
    "prompt": pl.String(),  # the question, without any template
    "completion": pl.String(),
    "prompt_ids": pl.List(pl.Int64()),  # after the student's template
    "completion_ids": pl.List(pl.Int64()),  # ends with the token that ends a turn unless truncated
    "logprobs": pl.List(pl.Float64()),  # behaviour log-probabilities, one a completion token; null where unknown
    "finish_reason": pl.String(),  # "stop" or "length"
    "seed": pl.Int64(),
    "answer": pl.String(),  # gold; null where only rewards were given
    "given_reward": pl.Float64(),  # a label that came with the row: 0.0 or 1.0; null where none
}


COMPLETIONS: dict[str, pl.DataType] = {
    "problem_id": pl.String(),
    "rollout_id": pl.Int64(),  # 0..K-1 within a problem
    "prompt": pl.String(),  # the question as the student will be asked it
    "answer": pl.String(),
    "completion": pl.String(),
    "completion_ids": pl.List(pl.Int64()),  # the teacher's tokens; null where an endpoint does not tell them
    "logprobs": pl.List(pl.Float64()),  # one a token of the teacher's; null where unknown
    "finish_reason": pl.String(),
    "seed": pl.Int64(),
}


GRADED: dict[str, pl.DataType] = {
    **ROLLOUTS,
    "extracted": pl.String(),  # what the grader read out of the completion; null where nothing
    "reward": pl.Float64(),  # 0.0 or 1.0
    "grader": pl.String(),  # "given" (the file's label) or "math-verify <version>"
}


ITEMS: dict[str, pl.DataType] = {
    **RUN,
    "benchmark": pl.String(),
    "problem_id": pl.String(),
    "sample": pl.Int64(),
    "completion": pl.String(),
    "prediction": pl.String(),  # what the grader read; null where nothing
    "gold": pl.String(),
    "correct": pl.Boolean(),
    "finish_reason": pl.String(),
    "answer_nll": pl.Float64(),  # nats: -log p(reference solution | prompt); of \\boxed{gold} where none is known
    "answer_tokens": pl.Int64(),  # its length in tokens
}


FEW_LAYERS = 10
"""Layers below which a bootstrap of them gives intervals that are too narrow (Cameron, Gelbach and Miller 2008)."""


PAIR_METRICS_FRAME: dict[str, pl.DataType] = {
    "run_a": pl.String(),
    "run_b": pl.String(),
    "method_a": pl.String(),
    "method_b": pl.String(),
    "seed_a": pl.Int64(),
    "seed_b": pl.Int64(),
    "data_seed_a": pl.Int64(),
    "data_seed_b": pl.Int64(),
    "lr_a": pl.Float64(),
    "lr_b": pl.Float64(),
    "module": pl.String(),  # "*" for several: those of one layer, of one projection, or (both null) all shared ones
    "layer": pl.Int64(),
    "projection": pl.String(),  # "q_proj", ...
    "metric": pl.String(),
    "k": pl.Int64(),  # subspace dimension or index; null where it has no meaning
    "value": pl.Float64(),
    "low": pl.Float64(),  # 95 % over modules, of values over all: bootstrap of layers; below FEW_LAYERS t over layers
    "high": pl.Float64(),
    "null": pl.Float64(),  # what random subspaces of the same shape give on average; null where there is no such value
    "percentile": pl.Float64(),  # percent of that null's draws at or below the value
    "null_sd": pl.Float64(),  # of a cosine: standard deviation of that null, exact
    "shared_null_sd": pl.Float64(),  # the same with the right singular vectors as measured: shared lora_A, say
    "shared_percentile": pl.Float64(),  # percent of that second null, which is normal around 0, below the value
}


ADAPTERS: dict[str, pl.DataType] = {
    "run": pl.String(),
    "source": pl.String(),  # as it was given
    "base": pl.String(),  # the model that its configuration names; null where it names none
    "kind": pl.String(),  # "LoRA", "rsLoRA", "DoRA", "LoRA (pissa)", "full fine-tune", ...
    "update": pl.String(),  # how its dW was had: "scale * B A", "diag(d) W + B A" (DoRA) or "merged - base"
    "rank": pl.Int64(),  # largest rank of a module; null for a full fine-tune
    "modules": pl.Int64(),
    "parameters": pl.Int64(),  # entries of its factors (or of the changed weights)
    "size": pl.Int64(),  # bytes of its weight files
    "note": pl.String(),  # what a reader must know about it; null where nothing
    "dtype": pl.String(),  # of the weights whose difference the update is: "bfloat16", ...; null for a product
    "changed": pl.Float64(),  # share of the entries of its modules that differ from the base's; null for a product
    "rounding": pl.Float64(),  # expected norm of the rounding of those weights over the update's; null for a product
}


GRADIENTS: dict[str, pl.DataType] = {
    "method_a": pl.String(),
    "method_b": pl.String(),
    "examples_a": pl.Int64(),  # completions, or pairs, that the method selects from the rows
    "examples_b": pl.Int64(),
    "module": pl.String(),  # as in PAIR_METRICS_FRAME, layer and projection too
    "layer": pl.Int64(),
    "projection": pl.String(),
    "cosine": pl.Float64(),  # of the losses' gradients with respect to the weights; null where not computed
    "projected": pl.Float64(),  # of those of lora_B: the same, multiplied by lora_A as initialised
    "low": pl.Float64(),  # 95 % of ``projected`` over draws of rows: jackknife over parts of them
    "high": pl.Float64(),
    "half_a": pl.Float64(),  # cosine of the method's lora_B gradients on the two halves of the rows
    "half_b": pl.Float64(),
    "corrected": pl.Float64(),  # ``projected`` without the noise of the rows (Spearman 1904); may exceed 1
    "corrected_low": pl.Float64(),
    "corrected_high": pl.Float64(),
}


ON_POLICY: dict[str, pl.DataType] = {
    "answers": pl.String(),  # "all", "right" or "wrong" rollouts of those that the gradients were taken on
    "rows": pl.Int64(),
    "tokens": pl.Int64(),
    "nll": pl.Float64(),  # of their tokens under the base, nats a token
    "nll_low": pl.Float64(),  # 95 %, problems being the sample
    "nll_high": pl.Float64(),
    "unlikely": pl.Float64(),  # share of their tokens that the base gives a probability below .1
    "unlikely_low": pl.Float64(),
    "unlikely_high": pl.Float64(),
}


GREEDY: dict[str, pl.DataType] = {
    "n": pl.Int64(),  # problems, one greedy answer each
    "correct": pl.Int64(),
    "accuracy": pl.Float64(),
    "low": pl.Float64(),  # 95 %, Wilson
    "high": pl.Float64(),
    "loss": pl.Float64(),  # nats a token of the reference solutions
}
"""Of a model's greedy answers to one benchmark."""


LEADING, REST = "leading", "rest"
"""Parts of an update: its k leading directions in every module, and what they leave of it."""


TRUNCATION: dict[str, pl.DataType] = {
    **RUN,
    "benchmark": pl.String(),
    "part": pl.String(),  # LEADING or REST; of LEADING also k = 0, the base, and k = the rank, the whole update
    "k": pl.Int64(),  # directions of every module
    **GREEDY,
    "kl": pl.Float64(),  # KL(base || this), nats a token; null where not measured
    "kl_low": pl.Float64(),  # 95 % over problems
    "kl_high": pl.Float64(),
    "difference": pl.Float64(),  # accuracy less the whole update's on the same problems
    "difference_low": pl.Float64(),  # 95 %, paired
    "difference_high": pl.Float64(),
}


TRAJECTORIES: dict[str, pl.DataType] = {
    **RUN,
    "step": pl.Int64(),  # optimiser steps taken; a run's last row is its whole update
    "norm": pl.Float64(),  # Frobenius, of the whole update
    "rank1_share": pl.Float64(),  # of the squared norm, what lies in the first singular direction of each module
    "turn": pl.Float64(),  # degrees, to the update of the row before; null in a run's first
    "cosine_to_last": pl.Float64(),
    "cosine_to_gradient": pl.Float64(),  # with the step down the gradient at the base; null where not measured
    "overlap": pl.Float64(),  # squared, of the first output direction with the last row's, mean over modules
    "chance": pl.Float64(),  # of that overlap, what two random directions have on average
    "benchmark": pl.String(),  # null, and all of GREEDY, where the steps were not asked
    **GREEDY,
}
"""A row a run and step, and a benchmark where several were asked."""


UNSHARED: dict[str, pl.DataType] = {
    "run": pl.String(),  # has the module
    "other": pl.String(),  # has it not: their comparison leaves it out
    "module": pl.String(),
}


RELATIONS: dict[str, pl.DataType] = {
    "run_a": pl.String(),
    "run_b": pl.String(),
    "relation": pl.String(),  # what the two look like: "one training, two orders", ..., "cannot say"
    "related": pl.Boolean(),  # whether that is a relation of trainings, not of initialisations alone
    "reason": pl.String(),  # the evidence, in a sentence
    "modules": pl.Int64(),  # that both have
    "cosine": pl.Float64(),  # of the updates
    "norm_ratio": pl.Float64(),  # |a| / |b|
    "lora_a_cosine": pl.Float64(),
    "input_overlap": pl.Float64(),  # phi of the whole input subspaces: shared lora_A in any basis
    "u1_overlap": pl.Float64(),  # |u1 u1'|, mean over modules
}


MERGES: dict[str, pl.DataType] = {
    "run_a": pl.String(),
    "run_b": pl.String(),
    "kind": pl.String(),  # "*" for all modules, else "q_proj", ...
    "modules": pl.Int64(),  # that at least one of the two has
    "norm_a": pl.Float64(),
    "norm_b": pl.Float64(),
    "norm_sum": pl.Float64(),  # of dW_a + dW_b
    "cancelled": pl.Float64(),  # share of norm_a^2 + norm_b^2 gone in the sum, of modules in which the two are opposed
    "kept_a": pl.Float64(),  # <sum, dW_a> / |dW_a|^2; null for a zero update
    "kept_b": pl.Float64(),
    "share_a": pl.Float64(),  # norm_a^2 / (norm_a^2 + norm_b^2)
    "room_a": pl.Int64(),  # rank that PEFT makes room for: the largest of r and of rank_pattern
    "room_b": pl.Int64(),
    "linear_error": pl.Float64(),  # |linear - mean| / |mean| of PEFT's combinations; null where PEFT refuses linear
}


MERGE_LOSSES: dict[str, pl.DataType] = {
    "run_a": pl.String(),
    "run_b": pl.String(),
    "n": pl.Int64(),  # texts
    "tokens": pl.Int64(),  # that the losses are over
    "loss_base": pl.Float64(),  # nats a token; of the base alone
    "loss_a": pl.Float64(),
    "loss_b": pl.Float64(),
    "loss_mean": pl.Float64(),  # of base + (dW_a + dW_b) / 2
    "loss_sum": pl.Float64(),  # of base + dW_a + dW_b
    "barrier": pl.Float64(),  # of the straight path from a to b, above the chord
    "low": pl.Float64(),  # 95 % over texts
    "high": pl.Float64(),
    "alpha": pl.Float64(),  # where it is; null where there is none
}


SPECTRA: dict[str, pl.DataType] = {
    **RUN,
    "module": pl.String(),  # "*" for a value over all modules
    "layer": pl.Int64(),
    "projection": pl.String(),
    "metric": pl.String(),  # "singular_value" (k = 1..r), "norm", "effective_rank", ...: tasks/geometry/spectrum.py
    "k": pl.Int64(),
    "value": pl.Float64(),
}


CONNECTIVITY: dict[str, pl.DataType] = {
    "run_a": pl.String(),
    "run_b": pl.String(),
    "matched": pl.Boolean(),  # whether both updates were scaled to one norm
    "reading": pl.String(),  # "boxed" or "solution" (cross-entropy, nats a token) or "accuracy" (share, greedy)
    "alpha": pl.Float64(),  # the model is base + (1 - alpha) dW_a + alpha dW_b
    "value": pl.Float64(),
    "n": pl.Int64(),  # problems
    "tokens": pl.Int64(),  # that the cross-entropy is over; null for accuracy
}


BARRIERS: dict[str, pl.DataType] = {
    "run_a": pl.String(),
    "run_b": pl.String(),
    "matched": pl.Boolean(),
    "reading": pl.String(),
    "barrier": pl.Float64(),  # max over alpha above the chord; of "accuracy" that of the error. null where undefined
    "low": pl.Float64(),  # 95 % over problems, of the highest point above the chord; above 0: there is a barrier
    "high": pl.Float64(),
    "alpha": pl.Float64(),  # where it is; null where there is none
    "n": pl.Int64(),  # problems
}


CKA: dict[str, pl.DataType] = {
    "run_a": pl.String(),
    "run_b": pl.String(),
    "layer": pl.Int64(),  # 0 is the embedding's output
    "pooling": pl.String(),  # "last" prompt token, "mean" over the prompt, or "tokens" (each token a row)
    "estimator": pl.String(),  # "debiased" or "biased"
    "n": pl.Int64(),  # rows
    "value": pl.Float64(),
    "reason": pl.String(),  # why there is no value; null where there is one
}


LENS: dict[str, pl.DataType] = {
    "run": pl.String(),
    "layer": pl.Int64(),  # null for a value of the whole model
    "metric": pl.String(),  # "agreement" with the last layer's token (share), "cross_entropy" (nats), "depth" (layers)
    "tokens": pl.Int64(),
    "value": pl.Float64(),
}


DIVERGENCE: dict[str, pl.DataType] = {
    "run_a": pl.String(),
    "run_b": pl.String(),
    "n": pl.Int64(),  # problems
    "tokens": pl.Int64(),
    "value": pl.Float64(),  # KL(p_a || p_b), nats a token of the held-out solutions, each token's whole distribution
    "low": pl.Float64(),  # 95 % bootstrap over problems
    "high": pl.Float64(),
}


OWN_ANSWERS: dict[str, pl.DataType] = {
    "run": pl.String(),
    "problem_id": pl.String(),  # of an answer that the base gave
    "tokens": pl.Int64(),  # of the answer
    "kl": pl.Float64(),  # KL(base || run) summed over them, nats
    "first": pl.Float64(),  # of that what the first of them has
}


RETENTION: dict[str, pl.DataType] = {
    **RUN,
    "n": pl.Int64(),  # texts that nobody trained on; null, with the next five, where there are none
    "tokens": pl.Int64(),  # of theirs that are scored
    "loss": pl.Float64(),  # nats a token
    "forgetting": pl.Float64(),  # by how much that is above the base's
    "forgetting_low": pl.Float64(),  # 95 % bootstrap over texts, paired
    "forgetting_high": pl.Float64(),
    "drawn": pl.Boolean(),  # whether the base's own answers were drawn at temperature 1, or are its greedy ones
    "answers": pl.Int64(),  # of the base's; null, with the next five, where no divergence can be had
    "answer_tokens": pl.Int64(),
    "own_kl": pl.Float64(),  # KL(base || run) at their tokens, nats a token, each token's whole distribution
    "own_kl_low": pl.Float64(),  # 95 % bootstrap over answers
    "own_kl_high": pl.Float64(),
    "own_kl_first": pl.Float64(),  # of ``own_kl`` what the answers' first tokens bring
}


SOUPS: dict[str, pl.DataType] = {
    "soup": pl.String(),  # as it was asked for: "sft+dpo", "mean(sft+dpo)"
    "runs": pl.List(pl.String()),  # whose updates it is of
    "weight": pl.Float64(),  # of each of them: 1 in a sum
    "measure": pl.String(),  # "accuracy" (share), "forgetting" or "own_kl" (nats a token, as in RETENTION)
    "benchmark": pl.String(),  # null for a measure that is of none
    "n": pl.Int64(),  # problems or texts
    "value": pl.Float64(),
    "change": pl.Float64(),  # less the base's
    "low": pl.Float64(),  # 95 % of the change
    "high": pl.Float64(),
    "predicted": pl.Float64(),  # change that the single updates' changes predict; null where nothing is predicted
    "apart": pl.Float64(),  # change less that
    "apart_low": pl.Float64(),  # 95 %, paired bootstrap over problems; null where the differences do not vary
    "apart_high": pl.Float64(),
}


ACCURACY: dict[str, pl.DataType] = {
    **RUN,
    "benchmark": pl.String(),
    "n": pl.Int64(),  # greedy answers (sample 0), one a problem; all answers of a run that has only drawn ones
    "correct": pl.Int64(),
    "accuracy": pl.Float64(),  # share; every problem counts the same
    "low": pl.Float64(),  # 95 %: Wilson for one answer a problem, else bootstrap over problems
    "high": pl.Float64(),
    "unparsed": pl.Int64(),  # answers in which the grader found nothing to read
    "truncated": pl.Int64(),  # answers cut at max_new_tokens
    "answer_loss": pl.Float64(),  # nats a token of the reference solutions; null where none are known
}


MCNEMAR: dict[str, pl.DataType] = {
    "benchmark": pl.String(),
    "run_a": pl.String(),
    "run_b": pl.String(),
    "family": pl.String(),  # the question that the pair belongs to, "base" or "methods"; null: to none
    "n": pl.Int64(),  # problems that both answered greedily (sample 0)
    "only_a": pl.Int64(),  # right in a, wrong in b
    "only_b": pl.Int64(),
    "both": pl.Int64(),
    "neither": pl.Int64(),
    "difference": pl.Float64(),  # accuracy of a less accuracy of b, share
    "low": pl.Float64(),  # 95 % of the difference of these two models, share (Bonett and Price 2012)
    "high": pl.Float64(),
    "p_value": pl.Float64(),  # exact two-sided
    "p_mid": pl.Float64(),  # mid-p two-sided
    "p_holm": pl.Float64(),  # exact, Holm-adjusted over the pairs of its family and benchmark; null outside families
    "detectable": pl.Float64(),  # smallest true difference, share, found with power .8 at .05 / family; null: none is
    "verdict": pl.String(),  # DIFFERS, DIFFERS_LITTLE, EQUAL or NO_POWER, of these two models
    "repeats": pl.Int64(),  # replicate runs less their groups: degrees of freedom; null: no training was repeated
    "training_sd": pl.Float64(),  # of one training's accuracy, share, the sample of problems not counted
    "method_low": pl.Float64(),  # 95 % of the difference with the spread of trainings: of the two methods
    "method_high": pl.Float64(),
}


SAMPLES: dict[str, pl.DataType] = {
    "run": pl.String(),
    "benchmark": pl.String(),
    "metric": pl.String(),  # "avg", "pass" or "maj", of k samples
    "k": pl.Int64(),
    "n": pl.Int64(),  # problems
    "samples": pl.Int64(),  # drawn answers to a problem (samples 1, 2, ...); the fewest where problems differ
    "value": pl.Float64(),  # share
    "low": pl.Float64(),  # 95 %, bootstrap over problems
    "high": pl.Float64(),
}


DIFFERENCES: dict[str, pl.DataType] = {
    "benchmark": pl.String(),
    "run_a": pl.String(),
    "run_b": pl.String(),
    "n": pl.Int64(),  # problems that both answered
    "samples": pl.Int64(),  # drawn answers of a run to a problem; the fewest where they differ
    "difference": pl.Float64(),  # avg@k of a less that of b, share
    "low": pl.Float64(),  # 95 %, paired bootstrap over problems; null where the problems' differences do not vary
    "high": pl.Float64(),
}


LOG_MODELS: dict[str, pl.DataType] = {
    "model": pl.String(),
    "n": pl.Int64(),  # problems
    "k": pl.Int64(),  # samples of a problem, the fewest
    "accuracy": pl.Float64(),  # percent; with samples avg@k
    "low": pl.Float64(),  # 95 %, over problems
    "high": pl.Float64(),
    "pass_at_k": pl.Float64(),  # percent
}
"""Models of logs that other tools wrote: `tasks.evaluation.paired.Accuracy`."""


LOG_PAIRS: dict[str, pl.DataType] = {
    "a": pl.String(),
    "b": pl.String(),
    "n": pl.Int64(),  # problems that both answered
    "only_a": pl.Int64(),  # problems that only a solved, or solved more often
    "only_b": pl.Int64(),
    "difference": pl.Float64(),  # accuracy of a less that of b, points
    "low": pl.Float64(),  # 95 %, points
    "high": pl.Float64(),
    "p": pl.Float64(),  # exact McNemar, two-sided; with samples by sign flips
    "p_mid": pl.Float64(),  # null with samples
    "p_holm": pl.Float64(),  # adjusted over all pairs
    "verdict": pl.String(),
    "detectable": pl.Float64(),  # points, power .8; null with samples
}
"""Their pairs: `tasks.evaluation.paired.Pair`."""


TRAINING: dict[str, pl.DataType] = {
    "run": pl.String(),
    "step": pl.Int64(),
    "metric": pl.String(),
    "value": pl.Float64(),
}


def checked(frame: pl.DataFrame, schema: dict[str, pl.DataType], name: str) -> pl.DataFrame:
    """``frame`` with exactly ``schema``'s columns in its order, cast to its types.

    Raises `InputError` naming the frame and the column that is missing, unknown or of another type.
    """
    missing = [column for column in schema if column not in frame.columns]
    unknown = [column for column in frame.columns if column not in schema]
    if missing or unknown:
        raise InputError(f"{name}: missing columns {missing}, unknown columns {unknown}")
    try:
        return frame.select(pl.col(column).cast(kind) for column, kind in schema.items())
    except (pl.exceptions.InvalidOperationError, pl.exceptions.ComputeError) as error:
        raise InputError(f"{name}: {error}") from error
