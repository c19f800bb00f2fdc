"""The `colinear` command's own part: its help, what the shell completes, and what it says to a slip of the pen."""

from __future__ import annotations

import re
import shlex
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_group

from flows.cli.app import app
from flows.cli.main import main
from tasks.core.errors import InputError
from tasks.settings import presets, sweep_presets
from tasks.settings.study import StudySpec

COMMANDS = get_group(app).commands
SLIPS = {
    "stduy": "No such command 'stduy'. Did you mean 'study'? See `colinear --help`.",
    "nope": "No such command 'nope'. See `colinear --help`.",
    "--hlep": "No such option: --hlep. Did you mean '--help'? See `colinear --help`.",
    "study --sett seed=1": "No such option: --sett. Did you mean '--set'? See `colinear study --help`.",
    "study --dry": "No such option: --dry. Did you mean '--dry-run'? See `colinear study --help`.",
    "compare a b --qqq": "No such option: --qqq. See `colinear compare --help`.",
    "study a b": "Got unexpected extra argument(s) (b). See `colinear study --help`.",
    "study --set": "Option '--set' requires an argument. See `colinear study --help`.",
    "study --tflops fast": "Invalid value for '--tflops': Input should be a valid number, ",
    "serve --limit 0": "Invalid value for '--limit': Input should be greater than or equal to 1",
    "ui --prefect-port 99999": "Invalid value for '--prefect-port': Input should be less than or equal to 65535",
    "study smok": "preset 'smok': unknown; did you mean 'smoke'?",
}


@pytest.mark.parametrize("words", SLIPS)
def test_a_slip_is_one_line_that_names_it_and_the_way_out(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words.split()) == 2
    said = capsys.readouterr()
    assert said.err.startswith(f"colinear: {SLIPS[words]}"), said.err
    assert said.err.count("\n") == 1
    assert said.out == ""


def test_a_secret_in_a_slip_is_not_repeated(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-0123456789")
    assert main(["study", "smoke", "sk-0123456789", "http://me:hunter2@host/"]) == 2
    said = capsys.readouterr().err
    assert "unexpected extra argument(s) (***" in said
    assert "hunter2" not in said


def _terminated() -> int:
    signal.raise_signal(signal.SIGTERM)
    return 0


def _raised(error: BaseException) -> int:
    raise error


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        (lambda: 1, 1, ""),
        (lambda: _raised(InputError("seed: no\n number")), 2, "colinear: seed: no number\n"),
        (lambda: _raised(KeyboardInterrupt()), 130, "colinear: interrupted; finished stages are kept: "),
        (_terminated, 143, "colinear: ended by SIGTERM; finished stages are kept: "),
        (lambda: _raised(BrokenPipeError("a worker's pipe")), 1, "colinear: a worker's pipe"),
        (lambda: _raised(EOFError("no more")), 1, "colinear: no more"),
    ],
    ids=["a number", "bad input", "Ctrl-C", "SIGTERM", "a broken pipe", "an end of file"],
)
def test_a_command_ends_as_its_body_does(
    body: Callable[[], int], code: int, said: str, state: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Typer by itself would end without a word at Ctrl-C and at a broken pipe."""
    monkeypatch.setattr("flows.cli.presets.run", body)
    assert main(["presets"]) == code
    told = capsys.readouterr().err
    assert told.startswith(said)
    assert bool(told) == bool(said)


# --- help -------------------------------------------------------------------------------------------------------------


def helped(words: Sequence[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.setenv("COLUMNS", "80")
    assert main([*words, "--help"]) == 0
    return capsys.readouterr().out


def commands_in(epilog: str) -> list[list[str]]:
    """The words of each example in the end of a command's help."""
    told = epilog.replace("\\\n", " ").replace(r"\[", "[").splitlines()
    return [shlex.split(line)[1:] for line in told if line.startswith("colinear ")]


def test_the_command_s_own_help_is_grouped(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    said = helped([], monkeypatch, capsys)
    groups = re.split(r"╭─ ([\w ]+) ─+╮", said)
    listed = {title: re.findall(r"│ (\w+)  ", text) for title, text in zip(groups[1::2], groups[2::2], strict=True)}
    assert listed == {
        "Options": [],
        "Train and compare": ["study", "sweep", "presets"],
        "Compare what is trained already": ["compare", "report", "accuracy", "inspect"],
        "Servers and this machine": ["ui", "serve", "doctor"],
    }
    assert "--install-completion" in said


def test_without_a_command_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    said = capsys.readouterr()
    assert "Train several methods on the same rollouts" in said.out
    assert said.err == ""


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_each_command_has_examples(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = helped([name], monkeypatch, capsys)
    epilog = str(COMMANDS[name].epilog)
    assert f" colinear {name}" in said[said.index("Examples") :]
    examples = re.sub(r"\[/?bold\]|\\(?=\[)", "", epilog).partition("\n\n")[0]
    for line in examples.splitlines():
        assert line in said, "an example is broken into two lines at 80 columns"
    for param in COMMANDS[name].params:
        assert all(option in said for option in param.opts if option.startswith("--"))


@pytest.mark.parametrize("name", COMMANDS)
def test_each_example_is_a_command_line_that_is_understood(name: str) -> None:
    given = commands_in(str(COMMANDS[name].epilog))
    assert name in {words[0] for words in given}
    for command, *words in given:
        COMMANDS[command].make_context(command, words)


def test_h_is_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "-h"]) == 0
    assert "SECTION.KEY=VALUE" in capsys.readouterr().out


# --- presets ----------------------------------------------------------------------------------------------------------


def test_presets_are_listed_in_two_columns(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["presets"]) == 0
    first, studies, sweeps = re.split(r"(?:Studies|\nSweeps): colinear \w+ NAME\n", capsys.readouterr().out)
    assert first == ""
    for listed, module, names in (
        (studies, presets, presets.PRESETS),
        (sweeps, sweep_presets, sweep_presets.SWEEPS),
    ):
        assert listed.splitlines() == [f"  {name:15}  {module.summary(name)}" for name in names]
    assert max(map(len, [*presets.PRESETS, *sweep_presets.SWEEPS])) == 15


def test_presets_fit_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert main(["presets"]) == 0
    told = capsys.readouterr().out
    assert all(len(line) <= 80 for line in told.splitlines())
    assert " ".join(told.split()).count(presets.summary("paper-fixed")) == 1


# --- completion -------------------------------------------------------------------------------------------------------


@pytest.fixture
def completed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    def ask(line: str, shell: str = "bash") -> list[str]:
        """What the shell offers with the cursor at the end of ``line``."""
        monkeypatch.setenv("_COLINEAR_COMPLETE", f"complete_{shell}")
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", str(len(line.split(" ")) - 1))
        monkeypatch.setenv("_TYPER_COMPLETE_ARGS", line)
        with pytest.raises(SystemExit) as left:
            main([])
        assert left.value.code == 0
        return capsys.readouterr().out.strip().splitlines()

    return ask


def test_commands_and_options_are_completed(completed: Any) -> None:
    assert completed("colinear s") == ["study", "sweep", "serve"]
    assert completed("colinear study --dr") == ["--dry-run"]


def test_names_of_presets_are_completed(completed: Any) -> None:
    assert completed("colinear study ") == list(presets.PRESETS)
    assert completed("colinear study paper") == ["paper", "paper-fixed"]
    assert completed("colinear sweep tiny") == ["tiny-sweep", "tiny", "tiny-replicates", "tiny-why", "tiny-on-policy"]
    assert completed("colinear study my_st") == []  # then the shell offers files
    assert '"smoke":"The same in a minute, for tests' in " ".join(completed("colinear study smok", "zsh"))


def test_names_of_settings_are_completed(completed: Any) -> None:
    assert completed("colinear study --set see") == ["seed="]
    assert completed("colinear study smoke --set seed=1 --set dpo.b") == ["dpo.beta="]
    assert completed("colinear sweep --set sweep.mo") == ["sweep.most_cells="]
    assert completed("colinear sweep --grid train.warm") == ["train.warmup="]
    assert completed("colinear study --set sweep.mo") == []
    offered = completed("colinear study --set ")
    known = {key.partition(".")[0] for key in (one.removesuffix("=") for one in offered)}
    assert known == set(StudySpec.model_fields)
    assert len(offered) == len(set(offered)) > 100


def test_the_shell_s_script_is_written(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The shell is named: which one runs the tests may not be known (make's)."""
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    with pytest.raises(SystemExit) as left:
        main(["--show-completion", "bash"])
    assert left.value.code == 0
    assert "_COLINEAR_COMPLETE=complete_bash" in capsys.readouterr().out
