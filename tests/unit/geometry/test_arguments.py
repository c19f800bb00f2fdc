"""How adapters are named on the command line: what an argument is, what it is called, where it lies."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.core.errors import InputError
from tasks.core.results import RunInfo
from tasks.geometry.adapters.arguments import Argument, is_model, label_all, locate, parse
from tasks.geometry.adapters.identities import choose_reference, identify

RUN = "0f3c5a7e" * 4
OTHER = "77aa88bb" * 4


def labels(*arguments: str, names: dict[str, str] | None = None) -> list[str]:
    return label_all([parse(argument) for argument in arguments], names)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether a name is a folder here decides what it is: start from an empty working folder."""
    monkeypatch.chdir(tmp_path)


def nothing(uri: str, scratch: Path) -> Path:
    raise AssertionError(f"asked MLflow for {uri}")


# --- what an argument is ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("/no/such/folder", Argument(None, "folder", "/no/such/folder")),
        ("./sft/adapter", Argument(None, "folder", "./sft/adapter")),
        ("~/sft", Argument(None, "folder", "~/sft")),
        ("sft", Argument(None, "folder", "sft")),  # one word is no Hub id
        ("owner/name", Argument(None, "hub", "owner/name")),
        ("owner/name/sub/folder", Argument(None, "hub", "owner/name/sub/folder")),
        ("owner/name@refs/pr/1", Argument(None, "hub", "owner/name@refs/pr/1")),
        (RUN, Argument(None, "mlflow", RUN)),
        (f"runs:/{RUN}/a/b", Argument(None, "mlflow", f"runs:/{RUN}/a/b")),
        ("models:/name/3", Argument(None, "mlflow", "models:/name/3")),
        (
            "mlflow-artifacts:/1/x/artifacts/adapter",
            Argument(None, "mlflow", "mlflow-artifacts:/1/x/artifacts/adapter"),
        ),
        (RUN[:-1], Argument(None, "folder", RUN[:-1])),  # 31 digits
        ("mine=owner/name", Argument("mine", "hub", "owner/name")),
        ("a=b=c", Argument("a", "folder", "b=c")),
        ("x/lr=1e-3/adapter", Argument(None, "folder", "x/lr=1e-3/adapter")),  # an equals sign after a slash
    ],
)
def test_kinds_of_arguments(argument: str, expected: Argument) -> None:
    assert parse(argument) == expected


def test_an_existing_path_is_that_path_whatever_its_name(tmp_path: Path) -> None:
    for name in ("mine=sft", RUN, "owner/name"):
        (tmp_path / name).mkdir(parents=True)
        assert parse(name) == Argument(None, "folder", name)


def test_a_name_below_a_folder_that_is_here_is_a_slip_not_a_hub_id(tmp_path: Path) -> None:
    assert parse("runs/stf").kind == "hub"
    (tmp_path / "runs").mkdir()
    assert parse("runs/stf").kind == "folder"


@pytest.mark.parametrize("argument", ["", "  ", "=sft", "a=", "s3://bucket/adapter", "https://host/owner/name"])
def test_what_is_no_argument_is_refused(argument: str) -> None:
    with pytest.raises(InputError):
        parse(argument)


# --- labels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["/x/sft/adapter", "/x/rft/adapter"], ["sft", "rft"]),
        (["/x/sft/final", "/x/rft/final"], ["sft", "rft"]),  # what all end in says nothing
        (["/x/sft", "/x/rft"], ["sft", "rft"]),
        (["/x/sft/output/adapter", "/y/dpo"], ["sft", "dpo"]),
        (["/x/1/sft", "/x/2/sft", "/x/dpo"], ["1/sft", "2/sft", "dpo"]),
        (["/x/sft/checkpoint-10", "/x/sft/checkpoint-20"], ["sft/checkpoint-10", "sft/checkpoint-20"]),
        (["/x/sft/checkpoint-10", "/x/rft/checkpoint-10"], ["sft", "rft"]),
        (["/x/sft/checkpoint-10", "/x/rft"], ["sft/checkpoint-10", "rft"]),
        (["/x/a/run/adapter", "/x/b/run/adapter"], ["a", "b"]),
        (["/x/sft/../rft", "/x/sft"], ["rft", "sft"]),
        (["owner/one", "other/two/sub"], ["one", "sub"]),
        (["owner/name", "other/name"], ["owner", "other"]),
        (["owner/name@v1", "owner/name@v2"], ["name@v1", "name@v2"]),
        (["models:/sft/1", "models:/sft/2"], ["sft-1", "sft-2"]),
        ([RUN, OTHER], ["0f3c5a7e", "77aa88bb"]),
        ([f"runs:/{RUN}/adapter", f"runs:/{RUN}/second"], ["0f3c5a7e", "second"]),
        (["/x/sft", "/x/sft", "/x/sft"], ["sft", "sft-2", "sft-3"]),  # one adapter, three times
        (["sft=/x/a", "/y/sft"], ["sft", "y/sft"]),
        (["sft=/x/a", "/sft"], ["sft", "sft-2"]),
        (["/x/adapter", "/x/adapter"], ["x", "x-2"]),
    ],
)
def test_labels_are_the_shortest_tails_that_tell_arguments_apart(arguments: list[str], expected: list[str]) -> None:
    assert labels(*arguments) == expected


def test_runs_are_called_what_mlflow_calls_them() -> None:
    assert labels(RUN, OTHER, names={RUN: "sft", OTHER: "dpo"}) == ["sft", "dpo"]
    assert labels(RUN, OTHER, names={RUN: "sft", OTHER: "sft"}) == ["0f3c5a7e", "77aa88bb"]
    assert labels(RUN, OTHER, "/x/dpo", names={RUN: "sft", OTHER: "sft"}) == ["0f3c5a7e/sft", "77aa88bb/sft", "dpo"]
    assert labels(f"runs:/{RUN}/output/adapter", "/x/dpo", names={f"runs:/{RUN}/output/adapter": "sft"}) == [
        "sft", "dpo",
    ]  # fmt: skip


def test_one_label_for_two_adapters_is_refused() -> None:
    with pytest.raises(InputError, match=r"^label 'a' is given twice; "):
        labels("a=/x", "a=/y")


# --- who they are -----------------------------------------------------------------------------------------------------


def test_of_a_strangers_adapter_the_label_is_the_method() -> None:
    assert identify(["x"], {}) == [RunInfo("x", "x", None, None, None)]
    assert identify(["x"], {"x": RunInfo("its name", "its name", None, None, None)}) == [
        RunInfo("x", "x", None, None, None)
    ]


def test_of_a_studys_run_everything_is_known_but_the_label() -> None:
    assert identify(["x"], {"x": RunInfo("sft", "sft", 3, 4, 1e-3)}) == [RunInfo("x", "sft", 3, 4, 1e-3)]


def test_a_twin_takes_the_method_and_the_learning_rate() -> None:
    known = {"a": RunInfo("sft", "sft", 0, 0, 1e-3)}
    assert identify(["a", "b=c", "d"], known, ["a=b=c"]) == [
        RunInfo("a", "sft", 0, 0, 1e-3),
        RunInfo("b=c", "sft", None, None, 1e-3),
        RunInfo("d", "d", None, None, None),
    ]
    first, second = identify(["b", "a"], known, ["b=a"])
    assert (first.method, first.lr) == (second.method, second.lr) == ("b", 1e-3)


@pytest.mark.parametrize(
    ("replicate", "message"),
    [
        ("sft", "--replicate sft: expected A=B"),
        ("sft=stf2", "--replicate sft=stf2: no adapter 'stf2'; did you mean 'sft2'?"),
        ("zzz=sft2", "--replicate zzz=sft2: no adapter 'zzz'; known: sft, sft2, dpo"),
        ("sft=sft", "--replicate sft=sft: an adapter is not its own replicate"),
        ("sft=dpo", "--replicate sft=dpo: their learning rates are 0.001 and 0.0001"),
    ],
)
def test_twins_that_cannot_be(replicate: str, message: str) -> None:
    known = {"sft": RunInfo("sft", "sft", 0, 0, 1e-3), "dpo": RunInfo("dpo", "dpo", 0, 0, 1e-4)}
    with pytest.raises(InputError) as refused:
        identify(["sft", "sft2", "dpo"], known, [replicate])
    assert str(refused.value).startswith(message)


def test_the_reference_is_the_first_or_the_one_that_is_asked_for() -> None:
    assert choose_reference(["sft", "dpo"], None) == "sft"
    assert choose_reference(["sft", "dpo"], "dpo") == "dpo"
    with pytest.raises(InputError, match=r"^--reference dop: no adapter of that name; did you mean 'dpo'\?$"):
        choose_reference(["sft", "dpo"], "dop")


# --- where they lie ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("within", [".", "adapter", "output/adapter"])
def test_the_adapter_in_a_folder_is_found(tmp_path: Path, within: str) -> None:
    folder = tmp_path / "sft" / within
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").touch()
    found = locate(parse("sft"), nothing, tmp_path)
    assert found == folder
    assert not is_model(found)


def test_an_adapter_beside_a_models_configuration_is_the_adapter(tmp_path: Path) -> None:
    (tmp_path / "config.json").touch()
    found = locate(parse(str(tmp_path)), nothing, tmp_path)
    assert (found, is_model(found)) == (tmp_path, True)
    (tmp_path / "adapter_config.json").touch()
    assert not is_model(locate(parse(str(tmp_path)), nothing, tmp_path))


def test_mlflow_gives_the_folder_in_which_the_adapter_is_looked_for(tmp_path: Path) -> None:
    def download(uri: str, scratch: Path) -> Path:
        (scratch / "adapter").mkdir()
        (scratch / "adapter" / "adapter_config.json").write_text(uri)
        return scratch

    found = locate(parse(f"mine=runs:/{RUN}"), download, tmp_path)
    assert found == tmp_path / "adapter"
    assert (found / "adapter_config.json").read_text() == f"runs:/{RUN}"


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("none", "none: no such folder; "),
        ("file", "file is a file; give the directory"),
        ("empty", "empty: neither adapter_config.json "),
    ],
)
def test_folders_that_hold_nothing_to_compare(tmp_path: Path, argument: str, message: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError) as refused:
        locate(parse(argument), nothing, tmp_path)
    assert str(refused.value).startswith(message)


def test_a_hub_that_cannot_be_reached_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"^'nobody/nothing/sub@main' is neither a folder here nor to be had from the"):
        locate(parse("nobody/nothing/sub@main"), nothing, tmp_path)
