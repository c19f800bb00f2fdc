"""What is asked again and what is not, how long, and what is told: on real connections to a server that misbehaves."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest
import requests

from tasks.core.errors import InputError, StageError
from tasks.core.events import Event, listening, stopping
from tasks.storage import patience
from tasks.storage.patience import Aside, Server, trouble_of
from tests.faults.proxy import Proxy, answering, proxied, refusing, silent

PAGE = b"<html>hello</html>"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "PAUSES", (0.1, 0.2))
    monkeypatch.setattr(patience, "TELL_SECONDS", 0.3)
    monkeypatch.setattr(patience, "ILL_SECONDS", 0.5)


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with answering(PAGE) as target, proxied(target) as one:
        yield one


def get(uri: str) -> Callable[[], bytes]:
    def ask() -> bytes:
        answer = requests.get(uri, timeout=0.3)
        answer.raise_for_status()
        return answer.content

    return ask


def error_of(ask: Callable[[], object]) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011  (whatever the library raises)
        ask()
    return caught.value


def test_what_a_connection_says_is_told_in_one_word(proxy: Proxy) -> None:
    with refusing() as refused, silent() as hole:
        found = {
            "refused": trouble_of(error_of(get(refused))),
            "hole": trouble_of(error_of(get(hole))),
            "name": trouble_of(error_of(get("http://no-such-host.invalid"))),
        }
    proxy.cut = 1.0
    found["cut"] = trouble_of(error_of(get(proxy.uri)))
    proxy.cut = 0.0
    for code in (500, 503, 429, 403, 404):
        proxy.refuse = lambda method, path, code=code: code  # type: ignore[misc]
        found[str(code)] = trouble_of(error_of(get(proxy.uri)))
    said = {name: trouble and (trouble.reason, trouble.away) for name, trouble in found.items()}
    assert said == {
        "refused": ("connection refused", True),
        "hole": ("no answer in time", True),
        "name": ("no such host", True),
        "cut": ("the connection was cut", True),
        "500": ("it answers 500", False),
        "503": ("it answers 503", True),
        "429": ("it answers 429", True),
        "403": None,
        "404": None,
    }
    assert trouble_of(OSError(28, "No space left on device")) is None


def test_a_server_that_comes_back_is_waited_for_and_told_of_once(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLINEAR_SERVER_PATIENCE", "30")
    server = Server("MLflow", proxy.uri.replace("http://", "http://me:hidden@"))
    proxy.down()
    threading.Timer(1.5, proxy.up).start()
    answers: list[bytes] = []
    heard: list[Event] = []
    with listening(heard.append):
        threads = [threading.Thread(target=lambda: answers.append(server.call(get(proxy.uri)))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert not server.away
        server.call(get(proxy.uri))
    assert answers == [PAGE] * 4
    assert [(event.kind, event.name) for event in heard] == [
        ("away", f"MLflow at {proxy.uri}"),
        ("back", f"MLflow at {proxy.uri}"),
    ]
    assert heard[0].note == "connection refused; tried for 30 s"
    assert 1.0 < heard[1].seconds < 10.0


def test_patience_ends_for_all_at_once_and_says_how_long_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLINEAR_SERVER_PATIENCE", "1")
    with refusing() as uri:
        server = Server("MLflow", uri)
        began = time.monotonic()
        with pytest.raises(StageError, match=rf"^MLflow at {uri} does not answer for \d+ s \(connection refused\)$"):
            server.call(get(uri))
        assert 1.0 <= time.monotonic() - began < 30
        began = time.monotonic()
        with pytest.raises(StageError, match="does not answer"):  # somebody else's call: the hour is over for it too
            server.call(get(uri))
        assert time.monotonic() - began < 0.5


def test_a_server_that_answers_500_is_given_up_soon(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLINEAR_SERVER_PATIENCE", "3600")
    server = Server("MLflow", proxy.uri)
    proxy.fail, proxy.codes = 1.0, [500]
    heard: list[Event] = []
    with listening(heard.append), pytest.raises(StageError, match=r": it answers 500 for \d s; its log says why$"):
        server.call(get(proxy.uri))
    assert not heard
    assert not server.away
    assert proxy.done["500"] > 2


def test_short_failures_are_healed_and_not_told(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "ILL_SECONDS", 20.0)
    monkeypatch.setattr(patience, "TELL_SECONDS", 20.0)
    proxy.fail = 0.4
    heard: list[Event] = []
    server = Server("MLflow", proxy.uri)
    with listening(heard.append):
        assert [server.call(get(proxy.uri)) for _ in range(10)] == [PAGE] * 10
    assert proxy.done["500"] + proxy.done["503"] >= 3
    assert not heard


def test_an_answer_is_not_asked_for_again(proxy: Proxy) -> None:
    proxy.refuse = lambda method, path: 403
    with pytest.raises(requests.HTTPError, match="403"):
        Server("MLflow", proxy.uri).call(get(proxy.uri))
    assert proxy.done["requests"] == 1


def test_the_second_try_is_another_question_where_the_first_may_have_been_heard(proxy: Proxy) -> None:
    proxy.cut = 1.0
    asked: list[str] = []

    def first() -> str:
        asked.append("first")
        return str(get(proxy.uri)())

    def again() -> str:
        asked.append("again")
        proxy.cut = 0.0
        return str(get(proxy.uri)())

    assert Server("MLflow", proxy.uri).call(first, again) == str(PAGE)
    assert asked == ["first", "again"]


def test_a_study_that_is_being_stopped_waits_for_nobody() -> None:
    stopping.set()
    try:
        with refusing() as uri, pytest.raises(StageError, match="does not answer"):
            Server("MLflow", uri).call(get(uri))
    finally:
        stopping.clear()


@pytest.mark.parametrize("text", ["soon", "-1", "nan", "inf", "1 h"])
def test_patience_that_is_no_number_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("COLINEAR_SERVER_PATIENCE", text)
    with pytest.raises(InputError, match=f"^COLINEAR_SERVER_PATIENCE: expected seconds, 0 or more, got '{text}'$"):
        Server("MLflow", "http://127.0.0.1:1")


def test_what_is_done_aside_holds_up_nobody_and_is_done_one_at_a_time() -> None:
    aside, free, done = Aside(), threading.Event(), []

    def slow() -> None:
        free.wait(10)
        done.append("slow")

    began = time.monotonic()
    aside.start(slow)
    aside.start(lambda: done.append("left out"))
    aside.wait(0.1)
    assert time.monotonic() - began < 5
    assert done == []
    free.set()
    aside.wait(10)
    aside.start(lambda: done.append("next"))
    aside.wait(10)
    assert done == ["slow", "next"]


def test_an_answer_with_a_strange_name_in_it_is_an_answer() -> None:
    from mlflow.exceptions import RestException

    said = "Registered Model (name=timeout-refused-sft) already exists."
    assert trouble_of(RestException({"error_code": "RESOURCE_ALREADY_EXISTS", "message": said})) is None
    away = trouble_of(RestException({"error_code": "INTERNAL_ERROR", "message": "the database timed out"}))
    assert away is not None
    assert away.away
