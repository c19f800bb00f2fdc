"""What models compute, not what they weigh: hidden states, the logit lens and divergences, in one pass over problems.

Runs in a worker process: torch, transformers and PEFT are imported when called.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from tasks.core.errors import InputError
from tasks.core.frames import CKA, DIVERGENCE, LENS, checked
from tasks.core.results import LocalBase, Progress, no_progress
from tasks.core.sections import FunctionSpec
from tasks.geometry.cka import Accumulator, Similarities
from tasks.geometry.functions.divergence import BLOCK_BYTES, divergence_frame, pair_divergences, read_logits
from tasks.geometry.functions.lens import Lens, lens_frame
from tasks.geometry.functions.readout import Readout, find_readout
from tasks.geometry.paths.chosen import choose
from tasks.geometry.paths.switched import Switched, check_switchable
from tasks.geometry.paths.texts import Batch, Pooling, Text, as_texts, batches, pooled, rows_of

if TYPE_CHECKING:
    from torch import Tensor

CKA_BYTES = 16 * 2**30
"""Most that the CKA of all layers may hold."""


def measure_functions(
    *,
    base: LocalBase,
    problems: Path,
    adapters: Mapping[str, Path | None],
    spec: FunctionSpec,
    max_new_tokens: int,
    out: Path,
    seed: int = 0,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Compare what ``adapters`` (run -> PEFT directory, None for the base itself) compute on held-out problems.

    One pass: for each batch of prompts with their reference solutions (teacher-forced) the base and every adapter in
    turn. Used are the first ``spec.n`` problems of `tasks.geometry.paths.chosen.choose`, as for the paths
    (``max_new_tokens`` only decides which of them fit); where no solution is known, ``\\boxed{gold}``. Writes to
    ``out``

    - ``cka.parquet`` (CKA): every pair and layer, debiased and biased, of hidden states at the prompts' ``pooling``:
      ``last`` token, ``mean``, or ``tokens`` (each one a row). Layers as transformers gives them: 0 is the embedding's
      output, the last is after the final norm. With ``last``, layer 0 mostly has no variance (every prompt ends in the
      same token) and so no value, with that as its reason.
    - ``lens.parquet`` (LENS), `tasks.geometry.functions.lens`, at every token of the solutions.
    - ``divergence.parquet`` (DIVERGENCE), `tasks.geometry.functions.divergence`, at the same tokens.

    Lens and divergence are empty, and ``note`` of the result says why, for a model whose final norm or head cannot be
    used. All arithmetic is in float32, also for a bfloat16 base: adapters are small beside bfloat16's rounding.

    Held (M runs, L layers, p hidden size, V vocabulary, n problems): the base in float32 and all adapters; of a batch
    (L + 1) B T p 4 bytes of hidden states of one model, and M (L + 1) B p 4 bytes of pooled ones; a block of logits of
    `BLOCK_BYTES` (but never less than one token's, 32 M V bytes); for CKA the smaller of 4 (L + 1) M n p and
    4 (L + 1) M (M + 1) p^2 bytes (n its rows), which is refused above `CKA_BYTES`; for the divergence 8 n M^2 bytes.
    Cost: M forward passes of all tokens, the head M (L + 1) times at the solutions' tokens for the lens (most of the
    cost where V is large), M^2 V multiplications a token for the divergence.

    ``progress`` counts problems. Returns counts: problems (of ``split``), boxed_references, too_long, tokens (of
    solutions), rows (of CKA), layers, unmeasured (CKA rows without a value), and ``note``. Raises `InputError` for
    fewer than 2 runs, an adapter that does not fit, no problem that fits, hidden states that are not
    finite, and CKA beyond `CKA_BYTES`.
    """
    from tasks.models.load import load_model
    from tasks.models.turn import turn_at

    if len(adapters) < 2:
        raise InputError(f"adapters: {len(adapters)} given; need at least 2 to compare, of which one may be the base")
    pooling = spec.pooling
    for folder in filter(None, adapters.values()):
        check_switchable(folder)
    turn = turn_at(base)
    chosen = choose(turn, base.folder, problems, spec.n, max_new_tokens, base.max_length, seed)
    texts = as_texts(turn, chosen)
    model = load_model(base.folder, "float32")
    readout, note = _readout(model, texts[0])
    measured = _Pass(Switched(model, adapters), list(adapters), texts, pooling, readout)
    done = 0
    for batch in batches(texts, spec.batch_size, turn.tokenizer.pad_token_id, model.device):
        measured.add(batch)
        done += len(batch.rows)
        progress(done, len(texts), "functions")
    cka = measured.cka_frame()
    cka.write_parquet(out / "cka.parquet")
    measured.lens_frame().write_parquet(out / "lens.parquet")
    measured.divergence_frame().write_parquet(out / "divergence.parquet")
    return {
        "problems": len(texts),
        "split": chosen.split,
        "boxed_references": sum(problem.solution is None for problem in chosen.problems),
        "too_long": chosen.too_long,
        "tokens": sum(len(text.solution) for text in texts),
        "rows": rows_of(texts, pooling),
        "layers": measured.layers,
        "unmeasured": cka["value"].null_count(),
        "note": note,
    }


def _readout(model: Any, text: Text) -> tuple[Readout | None, str | None]:
    try:
        readout = find_readout(model, text.ids)
    except InputError as error:
        return None, f"no logit lens and no divergence: {error}"
    return (
        readout,
        None if readout.norm_name else "no logit lens: the model has no final norm that all layers can share",
    )


class _Pass:
    """The sums of one pass over the batches."""

    def __init__(
        self, switched: Switched, runs: list[str], texts: list[Text], pooling: Pooling, readout: Readout | None
    ) -> None:
        config = switched.model.config.get_text_config()
        self.layers: int = config.num_hidden_layers
        self._switched, self._runs, self._pooling, self._readout = switched, runs, pooling, readout
        self._block = BLOCK_BYTES[switched.model.device.type]
        rows, widths = rows_of(texts, pooling), [config.hidden_size] * len(runs)
        self._cka = [Accumulator(widths, rows, itemsize=4) for _ in range(self.layers + 1)]
        if (needed := sum(one.nbytes for one in self._cka)) > CKA_BYTES:
            raise InputError(
                f"pooling: CKA of {rows} rows of {len(runs)} models and {self.layers} layers would hold "
                f"{needed / 2**30:.0f} GiB, the most is {CKA_BYTES // 2**30}; use 'last', or fewer problems or runs"
            )
        lens = readout is not None and readout.norm_name
        self._lenses = {run: Lens.empty(self.layers) for run in runs} if lens else {}
        self._kl_PMM = np.zeros((len(texts), len(runs), len(runs)))
        self._tokens_P = np.array([len(text.solution) for text in texts])

    def add(self, batch: Batch) -> None:
        """Every run on one batch."""
        import torch

        states_LM: list[list[np.ndarray]] = [[] for _ in self._cka]
        final_M: list[Tensor] = []
        with torch.inference_mode():
            for run in self._runs:
                self._switched.activate(run)
                found = self._forward(run, batch)
                for layer, hidden_BTp in enumerate(found):
                    states_LM[layer].append(pooled(hidden_BTp, batch, self._pooling))
                if self._readout is not None:
                    solution_L = [hidden_BTp[batch.predicts] for hidden_BTp in found]
                    final_M.append(solution_L[-1])
                    if run in self._lenses:
                        self._lenses[run].add(self._readout, solution_L, batch.targets, self._block)
            if self._readout is not None:
                states_NMp = torch.stack(final_M, dim=1)
                for part, logits_NMV in read_logits(self._switched, self._readout, self._runs, states_NMp):
                    np.add.at(self._kl_PMM, batch.owner[part], pair_divergences(logits_NMV).cpu().numpy())
        for accumulator, states_M in zip(self._cka, states_LM, strict=True):
            accumulator.add(states_M)

    def _forward(self, run: str, batch: Batch) -> list[Tensor]:
        """L tensors (B, T, p); the last one after the final norm. The head is left out: (B, T, V) is never made."""
        output = self._switched.model.base_model(
            input_ids=batch.ids, attention_mask=batch.mask, output_hidden_states=True, use_cache=False
        )
        last = output.last_hidden_state
        if not bool(last[batch.mask.bool()].isfinite().all()):
            raise InputError(f"run {run}: its hidden states are NaN or infinite; its weights are damaged or diverged")
        return [*output.hidden_states[: self.layers], last]

    def cka_frame(self) -> pl.DataFrame:
        """One layer at a time: its Grams are gone before the next one's are made."""
        rows: list[tuple[Any, ...]] = []
        for layer, accumulator in enumerate(self._cka):
            found: Similarities = accumulator.result()
            for a, b in combinations(range(len(self._runs)), 2):
                for estimator in ("debiased", "biased"):
                    value, reason = found.pair(a, b, estimator == "debiased")
                    names = (self._runs[a], self._runs[b], layer, self._pooling, estimator, found.rows)
                    rows.append((*names, None if reason else value, reason))
        return checked(pl.DataFrame(rows, schema=CKA, orient="row"), CKA, "cka")

    def lens_frame(self) -> pl.DataFrame:
        return lens_frame(self._lenses) if self._lenses else pl.DataFrame(schema=LENS)

    def divergence_frame(self) -> pl.DataFrame:
        if self._readout is None:
            return pl.DataFrame(schema=DIVERGENCE)
        return divergence_frame(self._runs, self._kl_PMM, self._tokens_P)
