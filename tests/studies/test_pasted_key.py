"""An endpoint's key given where the name of its variable belongs: refused before anybody records it, not repeated."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.cli.main import main

KEY = "SKPASTED0123456789"
"""In capitals, as a variable's name is: only that there is no such variable tells it."""


@pytest.mark.parametrize(
    "command", [["study", "smoke"], ["sweep", "smoke", "--seeds", "0,1"]], ids=lambda words: words[0]
)
@pytest.mark.parametrize(
    "engine", [[], ["--set", "rollouts.engine=openai"]], ids=["an engine that needs none", "an endpoint"]
)
def test_a_pasted_key_is_refused(
    state: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, command: list[str], engine: list[str]
) -> None:
    assert main([*command, *engine, "--set", f"rollouts.key_env={KEY}", "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr()
    assert "rollouts.key_env: the environment variable that it names is not set; export the endpoint's key" in said.err
    assert KEY not in said.out + said.err
    kept = [path for path in state.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
    assert kept == []
    assert not (tmp_path / "out").exists()


def test_the_name_of_a_variable_that_is_set_is_none(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.cli.study import study_spec
    from tasks.planning.preflight import preflight

    monkeypatch.setenv("MY_KEY", "sk-123")
    assert preflight(study_spec("smoke", ["rollouts.key_env=MY_KEY"], None)) is None
    assert preflight(study_spec("smoke", ["rollouts.key_env=null"], None)) is None
