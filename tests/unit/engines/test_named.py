"""Keys go to endpoints that the owner of the state folder has named with them, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.core.errors import InputError
from tasks.core.sections import RolloutSpec
from tasks.engines import named
from tasks.engines.choose import open_engine, probe_endpoint
from tasks.planning.preflight import preflight
from tasks.settings.presets import preset
from tasks.settings.study import build, override
from tests.lab.openai_server import Server, chat, serving

URL, KEY = "http://127.0.0.1:9/v1", "MY_KEY"


def spec(endpoint: str | None = URL, key_env: str | None = KEY, engine: Any = "openai") -> RolloutSpec:
    return RolloutSpec(engine=engine, endpoint=endpoint, teacher="m", key_env=key_env)


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv(KEY, "sk-of-the-owner-0123")
    with serving(lambda _: chat("2")) as server:
        yield server


def test_a_started_run_sends_no_key_to_an_endpoint_that_nobody_named(
    endpoint: Server, state: Path, base_model: Path, tmp_path: Path
) -> None:
    """By the settings that Prefect's pages hand to the flow, which begins with `preflight`."""
    words = [
        f"model.base={base_model}", f"rollouts.problems={tmp_path / 'mine.jsonl'}", "rollouts.engine=openai",
        f"rollouts.endpoint={endpoint.url}", "rollouts.teacher=m", f"rollouts.key_env={KEY}",
    ]  # fmt: skip
    study = build(override(preset("own"), words))
    with pytest.raises(InputError) as refused:
        preflight(study)
    assert str(refused.value) == (
        f"rollouts.endpoint: {endpoint.url} is not sent the key in MY_KEY, for nobody has named the two together; the "
        f"line `{endpoint.url} MY_KEY` in {state / 'endpoints'} allows it, as does a `colinear study` with these "
        "settings"
    )
    for ask in (lambda: probe_endpoint(study.rollouts), lambda: open_engine(study.rollouts, None)):
        with pytest.raises(InputError, match="is not sent the key in MY_KEY"):
            ask()
    assert endpoint.asked == []
    (state / "endpoints").write_text(f"{endpoint.url} MY_KEY\n")
    probe_endpoint(study.rollouts)
    assert len(endpoint.asked) == 1


def test_what_a_command_line_names_may_be_asked_from_then_on(state: Path) -> None:
    named.allow(spec())
    named.check(spec())
    named.allow(spec("https://other.example.com/v1/"))
    named.check(spec("https://other.example.com/v1"))
    written = (state / "endpoints").read_text()
    named.allow(spec())
    assert (state / "endpoints").read_text() == written
    assert written.splitlines()[1:] == [f"{URL} {KEY}", f"https://other.example.com/v1 {KEY}"]
    assert (state / "endpoints").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "another",
    [
        spec("http://127.0.0.1:10/v1"), spec("https://127.0.0.1:9/v1"), spec("http://127.0.0.1:9/v1/x"),
        spec("http://127.0.0.1:9/V1"), spec("http://127.0.0.1:9.example.com/v1"), spec(key_env="MY_OTHER_KEY"),
    ],
    ids=lambda one: f"{one.endpoint} {one.key_env}",
)  # fmt: skip
def test_another_address_and_another_key_are_others(state: Path, another: RolloutSpec) -> None:
    named.allow(spec())
    with pytest.raises(InputError, match="nobody has named the two together"):
        named.check(another)


@pytest.mark.parametrize(
    "harmless",
    [spec(key_env=None), spec(engine="transformers"), spec("https://api.deepseek.com/v1", "DEEPSEEK_API_KEY")],
    ids=["no key", "no endpoint", "the preset's own"],
)
def test_what_sends_no_key_of_the_owners_is_free(state: Path, harmless: RolloutSpec) -> None:
    named.check(harmless)
    named.allow(spec(key_env=None))
    assert not (state / "endpoints").exists()


def test_the_presets_pair_is_the_one_that_is_free(state: Path) -> None:
    named.check(build(preset("paper")).rollouts)


def test_lines_that_say_something_else_allow_nothing(state: Path) -> None:
    state.mkdir(mode=0o700)
    (state / "endpoints").write_text(f"# {URL} {KEY}\n{URL}\n{KEY}\n{URL}{KEY}\n{URL} {KEY} X\n\n\xff\n")
    with pytest.raises(InputError, match="nobody has named"):
        named.check(spec())
    (state / "endpoints").write_text(f"  HTTP://127.0.0.1:9/v1/   {KEY}  \n")
    named.check(spec())


def test_a_list_that_others_can_write_allows_nothing(state: Path) -> None:
    named.allow(spec())
    (state / "endpoints").chmod(0o666)
    named.check(spec())  # nobody else gets into the folder
    state.chmod(0o2777)  # meant for a group: left as it is
    with pytest.raises(InputError, match=r"endpoints: others can write to it, so it allows nothing"):
        named.check(spec())
