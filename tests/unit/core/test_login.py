"""The login of a state folder: made once, kept from others, given to the folder's own servers and to nobody else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from filelock import FileLock

from tasks.core import home, login
from tasks.core.login import prefect_address
from tests.lab.living import environment

OURS = {"prefect": "http://127.0.0.1:4200/api", "mlflow": "http://127.0.0.1:5000"}
GIVEN = (
    "PREFECT_SERVER_API_AUTH_STRING", "PREFECT_API_AUTH_STRING", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD",
)  # fmt: skip


def test_it_is_made_once_by_whoever_comes_first(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = set(pool.map(login.of, [tmp_path] * 32))
    (one,) = made
    assert login.of(tmp_path) == one == (tmp_path / "token").read_text().strip()
    user, _, password = one.partition(":")
    assert (user, len(password)) == ("colinear", 32)  # 24 random bytes in base 64
    (tmp_path / "token").unlink()
    assert login.of(tmp_path) != one


@pytest.mark.parametrize("damage", ["", "\n", "no colon", "two words:x y"])
def test_what_is_no_login_is_made_anew(tmp_path: Path, damage: str) -> None:
    (tmp_path / "token").write_text(damage)
    (tmp_path / "token").chmod(0o600)
    assert login.of(tmp_path).startswith("colinear:")


def test_what_others_could_read_is_no_secret_any_more(tmp_path: Path) -> None:
    before = login.of(tmp_path)
    (tmp_path / "token").chmod(0o644)
    after = login.of(tmp_path)
    assert after != before
    assert (tmp_path / "token").stat().st_mode & 0o777 == 0o600
    assert login.of(tmp_path) == after


def test_one_that_the_owner_wrote_is_kept(tmp_path: Path) -> None:
    (tmp_path / "token").touch(0o600)
    (tmp_path / "token").write_text("me:a password of mine\n".replace(" ", "-"))
    assert login.of(tmp_path) == "me:a-password-of-mine"


@pytest.mark.parametrize(("mode", "expected"), [(0o755, 0o700), (0o775, 0o700), (0o700, 0o700), (0o2775, 0o2775)])
def test_the_state_folder_is_closed_but_one_that_is_meant_for_a_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int, expected: int
) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home").chmod(mode)
    monkeypatch.setenv("COLINEAR_HOME", str(tmp_path / "home"))
    assert home.home().stat().st_mode & 0o7777 == expected


def test_neither_the_account_nor_the_machine_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o755)
    monkeypatch.setenv("HOME", str(tmp_path))
    for folder in ("/tmp", "/", str(tmp_path)):
        before = Path(folder).stat().st_mode
        monkeypatch.setenv("COLINEAR_HOME", folder)
        assert home.home().stat().st_mode == before


def given(folder: Path, *, held: bool = True, record: dict[str, str] = OURS, ours: bool = True, **more: str) -> dict:  # type: ignore[type-arg]
    """What a process of its own has in its environment after `quiet_environment`; ``held``: `colinear ui` runs."""
    folder.mkdir(exist_ok=True)
    login.remember(folder, record["prefect"], record["mlflow"], list(record.values()) if ours else [])
    asked = f"import json, os; from tasks.core import home; home.quiet_environment(); print(json.dumps({{n: os.environ.get(n) for n in {GIVEN}}}))"  # noqa: E501
    lock = FileLock(folder / login.LOCK)
    if held:
        lock.acquire()
    try:
        done = subprocess.run(
            [sys.executable, "-c", asked], cwd=folder, env=environment(folder, **more), capture_output=True, text=True
        )
    finally:
        lock.release(force=True)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    return {name: value for name, value in said.items() if value is not None}


def test_the_server_that_a_study_starts_gets_it(tmp_path: Path) -> None:
    both = login.of(tmp_path)
    expected = dict.fromkeys(GIVEN[:2], both)
    assert given(tmp_path) == expected
    assert given(tmp_path, PREFECT_API_AUTH_STRING="team:theirs") == expected  # of a server that is not asked


def test_the_uis_servers_get_it(tmp_path: Path) -> None:
    both = login.of(tmp_path)
    found = given(tmp_path, PREFECT_API_URL=OURS["prefect"], MLFLOW_TRACKING_URI=OURS["mlflow"])
    user, _, password = both.partition(":")
    assert found == dict(zip(GIVEN[1:], (both, user, password), strict=True))


@pytest.mark.parametrize(
    "variables",
    [
        {"PREFECT_API_URL": "https://team.example.com/api", "MLFLOW_TRACKING_URI": "https://team.example.com"},
        # What the name means is for the machine to say: on ::1 somebody else may listen.
        {"PREFECT_API_URL": "http://localhost:4200/api", "MLFLOW_TRACKING_URI": "http://localhost:5000"},
        {"PREFECT_API_URL": "http://127.0.0.1:4201/api", "MLFLOW_TRACKING_URI": "http://127.0.0.1:5001"},
    ],
)
def test_no_other_address_gets_it(tmp_path: Path, variables: dict[str, str]) -> None:
    assert given(tmp_path, **variables) == {}
    theirs = {"PREFECT_API_AUTH_STRING": "team:theirs", "MLFLOW_TRACKING_USERNAME": "me"}
    assert given(tmp_path, **variables, **theirs) == theirs  # a team's own way


def test_ports_of_a_ui_that_is_gone_get_nothing(tmp_path: Path) -> None:
    """After ``kill -9`` the word is still there, and the ports may be anybody's."""
    addresses = {"PREFECT_API_URL": OURS["prefect"], "MLFLOW_TRACKING_URI": OURS["mlflow"]}
    assert given(tmp_path, held=False, **addresses) == {}
    assert given(tmp_path, held=True, ours=False, **addresses) == {}  # servers that it shows and did not start


@pytest.mark.parametrize("name", ["prefect.toml", "profiles.toml"])
def test_a_server_that_a_file_names_gets_nothing(tmp_path: Path, name: str) -> None:
    """Prefect takes addresses from files as well, and would send what stands in the environment."""
    texts = {
        "prefect.toml": '[api]\nurl = "https://team.example.com/api"\n',
        "profiles.toml": 'active = "team"\n[profiles.team]\nPREFECT_API_URL = "https://team.example.com/api"\n',
    }
    place = tmp_path / "prefect" / name if name == "profiles.toml" else tmp_path / name
    place.parent.mkdir(exist_ok=True)
    place.write_text(texts[name])
    assert given(tmp_path) == {}


def test_the_active_profile_is_the_one_that_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for variable in ("PREFECT_API_URL", "PREFECT_HOME", "PREFECT_PROFILE"):
        monkeypatch.delenv(variable, raising=False)
    path = tmp_path / "profiles.toml"
    path.write_text('active = "a"\n[profiles.a]\n[profiles.b]\nPREFECT_API_URL = "http://b/api"\n')
    monkeypatch.setenv("PREFECT_PROFILES_PATH", str(path))
    assert prefect_address() == ("", "")
    monkeypatch.setenv("PREFECT_PROFILE", "b")
    assert prefect_address() == (str(path), "http://b/api")
    assert "PREFECT_API_URL" not in os.environ
