"""Compare adapters that exist already: resolve their names -> measure -> report."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Annotated

import polars as pl
from prefect import flow, runtime, task
from prefect.artifacts import create_image_artifact, create_link_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE

from flows.comparison import (
    DEFAULT_KS,
    Request,
    merge_frames,
    modules_of,
    read_frames,
    resolve,
    title,
    with_weighted,
    write,
)
from flows.form import titled
from flows.record import recorded
from tasks.core.clock import now
from tasks.core.errors import InputError
from tasks.core.events import Event, emit
from tasks.core.results import ModelRef, StageResult
from tasks.core.sections import flatten
from tasks.geometry.adapters.arguments import label_all, parse
from tasks.geometry.function_tasks import merge_losses_task, text_moments_task
from tasks.geometry.task import compare_task, weigh_task
from tasks.models.external import reference as as_reference
from tasks.reporting.publish.mlflow_record import describe_by_report
from tasks.reporting.publish.published import HEAT_MAP, data_uri
from tasks.storage.store import open_store
from tasks.workers.devices import allow


@dataclass(frozen=True)
class CompareOutcome:
    """Where a finished comparison is, and whether it was measured anew."""

    page: str
    run: str
    """The comparison's MLflow run."""
    flow_run: str
    hit: bool
    wall_seconds: float


def _run_name() -> str:
    try:
        return f"compare {title(label_all([parse(adapter) for adapter in runtime.flow_run.parameters['adapters']]))}"
    except InputError:
        return "compare"  # the flow itself says what is wrong


@flow(name="compare", flow_run_name=_run_name, validate_parameters=True)
def compare_flow(
    adapters: Annotated[list[str], titled("Adapters")],
    base: Annotated[str | None, titled("Base model")] = None,
    reference: Annotated[str | None, titled("Reference")] = None,
    replicates: Annotated[tuple[str, ...], titled("Replicates")] = (),
    ks: Annotated[tuple[int, ...], titled("Subspace dimensions (k)")] = DEFAULT_KS,
    out: Annotated[str | None, titled("Folder of the report")] = None,
    texts: Annotated[str | None, titled("Texts for the activation-weighted cosine, and for merges")] = None,
    merge: Annotated[bool, titled("Before a merge")] = False,
) -> CompareOutcome:
    """Measure the geometry of adapters' weight updates, every pair of them.

    Args:
        adapters: PEFT or model directories, Hub ids, MLflow URIs or run ids; ``NAME=ADAPTER`` gives a name.
        base: The model that they were trained from; needed for whole models, and adds what compares to the base.
        reference: The name of the adapter that others are held against; default the first.
        replicates: ``A=B``: B is the method of A, trained again: their distance is the noise floor.
        ks: Subspace dimensions.
        out: Folder of the report; by default one under ``runs/``.
        texts: JSONL or parquet with ``text``, or ``prompt`` and ``completion``, that the base reads: the cosine is
            then also weighted by the inputs that its modules have on them, and the losses of merges are measured.
        merge: Also say what a merge of the reference with each other adapter would do.
    """
    began = now()
    asked = resolve(adapters, base, reference, replicates, ks, out, texts=texts, merge=merge)
    allow()
    sources = {adapter.info.run: adapter.source for adapter in asked.adapters}
    params = {"adapter": sources, "base": asked.base_name, "reference": asked.reference, "ks": asked.ks}
    tags = {"kind": "comparison", "adapters": ",".join(sources)[:5000], "reference": asked.reference}
    with recorded(f"compare {asked.title}", tags, flatten(params)) as run:
        state = compare_task(asked.title, asked.adapters, asked.base, asked.ks, return_state=True)
        measured: StageResult = state.result()
        weighted = _weighted(asked, measured)
        losses = _merge_losses(asked)
        page = report_comparison(asked, measured, weighted, losses, run)
    hit = all(one.hit for one in (measured, *weighted, *losses))
    return CompareOutcome(page, run, str(runtime.flow_run.id or ""), hit, now() - began)


def _weighted(asked: Request, measured: StageResult) -> tuple[StageResult, ...]:
    """The second moments on the texts, and the activation-weighted cosine; nothing where there are no texts."""
    if asked.texts is None or asked.base is None:
        return ()
    base = ModelRef(as_reference(asked.base))
    modules = modules_of(read_frames(open_store().local(measured.ref)))
    state = text_moments_task(base, asked.texts, modules, return_state=True)
    moments: StageResult = state.result()
    found = weigh_task(asked.title, asked.adapters, asked.base, moments, return_state=True)
    return moments, found.result()


def _merge_losses(asked: Request) -> tuple[StageResult, ...]:
    """The losses of merges on the texts; nothing where they are not asked about, or there are no texts."""
    if not asked.merge or asked.texts is None or asked.base is None:
        return ()
    base = ModelRef(as_reference(asked.base))
    state = merge_losses_task(asked.title, base, asked.texts, asked.merged, return_state=True)
    return (state.result(),)


@task(task_run_name="report", cache_policy=NO_CACHE)
def report_comparison(
    asked: Request,
    measured: StageResult,
    weighted: tuple[StageResult, ...],
    losses: tuple[StageResult, ...],
    run: str,
) -> str:
    """Write the report, make it the MLflow run's artifacts and Prefect's, and return its page."""
    began = time.perf_counter()
    emit(Event("start", "report"))
    folder = open_store().local(measured.ref)
    frames, notes = read_frames(folder), json.loads((folder / "notes.json").read_text())
    if weighted:
        moments, cosines = weighted
        found = pl.read_parquet(open_store().local(cosines.ref) / "pair_metrics.parquet")
        frames, notes = with_weighted(frames, notes, found, moments.summary)
    frames |= merge_frames(asked, open_store().local(losses[0].ref) if losses else None)
    files = write(asked, frames, notes)
    open_store().log_files(run, files, files[0].parent)
    describe_by_report(run, files[0])
    whole = "module == '*' and metric == 'cosine' and layer is null and projection is null"
    table = frames["pair_metrics"].sql(f"select run_a, run_b, value as cosine from self where {whole}")
    create_table_artifact(
        key="comparison", table=table.to_dicts(), description="Global cosine of the weight updates of each pair."
    )
    picture = files[0].parent / HEAT_MAP
    if picture in files:
        create_image_artifact(key="comparison-heat-map", image_url=data_uri(picture))
    create_link_artifact(key="comparison-page", link=files[0].absolute().as_uri(), link_text="report.html")
    emit(Event("done", "report", seconds=time.perf_counter() - began))
    return str(files[0])
