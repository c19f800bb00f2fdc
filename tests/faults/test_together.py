"""Two at once: a fresh store that many processes open at one moment, and studies that share one."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from tests.faults import small
from tests.faults.small import check_same, done, words
from tests.faults.sound import Record
from tests.lab.living import environment, left_behind
from tests.lab.study_runs import Lab, Study

ROOT = Path(__file__).parents[2]
AT_ONCE = 8

STORES = f"""
import os, sys, time
from tasks.core import home
home.quiet_environment()
import mlflow.tracking  # the slow import, once for all of them
from tasks.storage.store import Store, StageKey

def work(i):
    store = Store()
    for name in ("shared", f"own {{i}}"):
        key = StageKey("stage", 1, {{}}, {{"name": name}})
        with store.locked(key):
            entry = store.find(key)
            said = "hit" if entry else "computed"
            entry = entry or store.produce(
                key, store.open_run(name, key=key), lambda out: {{"n": (out / "x").write_text(name)}}
            )
        print(name, said, entry.ref.sha256, *store.experiments.values())

children = []
for i in range({AT_ONCE}):
    if not (child := os.fork()):
        work(i)
        sys.stdout.flush()
        os._exit(0)
    children.append(child)
print("codes", *[os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children])
"""

SERVERS = """
import sys
from tasks.core import home
home.quiet_environment()
from flows.servers.embedded import prepare
from flows.servers.prefect_server import settle
from prefect import flow
prepare()
flow(name=f"flow {sys.argv[1]}", flow_run_name=f"run {sys.argv[1]}")(lambda: 7)()
"""


@pytest.mark.parametrize("attempt", [0, *(pytest.param(i, marks=pytest.mark.faults) for i in range(1, 6))])
def test_a_fresh_store_that_eight_processes_open_at_once(state: Path, attempt: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", STORES], cwd=ROOT, env=environment(state), text=True, capture_output=True, timeout=300,
        check=True,
    )  # fmt: skip
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["codes", *["0"] * AT_ONCE] in lines, done.stderr
    shared = [rest for name, *rest in lines if name == "shared"]
    assert Counter(said for said, *_ in shared) == {"computed": 1, "hit": AT_ONCE - 1}
    assert len({tuple(rest) for _, *rest in shared}) == 1  # one output, one pair of experiments
    own = [rest for name, *rest in lines if name == "own"]
    assert [said for _, said, *_ in own] == ["computed"] * AT_ONCE
    assert len({digest for _, _, digest, *_ in own}) == AT_ONCE
    record = Record(state / "mlflow.db", state / "artifacts")
    record.check()
    assert len(record.entries) == 1 + AT_ONCE


@pytest.mark.faults
@pytest.mark.parametrize("attempt", range(3))
def test_a_fresh_prefect_database_that_six_processes_make_at_once(state: Path, attempt: int) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SERVERS, str(i)],
            cwd=ROOT,
            env=environment(state),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for i in range(6)
    ]
    said = [process.communicate(timeout=500)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * 6, said
    with closing(sqlite3.connect(state / "prefect" / "prefect.db")) as database:
        rows = database.execute("select name, state_type from flow_run order by name").fetchall()
    assert rows == [(f"run {i}", "COMPLETED") for i in range(6)]


# --- studies ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("together") / "home")


def both(lab: Lab, *commands: tuple[str, list[str]]) -> list[Study]:
    """Commands that start at one moment, each to its end."""
    processes = [(lab.home.parent / out, lab.start(*words, out=out)) for out, words in commands]
    studies = []
    for folder, process in processes:
        stdout, stderr = process.communicate(timeout=small.SECONDS)
        assert process.returncode == 0, stderr
        studies.append(Study(folder, process.returncode, stdout, stderr, 0.0))
    return studies


@pytest.mark.faults
def test_two_equal_studies_on_a_fresh_store_share_every_stage(lab: Lab, base_model: Path) -> None:
    given = words(lab.home.parent, base_model)
    one, two = both(lab, ("one", given), ("two", given))
    computed = Counter([*one.names(hit=False), *two.names(hit=False)])
    assert set(computed.values()) == {1}
    assert computed.keys() == one.names(hit=True) | one.names(hit=False)  # each stage, once, by one of them
    assert one.names(hit=False) | one.names(hit=True) == two.names(hit=False) | two.names(hit=True)
    check_same(one, two)
    Record(lab.home / "mlflow.db", lab.home / "artifacts").check()
    assert not left_behind(lab.home)


@pytest.mark.faults
def test_two_different_studies_on_one_store_are_as_each_alone(lab: Lab, tmp_path: Path, base_model: Path) -> None:
    """Other initialisations and learning rates on the same rollouts; each again in a store of its own."""
    wanted = {
        "cold": words(lab.home.parent, base_model, "seed=1"),
        "hot": words(lab.home.parent, base_model, "methods=sft,rift", "train.lr=3e-3"),
    }
    for study, (out, given) in zip(both(lab, *wanted.items()), wanted.items(), strict=True):
        check_same(study, done(Lab(tmp_path / out / "home"), given, out))
    Record(lab.home / "mlflow.db", lab.home / "artifacts").check()
    assert os.listdir(lab.home / "staging") == []
