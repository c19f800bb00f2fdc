"""Every trainer against a bare PyTorch loop: same base, same LoRA, same batches in the same order, same optimiser."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import polars as pl
import torch
from torch.nn.functional import logsigmoid

from tasks.core.results import ArtifactRef
from tasks.core.sections import TrainSpec
from tasks.methods import Method, RowMethod
from tasks.methods.dpo import Dpo
from tasks.models.load import arithmetic, device
from tasks.settings.study import StudySpec, build
from tasks.storage.store import open_store
from tasks.training.build import build_trainer
from tasks.training.examples import build_dataset


def compare(study: dict[str, Any], steps: int, repeats: int) -> dict[str, Any]:
    """``{method: {tokens_per_second, bare_tokens_per_second, ratio}}``; medians over ``repeats`` paired timings."""
    spec = build(study["settings"])
    base, graded = _artifacts(study)
    report = {}
    for info in spec.runs():
        if info.run != info.method:  # replicates time like their originals
            continue
        method = spec.method(info.method)
        pairs = [_pair(spec, method, info, base, graded, steps) for _ in range(repeats)]
        report[info.run] = {
            "tokens_per_second": round(statistics.median(ours for ours, _ in pairs)),
            "bare_tokens_per_second": round(statistics.median(bare for _, bare in pairs)),
            "ratio": round(statistics.median(ours / bare for ours, bare in pairs), 3),
            "ratios": [round(ours / bare, 3) for ours, bare in pairs],
        }
    return report


def _artifacts(study: dict[str, Any]) -> tuple[Path, pl.DataFrame]:
    """The student's folder and the graded rollouts of the study just run, from its store."""
    store = open_store()
    found: dict[str, Path] = {}
    for run in store._runs("tags.`cache.complete` = '1'"):  # newest first; this store holds one study
        if run.data.tags["stage"] in ("pretrain", "grade"):
            uri = f"{run.info.artifact_uri}/output"
            ref = ArtifactRef(uri, run.data.tags["cache.manifest"], run.data.tags["stage"], run.info.run_id)
            found.setdefault(ref.kind, store.local(ref))
    return found["pretrain"] / "student", pl.read_parquet(found["grade"] / "rollouts.parquet")


def _pair(
    spec: StudySpec, method: Method, info: Any, base: Path, graded: pl.DataFrame, steps: int
) -> tuple[float, float]:
    """Tokens a second of the trainer and of the bare loop over the same ``steps`` batches."""
    train = spec.train.model_copy(update={"steps": steps})
    dataset = build_dataset(method.select(graded), method.kind, graded.height, steps * train.batch_size, info.data_seed)
    with tempfile.TemporaryDirectory() as folder:
        trainer, collator = build_trainer(base, dataset, method, train, spec.lora, info, None, Path(folder))
        batches = [
            collator([dataset[i] for i in range(start, start + train.batch_size)])
            for start in range(0, steps * train.batch_size, train.batch_size)
        ]
        tokens = sum(int(batch["attention_mask"].sum()) for batch in batches)
        trainer.train()  # once to warm up, then from the same start again for the clock
        fresh, _ = build_trainer(base, dataset, method, train, spec.lora, info, None, Path(folder))
        began = time.perf_counter()
        fresh.train()
        ours = time.perf_counter() - began
        bare_model = build_trainer(base, dataset, method, train, spec.lora, info, None, Path(folder))[0].model
        began = time.perf_counter()
        _bare_loop(bare_model, batches, method, info.lr, train)
        bare = time.perf_counter() - began
    return tokens / ours, tokens / bare


def _bare_loop(model: Any, batches: list[dict[str, Any]], method: Method, lr: float, train: TrainSpec) -> None:
    """Forward, loss, backward, clip, AdamW, in the trainer's arithmetic. Nothing is logged, nothing is gathered."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=lr, weight_decay=train.weight_decay, fused=True)
    autocast = torch.autocast(device(), torch.bfloat16, enabled=arithmetic(train.precision).autocast)
    model.train()
    for batch in batches:
        with autocast:
            loss = _pair_loss(model, batch, method) if isinstance(method, Dpo) else _row_loss(model, batch, method)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, train.max_grad_norm)
        optimiser.step()
        optimiser.zero_grad()


def _logprobs(model: Any, batch: dict[str, Any], target_BT: torch.Tensor) -> torch.Tensor:
    logits_BTV = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits
    return logits_BTV[:, :-1].log_softmax(-1).gather(-1, target_BT[..., None])[..., 0]


def _row_loss(model: Any, batch: dict[str, Any], method: Method) -> torch.Tensor:
    labels_BT = batch["labels"][:, 1:]
    mask_BT = labels_BT != -100
    logprobs_BT = _logprobs(model, batch, labels_BT.clamp(min=0))
    weight_B = batch.get("weight", torch.ones(len(labels_BT)))
    assert isinstance(method, RowMethod)
    return method.token_loss(logprobs_BT, mask_BT, weight_B, batch.get("behaviour")).sum() / mask_BT.sum()


def _pair_loss(model: Any, batch: dict[str, Any], method: Dpo) -> torch.Tensor:
    target_BT, mask_BT = batch["input_ids"][:, 1:], batch["completion_mask"][:, 1:]
    policy_B = (_logprobs(model, batch, target_BT) * mask_BT).sum(1)
    with torch.no_grad(), model.disable_adapter():
        reference_B = (_logprobs(model, batch, target_BT) * mask_BT).sum(1)
    chosen, rejected = (policy_B - reference_B).chunk(2)
    return -logsigmoid(method.beta * (chosen - rejected)).mean()
