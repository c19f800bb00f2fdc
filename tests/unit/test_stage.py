"""Stages in a real Prefect flow on a real MLflow store: what is computed, what it leaves, and whose seconds count."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tasks.storage.store import Store
from tests.lab.living import python

pytestmark = pytest.mark.slow  # a Prefect server and an MLflow database

ROOT = Path(__file__).parents[2]
WORK, HELD = 0.4, 2.0
"""Seconds that the first pass works, and that somebody else holds the lock it waits for."""

FLOW = """
import json, sys, threading, time
from tasks.core import home
home.quiet_environment()
from prefect import flow
from tasks.core.errors import InputError, StageError
from tasks.workers.devices import WorkerDied
from tasks.core.events import listening
from tasks.stage import Part, run_stage, run_stages
from tasks.storage.store import StageKey, open_store

class Stopped(BaseException):
    pass

def key(name):
    return StageKey("part", 1, {}, {"name": name})

def status(names):
    query = "tags.`cache.key` = '%s'"
    return [open_store()._runs(query % key(name).digest)[0].info.status for name in names]

def tried(work):
    heard = []
    try:
        with listening(lambda event: heard.append([event.kind, event.name])):
            results = work()
        said = [[one.name, one.hit, one.seconds, one.cached_seconds, one.total_seconds, one.ref.run_id, one.summary]
                for one in results]
    except BaseException as error:
        said = [type(error).__name__, str(error)]
    return {"said": said, "heard": heard}

def together(names, title, error=None, spoilt=""):
    asked = []
    def compute(missing, progress):
        asked.extend(missing)
        asked.append(status([names[place] for place in missing]))
        time.sleep(WORK if title == "first" else 0)
        if error is not None:
            raise error
        def write(out, progress, place):
            if names[place] == spoilt:
                raise ValueError("no room")
            return {"n": (out / "x").write_text(names[place])}
        return {place: lambda out, progress, place=place: write(out, progress, place) for place in missing}
    found = tried(lambda: run_stages([Part(key(name), f"part {name}") for name in names], title, compute))
    return {**found, "asked": asked}

def alone(name, error=None):
    def compute(out, progress):
        if error is not None:
            raise error
        return {"n": (out / "x").write_text(name)}
    return tried(lambda: [run_stage(key(name), f"part {name}", compute)])

def behind_a_lock(work):
    held = threading.Event()
    def hold():
        with open_store().locked(key("a")):
            held.set()
            time.sleep(HELD)
    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    found = work()
    holder.join()
    return found

@flow
def passes():
    return {
        "first": behind_a_lock(lambda: together(["b", "a"], "first")),
        "more": together(["b", "c", "a"], "more"),
        "twice": together(["d", "d"], "twice"),
        "failed": together(["e", "f"], "failed", StageError("the device is gone")),
        "died": together(["e"], "died", WorkerDied("killed")),
        "refused": together(["e"], "refused", InputError("a.field: wrong")),
        "stopped": together(["g", "h"], "stopped", Stopped("now")),
        "half": together(["i", "j"], "half", spoilt="j"),
        "again": together(["e", "f", "i", "j"], "again"),
        "one": alone("k"),
        "one again": alone("k"),
        "one failed": alone("l", StageError("no model")),
        "one broken": alone("l", ValueError("odd")),
    }

from flows.servers.embedded import prepare
prepare()
print("outcome " + json.dumps(passes()))
"""


@dataclass(frozen=True)
class Outcome:
    """What the passes said, and the store that they left."""

    passes: dict[str, Any]
    store: Store

    def status(self, name: str) -> list[tuple[str, str]]:
        """(status, the error's tag) of every MLflow run of a part, the newest first."""
        runs = self.store._runs(f"attributes.run_name = 'part {name}'")
        return [(run.info.status, run.data.tags.get("error", "")) for run in runs]


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcome]:
    """One process for all tests: a Prefect server and an MLflow database of its own cost seconds."""
    folder = tmp_path_factory.mktemp("state")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLINEAR_HOME", str(folder))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        done = python("-c", f"WORK, HELD = {WORK}, {HELD}\n{FLOW}", home=folder)
        lines = [line for line in done.stdout.splitlines() if line.startswith("outcome ")]
        assert lines, done.stderr
        yield Outcome(json.loads(lines[0].removeprefix("outcome ")), Store())


def test_the_seconds_are_of_work_and_not_of_waiting_for_a_lock(outcome: Outcome) -> None:
    said = outcome.passes["first"]["said"]
    assert [(name, hit) for name, hit, *_ in said] == [("part b", False), ("part a", False)]
    for _, _, seconds, cached, total, _, summary in said:
        assert WORK / 2 <= seconds < WORK / 2 + 0.5  # an even share, and its own writing; the lock was held for HELD
        assert cached == seconds
        assert total >= HELD + WORK - 0.3
        assert summary == {"n": 1}


def test_runs_say_running_while_they_are_computed(outcome: Outcome) -> None:
    assert outcome.passes["first"]["asked"] == [0, 1, ["RUNNING", "RUNNING"]]
    assert outcome.status("a") == outcome.status("b") == [("FINISHED", "")]


def test_only_what_the_cache_lacks_is_computed(outcome: Outcome) -> None:
    first, more = outcome.passes["first"], outcome.passes["more"]
    assert more["asked"][0] == 1
    assert [(name, hit, seconds > 0) for name, hit, seconds, *_ in more["said"]] == [
        ("part b", True, False), ("part c", False, True), ("part a", True, False),
    ]  # fmt: skip
    runs = {name: run for name, *_, run, _ in first["said"]}
    assert {name: run for name, *_, run, _ in more["said"] if name in runs} == runs
    assert more["heard"] == [["hit", "part b"], ["hit", "part a"], ["done", "more"]]


def test_two_parts_of_one_key_are_computed_once(outcome: Outcome) -> None:
    twice = outcome.passes["twice"]
    assert twice["asked"][0] == 0
    (_, hit, _, _, _, run, _), (_, hit_again, seconds_again, _, _, run_again, _) = twice["said"]
    assert (hit, hit_again, seconds_again, run) == (False, True, 0.0, run_again)
    assert outcome.status("d") == [("FINISHED", "")]


def test_a_failed_pass_leaves_runs_that_say_failed_and_why(outcome: Outcome) -> None:
    assert outcome.passes["failed"]["said"] == ["StageError", "failed: the device is gone"]
    assert outcome.passes["failed"]["heard"] == [["failed", "failed"]]
    assert outcome.passes["died"]["said"] == ["WorkerDied", "died: killed"]  # its kind decides whether to try again
    assert outcome.passes["refused"]["said"] == ["InputError", "a.field: wrong"]
    reasons = ["InputError: a.field: wrong", "WorkerDied: killed", "StageError: the device is gone"]
    assert outcome.status("e") == [("FINISHED", ""), *(("FAILED", reason) for reason in reasons)]
    assert outcome.status("f") == [("FINISHED", ""), ("FAILED", reasons[-1])]


def test_a_pass_that_is_interrupted_leaves_failed_runs_as_well(outcome: Outcome) -> None:
    assert outcome.passes["stopped"]["said"] == ["Stopped", "now"]
    assert outcome.passes["stopped"]["heard"] == []
    assert outcome.status("g") == outcome.status("h") == [("FAILED", "Stopped: now")]


def test_parts_written_before_a_failure_are_kept(outcome: Outcome) -> None:
    assert outcome.passes["half"]["said"] == ["ValueError", "no room"]
    assert outcome.status("i") == [("FINISHED", "")]
    assert outcome.status("j") == [("FINISHED", ""), ("FAILED", "ValueError: no room")]
    assert outcome.passes["again"]["asked"][:-1] == [0, 1, 3]  # i was there


def test_one_stage_is_computed_once_and_its_failures_say_why(outcome: Outcome) -> None:
    ((_, hit, *_, run, summary),) = outcome.passes["one"]["said"]
    ((_, hit_again, *_, run_again, summary_again),) = outcome.passes["one again"]["said"]
    assert (hit, hit_again, run, summary) == (False, True, run_again, summary_again)
    assert outcome.passes["one failed"]["said"] == ["StageError", "part l: no model"]
    assert outcome.passes["one broken"]["said"] == ["ValueError", "odd"]
    assert outcome.status("l") == [("FAILED", "ValueError: odd"), ("FAILED", "StageError: no model")]
