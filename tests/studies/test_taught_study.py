"""The study on rollouts that it samples itself: DeepScaleR's prompts, stories260K as teacher, an HTTP endpoint."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.lab.openai_server import Server, chat, serving
from tests.lab.study_runs import Lab, Study

pytestmark = [pytest.mark.slow, pytest.mark.long]
KEY = "sk-very-secret-0123456789"
SMALL = [
    "replicates=", "init_replicates=", "train.steps=2", "train.batch_size=4",
    "evaluation.max_new_tokens=4", "paths.n=0",
    "functions.n=0", "geometry.base_measures=false",
]  # fmt: skip


def words(*assignments: str) -> list[str]:
    return [word for assignment in (*assignments, *SMALL) for word in ("--set", assignment)]


# --- a teacher here ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    data = Path(os.environ.get("COLINEAR_DATA") or "missing")
    if not ((data / "deepscaler" / "train.jsonl").is_file() and (data / "stories260K").is_dir()):
        pytest.skip("COLINEAR_DATA names no folder with deepscaler/train.jsonl and stories260K")
    template = "Question: {question}\\nAnswer: "
    given = words(
        f"model.base={data / 'stories260K'}", f"model.prompt_template={template}", "rollouts.problems=deepscaler",
        f"rollouts.teacher={data / 'stories260K'}", f"rollouts.teacher_template={template}", "rollouts.prompts=24",
        "rollouts.k=2", "rollouts.max_new_tokens=16", "methods=sft,rift", "evaluation.n=4",
        "evaluation.benchmarks=gsm8k,math500,aime2026",
    )  # fmt: skip
    study = Lab(tmp_path_factory.mktemp("taught") / "home").run(*given, out="out")
    assert study.code == 0, study.stderr
    return study


def test_a_study_on_deepscaler_samples_its_teacher_and_is_judged_by_benchmarks(study: Study) -> None:
    record = study.record
    assert {"prompts", "completions K=2", "rollouts", "grade", "problems"} <= study.names(hit=False)
    assert [info["run"] for info in record["runs"]] == ["sft", "rift"]
    judged = {one["name"]: one["n"] for one in record["benchmarks"]}
    assert judged == {"heldout": 2, "gsm8k": 4, "math500": 4, "aime2026": 4}
    rollouts = record["rollouts"]
    assert rollouts["rows"] + rollouts["dropped"]["longer than model.max_length"] <= 2 * 22
    assert rollouts["prompts"] <= 22  # a tenth of 24 is held out
    assert rollouts["truncated"] > 0
    notes = "\n".join(record["notes"])
    assert "The teacher was asked 22 problems of deepscaler/train.jsonl." in notes
    assert "The teacher's own tokens and log-probabilities were kept." in notes
    cosine = pl.read_parquet(study.folder / "pair_metrics.parquet").filter(metric="cosine", module="*")
    assert cosine["value"].is_finite().all()


# --- a teacher behind an endpoint -------------------------------------------------------------------------------------


def teach(body: dict[str, Any]) -> dict[str, Any]:
    """Right for even seeds, wrong for odd ones: groups are mixed for some problem at least."""
    if body["max_tokens"] == 1:  # the probe
        return chat("2")
    first = int(body["messages"][0]["content"].split(" ")[0])
    return chat(f"It is \\boxed{{{2 * first + body['seed'] % 2}}}")


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("TEACHER_KEY", KEY)
    with serving(teach, key=KEY) as server:
        yield server


@pytest.fixture
def given(endpoint: Server, base_model: Path, tmp_path: Path) -> list[str]:
    rows = [{"question": f"{i} + {i}?", "answer": str(2 * i)} for i in range(10, 30)]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return words(
        f"model.base={base_model}", f"rollouts.problems={tmp_path / 'mine.jsonl'}", "rollouts.engine=openai",
        f"rollouts.endpoint={endpoint.url}", "rollouts.teacher=deep", "rollouts.key_env=TEACHER_KEY",
        "rollouts.concurrency=2", "rollouts.k=2", "rollouts.max_new_tokens=32", "methods=sft,dpo", "evaluation.n=2",
    )  # fmt: skip


def everything(folder: Path) -> bytes:
    """All bytes that a study left: state, journals, logs, records, reports."""
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def test_a_study_that_was_killed_asks_its_endpoint_only_for_what_is_missing(
    endpoint: Server, given: list[str], tmp_path: Path
) -> None:
    endpoint.delay = 0.2
    lab = Lab(tmp_path / "home")
    process = lab.start(*given, out="out")
    deadline = time.monotonic() + 240
    while len(endpoint.asked) < 12 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    time.sleep(1.0)  # what was under way is answered to nobody
    (journal,) = (tmp_path / "home" / "journals").glob("*.jsonl")
    kept = [json.loads(line)["id"] for line in journal.read_text().splitlines() if line]
    assert len(kept) >= 6
    before = len(endpoint.asked)

    endpoint.delay = 0.0
    study = lab.run(*given, out="out")
    assert study.code == 0, study.stderr
    later = [body for body in endpoint.asked[before:] if body["max_tokens"] > 1]  # less the probes
    assert len(later) == 2 * 18 - len(kept)
    assert journal.exists()  # what was paid for is kept
    assert len([body for body in endpoint.asked[before:] if body["max_tokens"] == 1]) == 1  # one probe a process
    rollouts = study.record["rollouts"]
    assert (rollouts["rows"], rollouts["prompts"]) == (36, 18)
    assert 0 < rollouts["correct"] < 36
    assert "36 completions of the teacher were tokenised anew for the base" in "\n".join(study.record["notes"])

    # finished: neither the endpoint nor its key is needed any more
    endpoint.key = "changed"
    asked = len(endpoint.asked)
    again = lab.run(*given, out="again")
    assert (again.code, len(endpoint.asked)) == (0, asked)
    assert "completions K=2" in again.names(hit=True)

    # another K: only what is new is asked for
    endpoint.key = KEY
    more = lab.run(*given, "--set", "rollouts.k=3", out="more")
    assert more.code == 0, more.stderr
    assert len([body for body in endpoint.asked[asked:] if body["max_tokens"] > 1]) == 18

    assert KEY.encode() not in everything(tmp_path)
    assert KEY not in study.stdout + study.stderr + again.stdout + again.stderr


def test_a_wrong_key_costs_one_request_and_no_work(endpoint: Server, given: list[str], tmp_path: Path) -> None:
    endpoint.key = "another"
    study = Lab(tmp_path / "home").run(*given, out="out")
    assert study.code == 2
    assert study.stderr.startswith(f"colinear: rollouts.key_env: {endpoint.url} answered HTTP 401 (bad Bearer ***); ")
    assert len(study.stderr.splitlines()) == 1
    assert len(endpoint.asked) == 1
    assert not study.folder.exists()
    assert KEY.encode() not in everything(tmp_path)
