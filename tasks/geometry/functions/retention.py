"""What a run forgets, and how far it is from the base where the base itself goes.

Forgetting is the rise of the cross-entropy on texts that nobody trained on. The divergence is KL(base || run) along
answers that the base gave: the forward KL that RL's razor (Shenfeld et al. 2025, arXiv 2509.04259) relates to
forgetting. Each token's whole distribution is compared, so for drawn answers it is the mean over prefixes of the base's
own samples, and not a difference of two log-probabilities.

Runs in a worker process. Shapes: ``_P`` texts, ``_M`` models, ``_N`` tokens of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tasks.core.errors import InputError
from tasks.core.frames import OWN_ANSWERS, RETENTION, checked
from tasks.core.results import LocalBase, Progress, RunInfo, no_progress
from tasks.core.sections import FunctionSpec
from tasks.geometry.chance.bootstrap import cluster_counts, interval
from tasks.geometry.functions.divergence import REPLICATES, SEED, pair_divergences, read_logits
from tasks.geometry.functions.readout import Readout, find_readout
from tasks.geometry.paths.chosen import HELDOUT, Chosen, choose
from tasks.geometry.paths.switched import Switched, check_switchable
from tasks.geometry.paths.texts import Text, batches, texts_of

if TYPE_CHECKING:
    from tasks.models.turn import Turn

LOSSES: dict[str, pl.DataType] = {
    "run": pl.String(),
    "text": pl.String(),
    "tokens": pl.Int64(),
    "nll": pl.Float64(),  # summed over them, nats
}


def measure_retention(
    *,
    base: LocalBase,
    problems: Path,
    items: Sequence[Path],
    infos: Sequence[RunInfo],
    adapters: Sequence[Path | None],
    spec: FunctionSpec,
    max_new_tokens: int,
    drawn: bool,
    own_style: bool,
    texts: Path | None,
    out: Path,
    seed: int = 0,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Forgetting of ``infos`` (the base first) and their divergence from the base on its own answers.

    ``items``: files of ITEMS with the answers of all of them. The base's own are those to the first ``spec.n`` problems
    of `tasks.geometry.paths.chosen.choose` (which `measure_functions` takes too): its first drawn ones, or with
    ``drawn`` false its greedy ones. The texts that nobody trained on are those of the file ``texts``
    (`tasks.geometry.paths.texts.texts_of`), else with ``own_style`` the held-out reference solutions, whose
    losses the items have; else there are none. One pass in float32 over the answers, and the texts of a file, of every
    model; memory as `measure_functions` has it, without CKA.

    Writes ``retention.parquet`` (RETENTION) and ``own_answers.parquet`` (OWN_ANSWERS). Returns counts, and a ``note``
    where the model's head cannot be used: then neither divergence nor the loss on a file is had. Raises `InputError` as
    `choose`, `texts_of` and `Switched` do.
    """
    from tasks.models.load import load_model
    from tasks.models.turn import turn_at

    for folder in filter(None, adapters):
        check_switchable(folder)
    runs = [info.run for info in infos]
    asked = pl.concat([pl.read_parquet(file) for file in items]).filter(pl.col("run").is_in(runs))
    turn = turn_at(base)
    chosen = choose(turn, base.folder, problems, spec.n, max_new_tokens, base.max_length, seed)
    names, answers = own_answers(turn, chosen, asked.filter(run=runs[0]), drawn)
    read, cut = texts_of(texts, base) if texts is not None else ([], 0)
    scored = [text for text in read if text.solution]
    model = load_model(base.folder, "float32")
    readout, note = _readout(model, [*answers, *scored])
    found: dict[bool, _Sums] = {}
    if readout is not None:
        switched, done = Switched(model, dict(zip(runs, adapters, strict=True))), 0

        def tick(count: int) -> None:
            nonlocal done
            done += count
            progress(done, len(answers) + len(scored), "texts")

        for of_file, some in ((False, answers), (True, scored)):
            found[of_file] = _score(switched, readout, runs, some, spec.batch_size, turn.tokenizer.pad_token_id, tick)
    losses, own = pl.DataFrame(schema=LOSSES), pl.DataFrame(schema=OWN_ANSWERS)
    if own_style and texts is None:
        losses = solution_losses(asked)
    elif readout is not None:
        losses = _long(LOSSES, runs, [str(i) for i in range(len(scored))], found[True].tokens_P, found[True].nll_PM)
    if readout is not None:
        sums = found[False]
        own = _long(OWN_ANSWERS, runs, names, sums.tokens_P, sums.kl_PM, sums.first_PM)
    own.write_parquet(out / "own_answers.parquet")
    retention_frame(infos, losses, own, drawn).write_parquet(out / "retention.parquet")
    return {"answers": len(answers), "texts": losses["text"].n_unique(), "cut": cut, "note": note}


def own_answers(turn: Turn, chosen: Chosen, items: pl.DataFrame, drawn: bool) -> tuple[list[str], list[Text]]:
    """The base's answers to the ``chosen`` problems, in tokens, and the problems' ids; those without a token are left
    out. ``items``: ITEMS of the base alone."""
    asked = items.filter(pl.col("benchmark") == chosen.split, pl.col("sample") == int(drawn))
    said = {row["problem_id"]: row for row in asked.iter_rows(named=True)}
    names, found = [], []
    for problem in chosen.problems:
        if (row := said.get(problem.problem_id)) is None:
            continue
        if answer := turn.answer(row["completion"], closed=row["finish_reason"] == "stop"):
            names.append(problem.problem_id)
            found.append(Text(problem.prompt, answer))
    return names, found


def solution_losses(items: pl.DataFrame) -> pl.DataFrame:
    """LOSSES on the held-out reference solutions, as the evaluation scored them (ITEMS)."""
    known = items.filter(pl.col("benchmark") == HELDOUT, pl.col("sample") == 0, pl.col("answer_nll").is_not_null())
    return known.select("run", text="problem_id", tokens="answer_tokens", nll="answer_nll")


def retention_frame(infos: Sequence[RunInfo], losses: pl.DataFrame, own: pl.DataFrame, drawn: bool) -> pl.DataFrame:
    """RETENTION of ``infos``, the base first, from its and their LOSSES and OWN_ANSWERS, either of which may be empty.

    Values are ratios of sums over the texts that a run and the base both have; 95 % intervals are percentile bootstraps
    over whole texts (null for a single one), all from the same draws.
    """
    base = infos[0].run
    rows = []
    for info in infos:
        row = dict.fromkeys(RETENTION) | asdict(info)
        both = losses.filter(run=info.run).join(losses.filter(run=base), on="text", suffix="_base").sort("text")
        if both.height:
            tokens = both["tokens"].to_numpy()
            rise, low, high = _per_token((both["nll"] - both["nll_base"]).to_numpy(), tokens)
            row |= {"n": both.height, "tokens": tokens.sum(), "loss": both["nll"].sum() / tokens.sum()}
            row |= {"forgetting": rise, "forgetting_low": low, "forgetting_high": high}
        mine = own.filter(run=info.run).sort("problem_id")
        if mine.height:
            tokens = mine["tokens"].to_numpy()
            kl, low, high = _per_token(mine["kl"].to_numpy(), tokens)
            row |= {"answers": mine.height, "answer_tokens": tokens.sum(), "drawn": drawn}
            row |= {"own_kl": kl, "own_kl_low": low, "own_kl_high": high}
            row |= {"own_kl_first": mine["first"].sum() / tokens.sum()}
        rows.append(row)
    frame = pl.DataFrame(rows, schema=RETENTION).with_columns(pl.selectors.float().fill_nan(None))
    return checked(frame, RETENTION, "retention")


def _per_token(sums_P: NDArray[np.float64], tokens_P: NDArray[np.int64]) -> tuple[float, float, float]:
    """The ratio of two sums over texts, with its 95 % interval; NaN ends for a single text."""
    counts_RP = cluster_counts(range(len(sums_P)), REPLICATES, np.random.default_rng(SEED))
    draws_R = (counts_RP @ sums_P) / (counts_RP @ tokens_P)
    low, high = interval(draws_R[None], clusters=len(sums_P))
    return float(sums_P.sum() / tokens_P.sum()), float(low[0]), float(high[0])


class _Sums(NamedTuple):
    """Of every text and model, summed over the text's tokens, nats."""

    tokens_P: NDArray[np.int64]
    nll_PM: NDArray[np.float64]
    kl_PM: NDArray[np.float64]
    """KL(first model || this one)."""
    first_PM: NDArray[np.float64]
    """Of that the text's first token."""


def _score(
    switched: Switched,
    readout: Readout,
    runs: Sequence[str],
    texts: Sequence[Text],
    size: int,
    pad_id: int,
    tick: Callable[[int], None],
) -> _Sums:
    import torch

    nll_PM, kl_PM, first_PM = (np.zeros((len(texts), len(runs))) for _ in range(3))
    for batch in batches(texts, size, pad_id, switched.model.device):
        begins_N = np.diff(batch.owner, prepend=-1) != 0
        with torch.inference_mode():
            states = []
            for run in runs:
                switched.activate(run)
                last = switched.model.base_model(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False)
                states.append(last.last_hidden_state[batch.predicts])
                if not bool(states[-1].isfinite().all()):
                    raise InputError(f"run {run}: its hidden states are NaN or infinite; its weights are damaged")
            for part, logits_nMV in read_logits(switched, readout, runs, torch.stack(states, dim=1)):
                owner, begins = batch.owner[part], begins_N[part]
                kl_nM = pair_divergences(logits_nMV)[:, 0].cpu().numpy()
                logp_nMV = torch.log_softmax(logits_nMV.double(), dim=-1)
                targets_nM1 = batch.targets[part][:, None, None].expand(-1, len(runs), 1)
                np.add.at(nll_PM, owner, -logp_nMV.gather(2, targets_nM1).squeeze(2).cpu().numpy())
                np.add.at(kl_PM, owner, kl_nM)
                first_PM[owner[begins]] = kl_nM[begins]
        tick(len(batch.rows))
    return _Sums(np.array([len(text.solution) for text in texts], dtype=np.int64), nll_PM, kl_PM, first_PM)


def _readout(model: Any, texts: Sequence[Text]) -> tuple[Readout | None, str | None]:
    try:
        return (find_readout(model, texts[0].ids), None) if texts else (None, None)
    except InputError as error:
        return None, f"no divergence on the base's own answers: {error}"


def _long(
    schema: Mapping[str, pl.DataType],
    runs: Sequence[str],
    names: Sequence[str],
    tokens_P: NDArray[np.int64],
    *values_PM: NDArray[np.float64],
) -> pl.DataFrame:
    """One row a run and text in ``schema``: run, name, tokens, then the values."""
    parts = [
        pl.DataFrame(
            [[run] * len(names), list(names), tokens_P, *(values[:, i] for values in values_PM)], schema=schema
        )
        for i, run in enumerate(runs)
    ]
    return pl.concat(parts)
