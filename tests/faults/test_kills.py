"""kill -9 at seeded random moments of a study, again and again, until it is finished: nothing is lost but time.

`make test-faults` runs it; ``COLINEAR_FAULTS_SEED`` draws other moments. Each chain is one study in a state folder of
its own. What is asserted: no stage is done twice; the adapters are those of an undisturbed study to the last bit, and
so is every number of the report; every entry of the cache is whole; no process is left `GONE_SECONDS` after each end of
the driver, and no lock or half-made file at the end.
"""

from __future__ import annotations

import os
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults.chain import APART, EMBEDDED, Chain, Kill, plan
from tests.faults.killable import mlflow_server, prefect_server
from tests.faults.sound import Record, check_folder, check_same_numbers, copy_of

pytestmark = pytest.mark.faults

SEED = int(os.environ.get("COLINEAR_FAULTS_SEED", "0"))
LEAST = 9
"""Kills of a chain: a moment may come too late in a study that is quicker than the plan."""


@dataclass(frozen=True)
class Reference:
    """An undisturbed study."""

    home: Path
    out: Path
    adapters: dict[str, str]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    chain = Chain(tmp_path_factory.mktemp("reference"), SEED)
    run = chain.finish([])
    assert len(chain.runs) == 1, chain.runs[0].lines
    assert len(run.names("done")) == len(set(run.names("done")))
    record = Record(chain.home / "mlflow.db", chain.home / "artifacts")
    assert len(record.adapters) == 7
    return Reference(chain.home, chain.out, record.adapters)


def check(chain: Chain, record: Record, reference: Reference, kills: list[Kill]) -> None:
    kills += chain.kills
    done = Counter(name for run in chain.runs for name in run.names("done") if name != "report")
    assert {name: times for name, times in done.items() if times > 1} == {}
    record.check()
    assert record.adapters == reference.adapters
    check_same_numbers(chain.out, reference.out)
    check_folder(chain.folder)
    assert len(chain.kills) >= LEAST


@pytest.mark.parametrize("seed", [10 * SEED + 1, 10 * SEED + 2, 10 * SEED + 3])
def test_a_study_killed_again_and_again_has_the_numbers_of_one_that_was_not(
    seed: int, reference: Reference, tmp_path: Path, kills: list[Kill]
) -> None:
    """Its own Prefect server, and MLflow on SQLite: the driver, its group, workers by stage, their server."""
    chain, known = Chain(tmp_path / "chain", seed), ["pretrain"] if seed % 10 > 1 else []  # one chain makes its own
    if known:
        copy_of(reference.home, chain.home, known)
    chain.finish(plan(seed, EMBEDDED, known))
    check(chain, Record(chain.home / "mlflow.db", chain.home / "artifacts"), reference, kills)


def test_servers_apart_are_killed_and_come_back(reference: Reference, tmp_path: Path, kills: list[Kill]) -> None:
    """Each is back 1 to 8 seconds after its kill (and then takes its time to start)."""
    with ExitStack() as stack:
        prefect, mlflow = prefect_server(tmp_path / "prefect"), mlflow_server(tmp_path / "mlflow")
        stack.callback(prefect.end)
        stack.callback(mlflow.end)
        chain = Chain(
            tmp_path / "chain", 10 * SEED + 4, {"PREFECT_API_URL": prefect.uri, "MLFLOW_TRACKING_URI": mlflow.uri}
        )
        chain.servers = {"prefect server": prefect, "mlflow server": mlflow}
        chain.finish(plan(10 * SEED + 4, APART))
    check(chain, Record(tmp_path / "mlflow" / "mlflow.db", tmp_path / "mlflow" / "artifacts"), reference, kills)
