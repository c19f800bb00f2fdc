"""Every example of docs/python.md and of the documented functions' docstrings runs and says what it says."""

from __future__ import annotations

import doctest
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PUBLIC = {
    "tasks.geometry.delta": ["load_delta"],
    "tasks.geometry.cosine": ["cosine_matrix", "orthogonal_fraction"],
    "tasks.geometry.angles": ["principal_angles"],
    "tasks.geometry.spectrum": ["singular_values", "effective_rank"],
    "tasks.geometry.trajectory": ["read_trajectory"],
    "tasks.geometry.cka": ["linear_cka"],
    "tasks.geometry.connectivity": ["barrier"],
    "tasks.geometry.inspection": ["inspect_adapter"],
    "tasks.evaluation.mcnemar": ["mcnemar"],
    "tasks.evaluation.intervals": ["wilson", "paired_bootstrap", "holm"],
    "tasks.evaluation.logs": ["read_logs"],
    "tasks.evaluation.paired": ["compare_logs"],
    "tasks.grading.grade": ["grade", "grade_many"],
}
"""Module -> its documented functions: other programs import them, so that neither may be renamed."""

ELSEWHERE = {"mcnemar", "grade"}
"""Functions named as their module is: the package's attribute of that name is the module."""

FUNCTIONS = [(module, name) for module, names in PUBLIC.items() for name in names]


def test_the_page_says_what_python_says():
    failed, tried = doctest.testfile(str(ROOT / "docs/python.md"), module_relative=False, encoding="utf-8")

    assert (failed, tried > 30) == (0, True)


@pytest.mark.parametrize(("module", "name"), FUNCTIONS, ids=[name for _, name in FUNCTIONS])
def test_each_function_has_examples_that_run(module, name):
    function = getattr(importlib.import_module(module), name)
    tests = doctest.DocTestFinder().find(function, name, globs=dict(vars(importlib.import_module(module))))
    runner = doctest.DocTestRunner()
    for test in tests:
        runner.run(test)

    assert "Examples\n--------" in inspect.getdoc(function)
    assert (runner.failures, runner.tries > 0) == (0, True)


@pytest.mark.parametrize(("module", "name"), FUNCTIONS, ids=[name for _, name in FUNCTIONS])
def test_each_function_is_imported_from_its_room(module, name):
    room = importlib.import_module(module.rpartition(".")[0])
    if name in ELSEWHERE:
        assert name not in room.__all__
        return

    assert getattr(room, name) is getattr(importlib.import_module(module), name)
    assert name in room.__all__


@pytest.mark.parametrize("room", ["tasks.geometry", "tasks.evaluation", "tasks.grading"])
def test_a_room_says_what_it_does_not_have(room):
    with pytest.raises(AttributeError, match=f"module '{room}' has no attribute 'cosines'"):
        importlib.import_module(room).cosines  # noqa: B018


def test_importing_the_rooms_loads_nothing():
    code = "import sys, tasks.geometry, tasks.evaluation, tasks.grading; print({'numpy', 'torch'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True, check=True)

    assert done.stdout == "set()\n"
