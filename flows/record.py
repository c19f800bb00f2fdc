"""A study's own record: its MLflow run, its stages and checks, and what happens to them when it fails."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

import polars as pl
from prefect.futures import PrefectFuture, wait

from flows.cluster.ray_cluster import machine
from flows.notes.activations import activation_notes
from flows.notes.epochs import epoch_notes, read_often
from flows.notes.functions import function_notes
from flows.notes.rollouts import dropped, few_examples, read_as, rollout_notes, taught, unjudged
from flows.notes.world import world_notes
from flows.servers.crashed_runs import open_recorded
from flows.servers.prefect_server import send_rest, wait_until_there
from tasks.core.clock import now
from tasks.core.errors import InputError, StageError
from tasks.core.events import Event, emit
from tasks.core.results import ModelRef, RunInfo, StageResult
from tasks.core.secrets import without_password
from tasks.core.sections import flatten
from tasks.core.stages import DEQUANTISE, EVALUATE, TRAIN
from tasks.core.visible import dated_folder
from tasks.evaluation.together import UNPARSED_GOLDS
from tasks.models.gguf_file import quantised_note
from tasks.planning.plan import base_of
from tasks.problems.files import QUESTION_ALONE
from tasks.problems.hub import PREFIX
from tasks.reporting.findings.doubts import uniform_rewards
from tasks.reporting.notes import count
from tasks.reporting.publish.record import commit, versions
from tasks.settings.study import StudySpec
from tasks.storage.leftovers import drop_leftovers
from tasks.storage.store import open_store
from tasks.training.checks import read_stream, shared_initialisation, shared_stream
from tasks.training.log import FOUND, Diverged, divergence
from tasks.workers.devices import allow, stop

BASE_ANSWERS = "evaluate base"
"""Name of the stage of the base's answers."""

SEEN = "shared_with_rollouts_dropped"
MOST_DAMAGE = 5
"""Damages that the report's note spells out."""


def first_failure(futures: Sequence[PrefectFuture[Any]]) -> BaseException | None:
    """The failure of the first future that failed by itself, not because one that it waits for did."""
    failures = []
    for future in futures:
        try:
            future.result()
        except BaseException as error:
            failures.append(error)
    own = [error for error in failures if isinstance(error, InputError | StageError)]
    return next(iter(own or failures), None)


def judged_by(spec: StudySpec, problems: StageResult) -> list[dict[str, Any]]:
    """What the models are asked: of each benchmark its name, problems, source, template, and what training had seen."""
    found = problems.summary
    source = _source(spec.evaluation.problems) if spec.evaluation.problems else "held out of the rollouts"
    named = [key.removesuffix(".template") for key in found if key.endswith(".template")]
    benchmarks = [
        {"name": name, **{key: found[f"{name}.{key}"] for key in ("n", "source", "template", SEEN)}} for name in named
    ]
    everything = int(found.get(SEEN) or 0)  # of the world's own problems none was: it is checked
    own = {
        "source": source if spec.own else "made by the study",
        "template": found.get("heldout_template", QUESTION_ALONE),
        SEEN: everything - sum(int(one[SEEN] or 0) for one in benchmarks),
    }
    splits = [{"name": name, "n": found[name], **own} for name in ("heldout", "hard") if found.get(name)]
    return [*splits, *benchmarks]


def _source(problems: str) -> str:
    """What ``evaluation.problems`` names, without a path of this machine."""
    return problems if problems.startswith(PREFIX) else Path(problems).name


def unparsed_golds(results: Sequence[StageResult]) -> dict[str, int]:
    """{benchmark: problems whose gold the grader cannot read}, of those that the base was asked."""
    return {
        key.removesuffix(UNPARSED_GOLDS): int(number or 0)
        for result in results
        if result.name == BASE_ANSWERS
        for key, number in result.summary.items()
        if key.endswith(UNPARSED_GOLDS)
    }


def engine_versions(results: Sequence[StageResult]) -> dict[str, str]:
    """The vLLM that computed stages of this study, which may be another environment's or another machine's."""
    found = {str(result.summary["vllm"]) for result in results if "vllm" in result.summary}
    return {"vllm": ", ".join(sorted(found))} if found else {}


def damage_notes(results: Sequence[StageResult]) -> list[str]:
    """What a reader should know of files that were found damaged while the study ran: that nothing of them was used."""
    found = [what for result in results for what in result.damage]
    more = f" and {len(found) - MOST_DAMAGE} more" if len(found) > MOST_DAMAGE else ""
    return [f"Found damaged, not used, and made anew: {'; '.join(found[:MOST_DAMAGE])}{more}."] if found else []


def router_notes(results: Sequence[StageResult]) -> list[str]:
    """What a base with experts was trained without."""
    dropped = {result.summary.get("router_loss_dropped") for result in results} - {None}
    return [
        f"The base has experts. The loss that balances them (router_aux_loss_coef {coefficient:g} in its config) is in "
        "no method's objective, so that the methods differ in their own losses alone."
        for coefficient in dropped
    ]


def base_notes(results: Sequence[StageResult]) -> list[str]:
    """That the base was a GGUF file, and how it was quantised."""
    return [
        quantised_note(
            result.name.removeprefix("dequantise "),
            str(result.summary["quantisation"]),
            str(result.summary["stored_as"]),
        )
        for result in results
        if result.stage == DEQUANTISE.name
    ]


@contextmanager
def recorded(name: str, tags: Mapping[str, str], params: Mapping[str, Any]) -> Iterator[str]:
    """The MLflow run of a study, a sweep or a comparison, closed with the outcome; who interrupts it ends its workers.

    It waits until Prefect can be told: a flow run that ends while its server is away is lost to it. A server that stays
    away hides no earlier error.
    """
    run = open_recorded(name, tags, params)
    try:
        yield run
    except BaseException as error:
        interrupted = not isinstance(error, Exception)  # Ctrl-C, SIGTERM, a cancelled run
        if interrupted:
            stop()
        with suppress(Exception):
            _end(run, "KILLED" if interrupted else "FAILED")
        raise
    _end(run, "FINISHED")


def _end(run: str, status: str) -> None:
    open_store().end_study(run, status)
    wait_until_there()
    send_rest()


class Recorder:
    """Context of one study: opens its MLflow run, collects what its stages report, closes the run with its outcome."""

    def __init__(self, spec: StudySpec, out: str | None, sweep: str | None = None) -> None:
        """``sweep``: MLflow run of the sweep that the study is a cell of."""
        self.spec, self.sweep = spec, sweep
        self.began = now()
        self.out = Path(out) if out else dated_folder(spec.name)
        self.results: list[StageResult] = []
        self._noted: set[str] = set()
        self.checks: list[dict[str, Any]] = []
        self.diverged: list[dict[str, Any]] = []
        self.study_run, self._open = "", ExitStack()

    def __enter__(self) -> Recorder:
        if self.sweep is None:  # a sweep that is being stopped must not be allowed again by its next cell
            allow()
        tags = {"study": self.spec.name, "seed": str(self.spec.seed), "methods": ",".join(self.spec.methods)}
        parent = {"mlflow.parentRunId": self.sweep} if self.sweep else {}
        params = flatten(self.spec.model_dump(mode="json"))
        self.study_run = self._open.enter_context(
            recorded(f"{self.spec.name} seed={self.spec.seed}", tags | parent, params)
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.__exit__(kind, error, trace)
        if error is None:
            drop_leftovers()

    def stage(self, future: PrefectFuture[Any]) -> StageResult:
        """Wait for one stage and note it."""
        return self.stages([future])[0]

    def stages(self, futures: Sequence[PrefectFuture[Any]]) -> list[StageResult]:
        """Wait for all, note those that finished, then raise the first failure if there is one.

        A task that does several stages in one go returns a list, which is taken apart.
        """
        wait(list(futures))
        failure = first_failure(futures)
        if failure is not None:
            raise failure
        return self._note(futures)

    def note_finished(self, futures: Mapping[str, Sequence[PrefectFuture[Any]]]) -> None:
        """Wait for all and note those that ended well; asked for again, they are not noted again."""
        asked = [future for several in futures.values() for future in several]
        wait(asked)
        found = self._note([future for future in asked if first_failure([future]) is None])
        self._noted = {one.ref.run_id for one in found}

    def _note(self, futures: Sequence[PrefectFuture[Any]]) -> list[StageResult]:
        found = [future.result() for future in futures]
        results = [one for many in found for one in (many if isinstance(many, list) else [many])]
        new = [one for one in results if one.ref.run_id not in self._noted]
        self.results += [*new, *self._shared(new)]
        return results

    def _shared(self, results: Sequence[StageResult]) -> list[StageResult]:
        """The stages that these used, each once: as the one that computed it tells, else as a hit."""
        noted = {one.ref.run_id for one in self.results}
        used = sorted((used for one in results for used in one.used), key=lambda used: used.hit, reverse=True)
        return list({one.ref.run_id: one for one in used if one.ref.run_id not in noted}.values())

    def survivors(self, training: Mapping[RunInfo, Any]) -> dict[RunInfo, Any]:
        """Wait for all; those that did not diverge. Those that did are noted as what came of them, and left out.

        Raises `Diverged` where no training is left.
        """
        wait(list(training.values()))
        ended = {info: first_failure([future]) for info, future in training.items()}
        for info in [info for info in self.spec.runs() if isinstance(ended[info], Diverged)]:
            said = str(ended[info])
            self.diverged.append({**asdict(info), "reason": divergence(said), "found": FOUND in said})
        if len(training) == len(self.diverged) == 1:
            raise next(failure for failure in ended.values() if failure is not None)
        if len(self.diverged) == len(training):
            raise Diverged(f"every method diverged; {self.diverged[0]['run']}: {self.diverged[0]['reason']}")
        return {info: future for info, future in training.items() if not isinstance(ended[info], Diverged)}

    def doubt_rewards(self, graded: StageResult) -> None:
        """Say at once what the report will warn of: rewards that leave the methods little to tell apart."""
        for doubt in uniform_rewards(graded.summary):
            emit(Event("doubt", graded.name, note=doubt))

    def check_controls(self, trained: Mapping[RunInfo, StageResult], graded: StageResult) -> None:
        """The study's controls: one initialisation a seed, one stream of data. Raises `StageError` where they fail."""
        store = open_store()
        self.checks.append(
            shared_initialisation({info: str(result.summary["lora_a_sha256"]) for info, result in trained.items()})
        )
        frame = pl.read_parquet(store.local(graded.ref) / "rollouts.parquet")
        kinds = {info: self.spec.method(info.method).kind for info in trained}
        rows = {info: result for info, result in trained.items() if kinds[info] in ("rows", "unpaired")}
        self.checks.append(
            shared_stream(
                {
                    info: read_stream(pl.read_parquet(store.local(result.ref) / "stream.parquet"))
                    for info, result in rows.items()
                },
                {info: set(self.spec.method(info.method).select(frame)["row"].to_list()) for info in rows},
            )
        )
        for check in self.checks:
            if not check["ok"]:
                raise StageError(f"{check['name']}: {check['detail']}; the methods cannot be compared")

    def summary(
        self,
        rollouts: StageResult,
        problems: StageResult,
        base: ModelRef,
        trained: Mapping[RunInfo, StageResult],
    ) -> dict[str, Any]:
        """What the report says of the study itself, before it is written."""
        overlap = problems.summary.get("overlap", 0)
        checks = [
            *self.checks,
            {
                "name": "held-out problems unseen",
                "ok": not overlap,
                "detail": self._overlap(problems),
            },
        ]
        stages = [
            {
                "stage": result.stage,
                "name": result.name,
                "seconds": round(result.seconds, 3),
                "total_seconds": round(result.total_seconds, 3),
                "hit": result.hit,
                "cached_seconds": round(result.cached_seconds, 3),
                "started": round(result.started - self.began, 3),
                "peak_bytes": result.summary.get("peak_bytes"),
            }
            for result in sorted(self.results, key=lambda result: result.started)
        ]
        store, shape = open_store(), base_of(self.spec).shape
        left_out = {one["run"] for one in self.diverged}
        return {
            "rollouts": {"dropped": dropped(rollouts)} | ({"read": read} if (read := read_as(rollouts)) else {}),
            "study": {
                "name": self.spec.name,
                "settings": self.spec.model_dump(mode="json"),
                "versions": versions() | engine_versions(self.results),
                "commit": commit(),
                "mlflow": {"uri": without_password(store.uri), "study": self.study_run}
                | {r.name: r.summary["mlflow_run"] for r in self.results if r.stage == TRAIN.name},
                "stages": stages,
                "wall_seconds": round(now() - self.began, 1),
                "machine": machine(),
                "parameters": shape.parameters if shape else None,
                "checks": checks,
                "notes": [*self._notes(), *epoch_notes(self.spec, trained)],
                "training": read_often(self.spec, trained),
                "benchmarks": judged_by(self.spec, problems),
                "unparsed_golds": unparsed_golds(self.results),
                "turn": asdict(base.turn) if base.turn is not None else None,
                "runs": [asdict(info) for info in self.spec.runs() if info.run not in left_out],
                "diverged": self.diverged,
            },
        }

    def _overlap(self, problems: StageResult) -> str:
        shared = f"{problems.summary.get('overlap', 0)} questions shared with "
        if not self.spec.own:
            return shared + "pretraining, rollouts or another split"
        left_out = problems.summary["shared_with_rollouts_dropped"]
        return shared + f"the rollouts ({left_out} were left out); what the base was pretrained on is not known"

    def _notes(self) -> list[str]:
        notes = [
            "Stage seconds are those of bare work; the report's own writing comes after them.",
            "TRL divides each batch's loss by its completion tokens; the paper's sums are not divided.",
        ]
        left_out: dict[int, list[str]] = {}
        for result in self.results:
            if result.stage == TRAIN.name and (warning := result.summary.get("warning")):
                notes.append(f"{result.name}: {warning}.")
            if result.stage == EVALUATE.name and (too_long := result.summary["too_long"]):
                left_out.setdefault(int(too_long), []).append(result.name.removeprefix("evaluate "))
            if result.name == BASE_ANSWERS and (boxed := result.summary["boxed_references"]):
                notes.append(f"{boxed} held-out problems have no known solution: their answer loss is of the box.")
        for too_long, models in left_out.items():  # by prompt: those that are asked alike leave out the same
            who = f"{models[0]} and {len(models) - 1} more" if len(models) > 1 else models[0]
            passed = count(too_long, "problem")
            notes.append(f"{passed} did not fit the context with prompt and answer: left out for {who}.")
        notes += base_notes(self.results)
        notes += world_notes(self.results, self.spec.tiny)
        notes += router_notes(self.results)
        notes += damage_notes(self.results)
        notes += activation_notes(self.results)
        notes += function_notes(self.results, self.spec.paths.readings)
        notes += unjudged(self.spec) + taught(self.spec)
        if not self.spec.own:
            notes.append(
                "Reference solutions are in the student's own style: learning the teacher's style raises the answer "
                "loss without any harm to the answers."
            )
        if self.spec.own:
            notes.append("Behaviour log-probabilities that do not match the base's tokens are dropped.")
        notes += rollout_notes(self.results)
        notes += few_examples(self.results, self.spec)
        return notes
