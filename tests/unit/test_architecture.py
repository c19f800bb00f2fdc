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


def test_importing_a_flow_loads_nothing_heavy() -> None:
    loaded = loaded_by("import flows.study_flow, flows.compare_flow, flows.cli.main")
    assert "flows" in loaded
    assert loaded.isdisjoint(HEAVY)


def test_importing_plain_functions_loads_nothing_heavy() -> None:
    loaded = loaded_by(
        "import tasks.rollouts.files, tasks.methods, tasks.grading.grade\n"
        "import tasks.training.train, tasks.training.examples, tasks.training.checks\n"
        "import tasks.reporting.publish.write, tasks.reporting.render.terminal\n"
        "assert tasks.grading.grade.GRADER"
    )
    assert {"tasks", "polars"} <= loaded
    assert loaded.isdisjoint({*HEAVY, "prefect", "sympy", "math_verify", "vl_convert", "jinja2"})


def test_help_loads_the_command_line_alone() -> None:
    loaded = loaded_by(
        "import contextlib, io\n"
        "from flows.cli.main import main\n"
        "for words in (['--help'], ['study', '--help'], ['doctor', '--help']):\n"
        "    with contextlib.redirect_stdout(io.StringIO()) as said:\n"
        "        assert main(words) == 0\n"
        "    assert said.getvalue()"
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


FORBIDDEN = {
    "tasks.core.errors": ("tasks.core.rows", "inside core"),
    "tasks.rollouts.own": ("tasks.training.order", "shells -> core"),
    "tasks.methods.sft": ("tasks.evaluation.mcnemar", "shells -> core"),
    "tasks.problems.world": ("tasks.models.prompts", "shells -> core"),
    "tasks.geometry.compare": ("tasks.settings.presets", "know presets"),
    "tasks.geometry.cosine": ("tasks.geometry.adapters.opened", "inside geometry"),
    "tasks.reporting.views.study": ("tasks.reporting.tables.pairs", "inside reporting"),
    "flows.study_flow": ("flows.cli.terminal", "inside flows"),
    "tasks.storage.store": ("flows", "flows -> tasks"),
    "tasks.models.load": ("prefect", "know Prefect"),
    "flows.record": ("mlflow", "know MLflow"),
}
"""Module -> what it may not import, and the rule that says so."""


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_the_import_rules_can_fail(copied: Path) -> None:
    """All at once, and within a function: reading the packages takes seconds."""
    for module, (other, _) in FORBIDDEN.items():
        with (copied / module.replace(".", "/")).with_suffix(".py").open("a") as file:
            file.write(f"\ndef f():\n    import {other}\n")
    said = lint(copied).stdout
    for module, (other, rule) in FORBIDDEN.items():
        assert f"{rule} BROKEN" in said, said
        assert f"- {module} -> {other} (l." in said.replace("-   ", "- "), said


@pytest.mark.parametrize("module", ["tasks/newcomer.py", "tasks/core/newcomer.py"])
def test_a_new_module_must_be_given_its_place(copied: Path, module: str) -> None:
    (copied / module).write_text("x = 1\n")
    done = lint(copied)
    assert done.returncode != 0
    assert "newcomer" in done.stdout
