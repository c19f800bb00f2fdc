"""`colinear serve`: deployments on a real server, runs started through its API, messages to a real webhook."""

from __future__ import annotations

import json
import queue
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.cli.main import main
from tasks.settings.presets import PRESETS, preset
from tasks.settings.study import build
from tasks.settings.sweep_presets import SWEEPS
from tests.lab.adapters import adapter
from tests.lab.living import SECONDS, Living, Ui, living, until
from tests.lab.openai_server import chat
from tests.lab.openai_server import serving as endpoint
from tests.lab.web import Handler, listening


class Hook(Handler):
    """Keeps what is posted."""

    got: queue.Queue[tuple[str, Any]] = queue.Queue()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.got.put((self.headers["Content-Type"], json.loads(body)))
        self.say(204)


@pytest.fixture(scope="module")
def webhook() -> Iterator[str]:
    with listening(Hook) as address:
        yield f"{address}/colinear"


@pytest.fixture(scope="module")
def serving(ui: Ui, webhook: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Ui, Living]]:
    """Found through the state folder alone; in a folder with a file that has a library's name."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "click.py").write_text("raise SystemExit('not the library')\n")
    keys = {"MY_KEY": "sk-of-the-owner-0123"}
    with living("serve", "--webhook", webhook, home=ui.home, cwd=folder, PYTHONSAFEPATH="1", **keys) as running:
        running.wait_for("Ctrl-C stops them.")
        until(lambda: {"adapters", *PRESETS, *SWEEPS} <= deployments(ui).keys())
        yield ui, running
        assert running.stop() == 0, running.said
        assert "colinear serve" not in running.said  # no complaint of ours


def deployments(ui: Ui) -> dict[str, Any]:
    return {one["name"]: one for one in ui.ask("/deployments/filter", {}) if not one["work_pool_name"]}


def test_without_a_server_it_says_what_to_start(
    state: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    assert main(["serve"]) == 2
    assert capsys.readouterr().err == (
        f"colinear: colinear serve: no Prefect server for {state}: run `colinear ui` in another terminal first, or set "
        "PREFECT_API_URL\n"
    )


def test_a_webhook_that_is_none_is_refused(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--webhook", "hooks.example.com"]) == 2
    assert "--webhook: expected an http:// or https:// address, got 'hooks.example.com'" in capsys.readouterr().err


def test_it_says_how_to_log_in(serving: tuple[Ui, Living]) -> None:
    ui, running = serving
    assert f"Log in: user colinear, password {ui.login.partition(':')[2]}; " in running.said


def test_each_preset_is_one_click(serving: tuple[Ui, Living]) -> None:
    found = deployments(serving[0])
    for name in PRESETS:
        assert found[name]["entrypoint"] == "flows.study_flow.study_flow"
        assert found[name]["parameters"]["spec"] == json.loads(json.dumps(preset(name)))
    assert build(found["smoke"]["parameters"]["spec"]) == build(preset("smoke"))
    assert found["tiny-sweep"]["entrypoint"] == "flows.sweep_flow.sweep_flow"
    assert [one["active"] for one in found["smoke"]["schedules"]] == [False]
    assert found["smoke"]["schedules"][0]["schedule"]["interval"] == 12 * 3600


def test_the_form_is_drawn_from_the_settings(serving: tuple[Ui, Living]) -> None:
    schema = deployments(serving[0])["smoke"]["parameter_openapi_schema"]
    fields = schema["definitions"]["StudySpec"]["properties"]
    assert list(fields)[:3] == ["name", "methods", "seed"]  # what a newcomer changes first; methods' sections last
    assert fields["methods"]["items"]["enum"][:2] == ["sft", "rft"]
    assert fields["seed"] | {"maximum": 0} == {
        "default": 0, "description": "Draws the LoRA initialisation that all methods share.", "maximum": 0,
        "minimum": 0, "title": "Seed", "type": "integer",
    }  # fmt: skip
    assert schema["definitions"]["TrainSpec"]["properties"]["scheduler"]["enum"] == ["cosine", "linear", "constant"]


def start(ui: Ui, name: str, parameters: dict[str, Any]) -> str:
    made = ui.ask(f"/deployments/{deployments(ui)[name]['id']}/create_flow_run", {"parameters": parameters})
    return str(made["id"])


def ended(ui: Ui, run: str) -> dict[str, Any]:
    def look() -> Any:
        now = ui.ask(f"/flow_runs/{run}")
        return now if now["state"]["type"] in ("COMPLETED", "FAILED", "CRASHED") else None

    found: dict[str, Any] = until(look)
    return found


def heard(ui: Ui, run: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """What the webhook was sent of one run; another run's message may come between, or come twice."""
    while True:
        kind, message = Hook.got.get(timeout=SECONDS)
        if message["page"] == f"{ui.prefect}/runs/flow-run/{run['id']}":
            return kind, message


def test_a_comparison_runs_and_the_webhook_hears_of_it(serving: tuple[Ui, Living], tmp_path: Path) -> None:
    ui, running = serving
    sides = [str(adapter(tmp_path / name, seed)) for seed, name in enumerate(("sft", "rft"))]
    run = ended(ui, start(ui, "adapters", {"adapters": sides, "out": str(tmp_path / "out")}))
    assert run["state"]["name"] == "Completed", running.said
    assert (tmp_path / "out" / "report.html").is_file()
    kind, message = heard(ui, run)
    assert kind == "application/json"
    assert message["text"] == f"compare: {run['name']} is Completed"


def test_a_failure_reaches_the_webhook_with_its_reason(serving: tuple[Ui, Living], tmp_path: Path) -> None:
    ui, _ = serving
    missing = str(tmp_path / 'no "such" folder')
    run = ended(ui, start(ui, "adapters", {"adapters": [missing, missing]}))
    assert run["state"]["name"] == "Failed"
    _, message = heard(ui, run)
    assert message["state"] == "Failed"
    assert message["message"] == run["state"]["message"]
    assert 'no "such" folder' in message["message"]


def test_a_run_that_would_send_a_key_elsewhere_is_refused(serving: tuple[Ui, Living], tmp_path: Path) -> None:
    """Whoever may start a run chooses its endpoint and the variable with the key; not that the one gets the other."""
    ui, _ = serving
    with endpoint(lambda _: chat("2")) as foreign:
        asked = {
            "engine": "openai",
            "endpoint": foreign.url,
            "key_env": "MY_KEY",
            "teacher": "m",
            "problems": "x.jsonl",
        }
        spec = {"model": {"base": str(tmp_path)}, "rollouts": asked}
        run = ended(ui, start(ui, "smoke", {"spec": spec, "out": str(tmp_path / "out")}))
        assert run["state"]["name"] == "Failed"
        assert f"rollouts.endpoint: {foreign.url} is not sent the key in MY_KEY" in run["state"]["message"]
        assert foreign.asked == []
    assert heard(ui, run)[1]["state"] == "Failed"


def test_automations_are_kept_once(serving: tuple[Ui, Living]) -> None:
    names = [one["name"] for one in serving[0].ask("/automations/filter", {})]
    ours = [name for name in names if name.startswith("colinear: ")]
    assert sorted(ours) == ["colinear: a report is finished", "colinear: a run failed", "colinear: no heartbeat"]
