"""``python -m deployments`` without a server to deploy to; with one: ``tests/studies/test_team.py``."""

from __future__ import annotations

import pytest

from deployments.__main__ import main


@pytest.mark.usefixtures("state")
def test_it_asks_for_a_server(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Without one Prefect would start an embedded server, deploy to it, and forget it."""
    monkeypatch.setenv("PREFECT_API_URL", "")
    assert main() == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == (
        "deployments: PREFECT_API_URL: not set; name the server to deploy to, such as http://127.0.0.1:4200/api\n"
    )
