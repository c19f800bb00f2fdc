"""The shape of the house: who may import whom, and what a worker or Prefect's UI loads."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("flows", "tasks", "deployments")
HEAVY = ("torch", "transformers", "vllm", "mlflow", "trl", "peft", "datasets", "ray", "prefect_ray")


def loaded_by(code: str) -> set[str]:
    """The top-level modules that a fresh interpreter has after ``code``."""
    program = f"{code}\nimport sys; print(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.split())


@pytest.mark.parametrize("module", ["flows.study_flow", "flows.compare_flow", "flows.cli.main"])
def test_importing_a_flow_loads_nothing_heavy(module: str) -> None:
    loaded = loaded_by(f"import {module}")
    assert "flows" in loaded
    assert loaded.isdisjoint(HEAVY)


@pytest.mark.parametrize("words", [["--help"], ["study", "--help"], ["doctor", "--help"]], ids=" ".join)
def test_help_loads_the_command_line_alone(words: list[str]) -> None:
    quietly = "import contextlib, io\nwith contextlib.redirect_stdout(io.StringIO()) as said:\n"
    loaded = loaded_by(
        f"{quietly}    from flows.cli.main import main; assert main({words}) == 0\nassert said.getvalue()"
    )
    assert {"typer", "rich"} <= loaded
    assert loaded.isdisjoint({*HEAVY, "prefect", "polars", "numpy", "scipy", "tasks"})


def test_settings_do_not_start_prefect() -> None:
    loaded = loaded_by("from flows.cli.main import study_spec; study_spec('smoke', [], None)")
    assert "pydantic" in loaded
    assert loaded.isdisjoint({*HEAVY, "prefect"})


def test_what_is_heavy_is_noticed() -> None:
    """Guards the tests above: they would pass for nothing if the list of loaded modules were wrong."""
    assert {"mlflow", "tasks"} <= loaded_by("import tasks.storage.store, mlflow.tracking")


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    command = Path(sys.executable).with_name("lint-imports")
    if not command.exists():
        pytest.skip("import-linter is not installed (make setup)")
    return subprocess.run([command, "--no-cache"], capture_output=True, text=True, cwd=folder)


def test_the_import_rules_hold() -> None:
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout
    assert "0 broken" in done.stdout


@pytest.mark.parametrize(
    ("module", "forbidden", "rule"),
    [
        ("tasks/core/errors.py", "import tasks.core.rows", "inside core BROKEN"),
        ("tasks/rollouts/own.py", "import tasks.training.order", "shells -> core BROKEN"),
        ("tasks/methods/sft.py", "import tasks.evaluation.mcnemar", "shells -> core BROKEN"),
        ("tasks/problems/world.py", "import tasks.models.prompts", "shells -> core BROKEN"),
        ("tasks/geometry/compare.py", "import tasks.settings.presets", "know presets BROKEN"),
        ("tasks/newcomer.py", "x = 1", "newcomer"),
        ("tasks/core/newcomer.py", "x = 1", "newcomer"),
        ("tasks/geometry/cosine.py", "import tasks.geometry.adapters.opened", "inside geometry BROKEN"),
        ("tasks/reporting/views/join.py", "import tasks.reporting.tables.pairs", "inside reporting BROKEN"),
        ("flows/study_flow.py", "import flows.cli.terminal", "inside flows BROKEN"),
        ("tasks/storage/store.py", "import flows", "flows -> tasks BROKEN"),
        ("tasks/models/load.py", "def f():\n    import prefect", "know Prefect BROKEN"),
        ("flows/record.py", "from mlflow import MlflowClient", "know MLflow BROKEN"),
    ],
)
def test_the_import_rules_can_fail(tmp_path: Path, module: str, forbidden: str, rule: str) -> None:
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / module).open("a") as file:
        file.write(f"\n{forbidden}\n")
    done = lint(tmp_path)
    assert done.returncode != 0
    assert rule in done.stdout
