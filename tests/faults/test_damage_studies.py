"""Damage to a finished study's artifacts, a stopped one's checkpoints and the database; then the same command again."""

from __future__ import annotations

import os
import random
import re
import signal
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import pytest

from tests.faults import small
from tests.faults.small import check_same, done, words
from tests.faults.test_damage import exchange
from tests.lab.living import until
from tests.lab.study_runs import Lab, Study

pytestmark = pytest.mark.faults

SEED = os.environ.get("COLINEAR_FAULTS_SEED", "0")
LONGER = ("methods=sft,rft", "train.steps=3000", "train.checkpoint_steps=20", "paths.n=0", "functions.n=0")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("lab") / "home")


@pytest.fixture(scope="module")
def given(lab: Lab, base_model: Path) -> list[str]:
    return words(lab.home.parent, base_model)


@pytest.fixture(scope="module")
def first(lab: Lab, given: list[str]) -> Study:
    return done(lab, given, "first")


def entries(lab: Lab) -> dict[str, Path]:
    """{stage's name: the folder of its newest output} of every sound entry."""
    with closing(sqlite3.connect(lab.home / "mlflow.db")) as database:
        rows = database.execute(
            "select r.name, r.run_uuid from runs r join tags t on r.run_uuid = t.run_uuid "
            "where t.key = 'cache.complete' and t.value = '1' and r.status = 'FINISHED' order by r.start_time"
        ).fetchall()
    return {name: next((lab.home / "artifacts").glob(f"*/{run}/artifacts/output")) for name, run in rows}


def spoil(folder: Path, rng: random.Random) -> str:
    """Damage one file of an entry; returns its name."""
    path = rng.choice([path for path in sorted(folder.rglob("*")) if path.is_file()])
    content = bytearray(path.read_bytes())
    match rng.choice(["flip", "truncate", "delete"]):
        case "flip":
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
            path.write_bytes(content)
        case "truncate":
            path.write_bytes(content[: rng.randrange(len(content))])
        case _:
            path.unlink()
    return path.relative_to(folder).as_posix()


def said_damaged(study: Study) -> dict[str, str]:
    """{stage: what was wrong} of the lines in the terminal."""
    found = re.findall(r"^  damaged (.+?): (.+)$", study.stdout, re.MULTILINE)
    return {name.strip(): what for name, what in found}


@pytest.mark.parametrize("draw", range(4))
def test_what_is_damaged_is_made_anew_and_nothing_else(lab: Lab, given: list[str], first: Study, draw: int) -> None:
    rng = random.Random(f"{SEED} study {draw}")
    folders = entries(lab)
    chosen = rng.sample(sorted(folders), 6)
    damage: Mapping[str, str] = {name: spoil(folders[name], rng) for name in chosen[:4]}
    exchange(folders[chosen[4]], folders[chosen[5]])  # whole folders of two entries
    study = done(lab, given, f"again {draw}")
    told = said_damaged(study)
    assert told.keys() == set(chosen)
    for name, file in damage.items():
        assert told[name].startswith(f"{file} "), told[name]
    assert study.names(hit=False) == set(chosen)  # made anew with the same bytes, so that nothing after them was
    check_same(study, first)
    [note] = [note for note in study.record["notes"] if "damaged" in note]
    assert note.startswith("Found damaged, not used, and made anew: ")
    assert note.count(" (MLflow run ") == 5  # and 1 more
    assert note in (study.folder / "report.md").read_text()


def test_a_study_that_was_pre_empted_goes_on_from_the_checkpoint_that_is_sound(lab: Lab, base_model: Path) -> None:
    """SIGTERM, as a batch system sends it; then the newest checkpoints are damaged."""
    given = words(lab.home.parent, base_model, *LONGER)
    process = lab.start(*given, out="stopped")
    until(lambda: len(list(lab.home.glob("checkpoints/*/checkpoint-*.manifest.json"))) >= 3, small.SECONDS)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=small.SECONDS)
    assert process.returncode == 143, stderr
    assert stderr == ("colinear: ended by SIGTERM; finished stages are kept: run the same command again to go on\n")
    kept = sorted((lab.home / "checkpoints").iterdir())
    assert kept
    rng = random.Random(f"{SEED} checkpoints")
    steps = {}
    for folder in kept:
        sealed = [path.with_suffix("").with_suffix("") for path in folder.glob("checkpoint-*.manifest.json")]
        *older, newest = sorted(sealed, key=lambda path: int(path.name[11:]))
        spoil(newest, rng)
        steps[newest.name] = f"goes on from {older[-1].name}" if older else "begins anew"
    resumed = done(lab, given, "resumed")
    told = said_damaged(resumed)
    assert all(name.startswith("train ") for name in told)
    found = [re.fullmatch(r"(checkpoint-\d+): .+; ([^;]+)", what) for what in told.values()]
    assert {match[1]: match[2] for match in found if match} == steps
    assert list((lab.home / "checkpoints").iterdir()) == []

    # Trained again from the start, without any checkpoint, they have the same bytes: nothing but them is made anew.
    trained = {name: folder for name, folder in entries(lab).items() if name in told}
    for folder in trained.values():
        (folder / "adapter" / "adapter_model.safetensors").unlink()
    again = done(lab, given, "anew")
    assert again.names(hit=False) == set(trained)
    check_same(again, resumed)


def test_a_truncated_database_is_refused_and_moved_away_costs_the_work_and_no_correctness(
    lab: Lab, given: list[str], first: Study
) -> None:
    database = lab.home / "mlflow.db"
    whole = database.read_bytes()
    os.truncate(database, len(whole) // 3)
    refused = lab.run(*given, out="refused", timeout=small.SECONDS)
    assert refused.code == 2
    assert refused.stderr.startswith(f"colinear: {database}: MLflow's database is damaged (")
    assert "Traceback" not in refused.stderr
    database.rename(database.with_suffix(".damaged"))
    anew = done(lab, given, "anew from nothing")
    assert anew.names(hit=True) == set()
    check_same(anew, first)
    os.truncate(lab.home / "prefect" / "prefect.db", 10_000)
    refused = lab.run(*given, out="refused", timeout=small.SECONDS)
    assert refused.code == 2
    assert "Prefect's database is damaged" in refused.stderr
    assert "only Prefect's history of runs is lost" in refused.stderr
    for path in (lab.home / "prefect").glob("prefect.db*"):
        path.unlink()
    again = done(lab, given, "without history")
    assert again.names(hit=False) == set()
