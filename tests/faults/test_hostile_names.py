"""Names that strangers chose: of studies, adapters, files, artifacts. None leads out of its folder, and none is obeyed
by a terminal, a page, a spreadsheet or MLflow."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from rich.console import Console

from flows.cli.terminal import StudyDisplay
from tasks.core.errors import InputError
from tasks.core.events import Event
from tasks.core.visible import dated_folder, file_name, parameter_names, visible
from tasks.geometry.adapters.arguments import label_all, parse
from tasks.reporting.files import check_out
from tasks.reporting.publish.figure_files import inert
from tasks.settings.study import build
from tasks.storage import patience
from tasks.storage.recorded import fetch, recall
from tests.faults.confined import confined
from tests.lab.adapters import adapter
from tests.lab.refusals import refusal
from tests.lab.web import Handler, listening

OSC = "\x1b]0;owned\x07\x1b[2J"
EVIL = [
    "../../evil",
    "/etc/x",
    "..",
    "a/b",
    "~",
    "=cmd|' /C calc'!A0",
    "[red]x[/]",
    "[/]",
    "$(id)",
    "%s%n",
    "<b>x</b>",
    "x" * 190,
]


# --- studies ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EVIL)
def test_a_studys_name_is_one_folder_under_runs(name: str) -> None:
    from flows.record import Recorder

    spec = build({"name": name})
    for out in (Recorder(spec, None).out, dated_folder(f"{spec.name}-sweep")):
        assert out.parent == Path("runs")
        assert out.name not in ("", ".", "..")
        assert len(out.name.encode()) < 255
    assert file_name("../..") == "study"
    assert len(file_name("模" * 200).encode()) + 20 < 255


@pytest.mark.parametrize("name", [OSC, "two\nlines", "\u202egnp.exe", "\x00", "", "x" * 1001])
def test_a_studys_name_prints(name: str) -> None:
    with pytest.raises(InputError, match=r"^name: "):
        build({"name": name})


def test_a_page_that_is_not_ours_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("mine")
    with pytest.raises(InputError, match=r"has a report\.html that colinear did not write; give another folder"):
        check_out(tmp_path)
    (tmp_path / "study.json").write_text("{}")
    check_out(tmp_path)
    check_out(tmp_path / "new" / "folder")


# --- the terminal -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("terminal", [True, False])
def test_the_display_shows_names_and_obeys_none(terminal: bool) -> None:
    written = io.StringIO()
    console = Console(file=written, force_terminal=terminal, width=200, color_system=None)
    name = f"evaluate {OSC}[/] [red]x\n  done    everything"
    with StudyDisplay(console) as display:
        display(Event("start", name))
        display(Event("progress", name, done=1, total=2, note=name))
        for kind in ("done", "hit", "failed", "damaged"):
            display(Event(kind, name, note=name))  # type: ignore[arg-type]
    said = written.getvalue()
    assert "\x1b]" not in said
    assert "\x1b[2J" not in said
    assert r"evaluate \x1b]0;owned\x07\x1b[2J[/] [red]x   done    everything" in said
    assert not any(line.startswith("  done    everything") for line in said.splitlines())


def test_visible_spells_what_does_not_print() -> None:
    assert visible("a\x1b[31m\r\n\tb\u202e\ud800é") == r"a\x1b[31m   b\u202e\ud800é"
    assert visible("x" * 100, 20) == "x" * 13 + " ... " + "x" * 2
    assert len(visible("\x00" * 10**6, 600)) == 600


# --- spreadsheets and MLflow ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "safe"),
    [("=1+1", False), ("+1-cmd|' /C calc'!A0", False), ("-2+3+SUM(A1)", False), ("@x", False), ("\t=1",
    False), ("\n=1", False),
     ("+4.2", True), ("-0.013", True), ("-", True), ("-1.2 to 3.4", True), ("4.50×10⁻⁶", True), ("sft", True), ("a=b",
     True)],
)  # fmt: skip
def test_cells_that_a_spreadsheet_would_run_get_an_apostrophe(text: str, safe: bool) -> None:
    assert inert(text) == (text if safe else f"'{text}")


def test_parameters_have_names_that_mlflow_takes(state: Path) -> None:
    from tasks.storage.store import open_store

    names = [*EVIL, OSC, "", ".", "a//b", "a b:c/d", "é", "x" * 400, "x" * 401, "[a]", "(a)"]
    assert len(parameter_names(dict.fromkeys(names, 1))) == len(set(names))
    assert parameter_names({"train.lr": 1, "adapter.1/sft": 2}) == {"train.lr": 1, "adapter.1/sft": 2}
    store = open_store()
    run = store.open_run("x", params={name: name for name in names})
    assert len(store.run(run).data.params) == len(set(names))
    store.end_run(run)


# --- adapters ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("argument", [f"{OSC}=x", "\u202ex=y", f"{'x' * 201}=y"])
def test_an_adapters_name_prints(argument: str) -> None:
    with pytest.raises(InputError, match="a name has at most 200 characters, and they print"):
        parse(argument)
    (label,) = label_all([parse(f"/x/{OSC}/adapter")])
    assert label == r"\x1b]0;owned\x07\x1b[2J"


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("runs:/0f3c5a7e/../../x", "its path leads out of the run"),
        ("mlflow-artifacts:/1/../../x", "its path leads out of the run"),
        ("owner/name/../../..", "its path leads out of the repository"),
        (
            "mlflow-artifacts://me:secret-pw@host/x",
            "a URI is recorded as it is given; leave user and password out of it",
        ),
        ("s3://me:secret-pw@bucket/x", "not a URI that is read"),
        ("~nobody-of-this-name/x", "no such folder"),
        ("x" * 5000, "no such folder"),
    ],
)
def test_a_path_that_leads_elsewhere_is_refused(argument: str, message: str, tmp_path: Path) -> None:
    from tasks.geometry.adapters.arguments import locate

    said = refusal(lambda: locate(parse(argument), lambda uri, scratch: scratch, tmp_path))
    assert message in said
    assert "secret-pw" not in said


def test_hostile_names_go_through_a_whole_comparison(tmp_path: Path) -> None:
    """The command itself, on adapters whose folders and names say anything at all."""
    names = ["+1|cmd!A0", "[red]x", "[bold]", "<script>alert(1)<script>", "$\\frac{", "..", "a b%s"]
    folders = [tmp_path / "in" / str(number) for number in range(len(names))]
    for number, folder in enumerate(folders):
        adapter(folder, number)
    hostile = tmp_path / "in" / f"z{OSC}\n[/bold]"
    shutil.copytree(folders[0], hostile)
    given = [f"{name}={folder}" for name, folder in zip(names, folders, strict=True)]
    ran = confined(
        ["-m", "flows.cli", "compare", *given, str(hostile), "--plain", "--out", str(tmp_path / "out")],
        memory=16 * 2**30, seconds=200, COLINEAR_HOME=str(tmp_path / "home"),
    )  # fmt: skip
    assert ran.code == 0, ran.stderr
    assert "\x1b" not in ran.stdout + ran.stderr
    assert "[red]x" in ran.stdout
    assert "[bold]" in ran.stdout
    written = {path.relative_to(tmp_path / "out").parts[0] for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert {"report.html", "report.md", "compare.json"} <= written
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page
    assert "Not drawn: the limit on this process" in page  # the engine would reserve more than the 16 GiB given here
    assert "\x1b" not in page + (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    for file in (tmp_path / "out" / "tables").glob("*.csv"):
        for row in csv.reader(io.StringIO(file.read_text(encoding="utf-8"))):
            assert all(inert(cell) == cell for cell in row), file
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "in", "out"]


# --- an MLflow server that lies ---------------------------------------------------------------------------------------

RUN = "0f3c5a7e" * 4


@pytest.fixture
def liar(monkeypatch: pytest.MonkeyPatch, state: Path) -> Iterator[Callable[[list[str]], None]]:
    """An MLflow server whose run holds artifacts of any names; says which."""
    listed: list[str] = []
    kind = {"Content_Type": "application/json"}

    class Liar(Handler):
        def do_GET(self) -> None:
            where = urlsplit(self.path)
            query = parse_qs(where.query)
            run = {"info": {"run_id": RUN, "run_uuid": RUN, "experiment_id": "1", "status": "FINISHED", "run_name": "x",
                            "artifact_uri": f"mlflow-artifacts:/1/{RUN}/artifacts", "lifecycle_stage": "active"},
                   "data": {"tags": [], "params": [], "metrics": []}}  # fmt: skip
            answers: dict[str, Any] = {
                "runs/get": {"run": run},
                "experiments/get-by-name": {
                    "experiment": {"experiment_id": "1", "name": "x", "lifecycle_stage": "active"}
                },
                "experiments/search": {"experiments": []},
                "artifacts/list": {"files": [{"path": name, "is_dir": False, "file_size": 5} for name in listed]},
            }
            for name, answer in answers.items():
                if where.path.endswith(name):
                    return self.say(200, json.dumps(answer).encode(), **kind)
            if where.path.endswith("mlflow-artifacts/artifacts"):
                files = (
                    [{"path": name, "is_dir": False, "file_size": 5} for name in listed] if query.get("path") else []
                )
                return self.say(200, json.dumps({"files": files}).encode(), **kind)
            return self.say(200, b"owned" if "artifacts" in where.path else b"OK", **kind)

        do_POST = do_GET

    monkeypatch.setattr(patience, "ILL_SECONDS", 0.5)
    with listening(Liar) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        yield listed.extend


@pytest.mark.parametrize(
    ("name", "fine"),
    [("../../../evil", False), ("/tmp/evil-of-colinear", False), ("adapter/../../../evil", False),
     ("%2e%2e/%2e%2e/evil", False), ("adapter/..\\..\\evil", True), ("adapter/evil", True)],
)  # fmt: skip
def test_an_artifact_that_a_server_lists_stays_in_its_folder(
    liar: Callable[[list[str]], None], tmp_path: Path, name: str, fine: bool
) -> None:
    liar([name, "adapter/adapter_config.json"])
    scratch = tmp_path / "deep" / "down" / "scratch"
    scratch.mkdir(parents=True)
    assert recall(RUN) is not None
    if fine:
        assert fetch(f"runs:/{RUN}/adapter", scratch).is_relative_to(scratch)
    else:
        with pytest.raises(InputError, match=f"^runs:/{RUN}/adapter: not to be had from MLflow at http://127"):
            fetch(f"runs:/{RUN}/adapter", scratch)
    assert [path for path in tmp_path.rglob("*evil*") if scratch not in path.parents] == []
    assert not Path("/tmp/evil-of-colinear").exists()
    assert bool(list(scratch.rglob("*evil*"))) == fine
