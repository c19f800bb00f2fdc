"""Keys and passwords in every variable that may hold one: a real study, and real failures, after which nothing that was
written or said has any of them."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.core.errors import InputError, StageError
from tasks.core.secrets import guard, redact, secrets
from tests.faults.confined import ROOT
from tests.lab.living import environment
from tests.lab.mlflow_server import Server as Mlflow
from tests.lab.openai_server import Server, chat, serving

PASSWORD = "Tr0ub4dor&3-pw"
QUOTED = urllib.parse.quote(PASSWORD, safe="")
PLANTED = {
    "TEACHER_KEY": "sk-teacher-4c1d9e77aa", "HF_TOKEN": "hf_planted0123456789",
    "PREFECT_API_KEY": "pnu_planted55555555",
    "PREFECT_API_AUTH_STRING": "me:prefect-auth-9f3b", "AWS_SECRET_ACCESS_KEY": "aws/planted/secret/1234567",
    "WANDB_API_KEY": "wandbplanted0000111122", "MY_DB_PASSWORD": "planted-db-password",
    "HTTPS_PROXY": f"http://me:{QUOTED}@127.0.0.1:9",
}  # fmt: skip
NEEDLES = [PASSWORD, QUOTED, "prefect-auth-9f3b", *(value for name, value in PLANTED.items() if name != "HTTPS_PROXY")]


def teach(body: dict[str, Any]) -> dict[str, Any]:
    """Right for even seeds; one answer says back the key that it was asked with, as a broken proxy might."""
    if body["max_tokens"] == 1:  # the probe
        return chat("2")
    first = int(body["messages"][0]["content"].split(" ")[0])
    said = f"asked with Bearer {PLANTED['TEACHER_KEY']}. " if first == 12 else ""
    return chat(f"{said}It is \\boxed{{{2 * first + body['seed'] % 2}}}")


@pytest.fixture
def endpoint() -> Iterator[Server]:
    with serving(teach, key=PLANTED["TEACHER_KEY"]) as server:
        yield server


def run(home: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    """The command with everything planted."""
    home.mkdir(parents=True, exist_ok=True)
    return subprocess.run(
        [sys.executable, "-m", "flows.cli", *words], cwd=ROOT, capture_output=True, text=True, timeout=900,
        env=environment(home, **PLANTED, NO_PROXY="127.0.0.1,localhost", TMPDIR=str(home), **more),
    )  # fmt: skip


def holding(needles: list[str], *folders: Path, said: str = "") -> list[str]:
    """Where a secret is: files (databases, journals, logs, reports, pictures) and what was printed.

    With the login of a state folder that is among them, outside the one file that holds it.
    """
    own = {folder / "token" for folder in folders if (folder / "token").exists()}
    needles = [*needles, *(path.read_text().strip().partition(":")[2] for path in own)]
    found = [f"printed: {needle}" for needle in needles if needle in said]
    for folder in folders:
        for path in {*folder.rglob("*")} - own:
            content = path.read_bytes() if path.is_file() else b""
            found += [f"{path}: {needle}" for needle in needles if needle.encode() in content]
    return found


@pytest.mark.slow
@pytest.mark.long
def test_a_study_with_secrets_everywhere_writes_none_of_them(
    endpoint: Server, server: Mlflow, base_model: Path, tmp_path: Path
) -> None:
    rows = [{"question": f"{i} + {i}?", "answer": str(2 * i)} for i in range(10, 30)]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = [
        f"model.base={base_model}", f"rollouts.problems={tmp_path / 'mine.jsonl'}", "rollouts.engine=openai",
        f"rollouts.endpoint={endpoint.url}", "rollouts.teacher=deep", "rollouts.key_env=TEACHER_KEY", "rollouts.k=2",
        "rollouts.max_new_tokens=64", "methods=sft,dpo", "evaluation.n=2", "replicates=", "init_replicates=",
        "train.steps=2",
        "train.batch_size=4", "evaluation.max_new_tokens=4", "paths.n=0", "functions.n=0",
        "geometry.base_measures=false",
    ]  # fmt: skip
    tracking = server.uri.replace("http://", f"http://me:{QUOTED}@")
    given = [word for one in words for word in ("--set", one)]
    done = run(tmp_path / "home", "study", *given, "--out", str(tmp_path / "out"), MLFLOW_TRACKING_URI=tracking)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "out" / "study.json").read_text())
    assert record["mlflow"]["uri"] == server.uri
    assert (tmp_path / "home" / "token").read_text().startswith("colinear:")  # which is looked for, too
    everything = [tmp_path / "home", tmp_path / "out", server.artifacts, server.artifacts.parent]
    assert holding(NEEDLES, *everything, said=done.stdout + done.stderr) == []
    # Guards the line above: what it looks through has what was recorded.
    assert holding(["asked with Bearer ***"], *everything) != []
    assert len(endpoint.asked) > 30


@pytest.mark.parametrize(
    "variables",
    [
        {"MLFLOW_TRACKING_URI": f"http://me:{QUOTED}@127.0.0.1:1"},
        {"MLFLOW_TRACKING_URI": f"http://me:{QUOTED}@no-such-host.invalid"},
        {"MLFLOW_TRACKING_URI": f"postgresql://me:{QUOTED}@127.0.0.1:1/mlflow"},
        {"MLFLOW_TRACKING_URI": f"mysql+nodriver://me:{QUOTED}@127.0.0.1:1/mlflow"},
        {"MLFLOW_TRACKING_URI": f"ftp://me:{QUOTED}@127.0.0.1:1/mlflow"},
        {"PREFECT_API_URL": f"http://me:{QUOTED}@127.0.0.1:1/api"},
        {"PREFECT_API_DATABASE_CONNECTION_URL": f"postgresql+asyncpg://me:{QUOTED}@127.0.0.1:1/prefect"},
    ],
    ids=lambda variables: next(f"{name} {uri.partition(':')[0]}" for name, uri in variables.items()),
)  # fmt: skip
@pytest.mark.long
def test_a_server_that_cannot_be_reached_is_named_without_its_password(
    tmp_path: Path, variables: dict[str, str]
) -> None:
    done = run(tmp_path / "home", "study", "smoke", "--out", str(tmp_path / "out"), **variables)
    assert done.returncode in (1, 2), done.stdout
    said = [line for line in done.stderr.splitlines() if line.startswith("colinear: ")]
    assert said, done.stderr
    assert holding(NEEDLES, tmp_path / "home", said=done.stdout + done.stderr) == []


# --- the parts --------------------------------------------------------------------------------------------------------


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in PLANTED.items():
        monkeypatch.setenv(name, value)
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, "")  # which `guard` sets: put back afterwards
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:{QUOTED}@host:5000/x")
    monkeypatch.setenv("PREFECT_API_URL", f"https://me:{QUOTED}@host/api")


@pytest.mark.usefixtures("planted")
def test_every_secret_of_the_environment_is_known() -> None:
    assert set(NEEDLES) <= set(secrets())
    said = redact(" ".join(["before", *NEEDLES, f"at http://me:{QUOTED}@host/x and s3://k:v@bucket", "after"]))
    assert said == f"before {' '.join(['***'] * len(NEEDLES))} at http://host/x and s3://bucket after"
    assert os.environ["PATH"] not in secrets()


def test_the_login_of_the_state_folder_is_known_from_the_start(tmp_path: Path) -> None:
    """As the commands begin: whatever is said afterwards, in an error or a log, is without it."""
    asked = (
        "import sys; from tasks.core import home, login; home.quiet_environment(); "
        "from tasks.core.secrets import redact; "
        "both = login.of(home.home()); print(redact(f'<{both}> <{both.partition(chr(58))[2]}>'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", asked], cwd=tmp_path, env=environment(tmp_path / "home"), capture_output=True, text=True
    )
    assert done.stdout == "<***> <***>\n", done.stderr


@pytest.mark.usefixtures("planted")
def test_no_error_of_ours_holds_a_secret() -> None:
    for kind in (InputError, StageError):
        assert str(kind(f"x: {PASSWORD} at postgresql://me:{QUOTED}@h/db, {PLANTED['HF_TOKEN']}")) == (
            "x: *** at postgresql://h/db, ***"
        )


@pytest.mark.usefixtures("planted")
def test_urls_lose_their_passwords_before_mlflow_and_prefect_see_them() -> None:
    guard()
    assert os.environ["MLFLOW_TRACKING_URI"] == "http://host:5000/x"
    assert (os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"]) == ("me", PASSWORD)
    assert os.environ["PREFECT_API_URL"] == "https://host/api"
    assert os.environ["PREFECT_API_AUTH_STRING"] == f"me:{PASSWORD}"


@pytest.mark.usefixtures("planted")
def test_no_log_record_holds_a_secret(caplog: pytest.LogCaptureFixture) -> None:
    guard()
    try:
        try:
            raise OSError(f"cannot connect with {PASSWORD}")
        except OSError as error:
            raise RuntimeError(f"token {PLANTED['HF_TOKEN']}") from error
    except RuntimeError:
        logging.getLogger("prefect.flow_runs").exception("asked %s", f"http://me:{QUOTED}@host/x")
    (record,) = caplog.records
    said = logging.Formatter().format(record)
    assert "asked http://host/x" in said
    assert "cannot connect with ***" in said
    assert "RuntimeError: token ***" in said
    assert not any(needle in said for needle in NEEDLES)
