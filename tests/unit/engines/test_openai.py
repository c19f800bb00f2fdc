"""The endpoint engine against a real server that answers, refuses, stumbles, hangs and lies."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from tasks.core.errors import InputError, StageError
from tasks.core.sections import RolloutSpec
from tasks.engines import endpoint as module
from tasks.engines import named
from tasks.engines.choose import probe_endpoint
from tasks.engines.endpoint import Endpoint
from tasks.engines.interface import Completion, Request, Sampling
from tasks.engines.openai import OpenAIEngine, read_completion
from tests.lab.openai_server import Say, Server, chat, echo, serving

KEY = "sk-very-secret-0123456789"
DRAWN = Sampling(16, 1.0, logprobs=True)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    monkeypatch.setattr(module, "FIRST_WAIT", 0.01)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(echo, key=KEY) as state:
        yield state


def engine(server: Server, *, concurrency: int = 1, tokens: bool = False, **settings: Any) -> OpenAIEngine:
    given = {"url": server.url, "model": "teacher", "key_env": "MY_KEY", "timeout": 5.0, "retries": 3, **settings}
    return OpenAIEngine(Endpoint(**given), concurrency=concurrency, tokens=tokens)


def requests(n: int) -> list[Request]:
    return [Request(f"r{i}", f"question {i}", None, 1000 + i) for i in range(n)]


def complete(asked: OpenAIEngine, n: int = 1, sampling: Sampling = DRAWN) -> dict[str, Completion]:
    found: dict[str, Completion] = {}
    with asked:
        asked.complete(requests(n), sampling, lambda request, completion: found.update({request.id: completion}))
    return found


def test_a_chat_is_asked_with_its_own_seed_and_plain_sampling(server: Server) -> None:
    found = complete(engine(server, extra={"thinking": {"type": "disabled"}}))
    assert found == {"r0": Completion("said question 0", None, None, "stop")}
    assert server.paths == ["/v1/chat/completions"]
    assert server.asked == [
        {
            "model": "teacher", "messages": [{"role": "user", "content": "question 0"}], "max_tokens": 16,
            "temperature": 1.0, "top_p": 1.0, "seed": 1000, "logprobs": True, "thinking": {"type": "disabled"},
        }
    ]  # fmt: skip


def test_requests_run_at_once_up_to_the_limit_and_each_is_delivered(server: Server) -> None:
    server.delay = 0.1
    began = time.monotonic()
    found = complete(engine(server, concurrency=5), 20)
    assert {name: one.text for name, one in found.items()} == {f"r{i}": f"said question {i}" for i in range(20)}
    assert server.most_at_once == 5
    assert time.monotonic() - began < 20 * 0.1  # one after another it takes that at least


def test_token_ids_go_to_completions_and_come_back() -> None:
    def answer(body: dict[str, Any]) -> dict[str, Any]:
        return {"choices": [{"text": "ab", "finish_reason": "stop", "token_ids": [5, 6, 1],
                             "logprobs": {"token_logprobs": [-0.5, -1.5, -0.25]}}]}  # fmt: skip

    with serving(answer) as server:
        asked = engine(server, tokens=True, key_env=None)
        found = []
        with asked:
            asked.complete([Request("a", "?", (7, 8), 3)], DRAWN, lambda _, completion: found.append(completion))
            asked.complete([Request("a", "?", (7, 8), 3)], Sampling(4, 0.7, True), lambda _, one: found.append(one))
    assert found[0] == Completion("ab", (5, 6, 1), (-0.5, -1.5, -0.25), "stop")
    assert server.paths[0] == "/v1/completions"
    assert server.asked[0] == {
        "model": "teacher", "prompt": [7, 8], "return_token_ids": True, "max_tokens": 16, "temperature": 1.0,
        "top_p": 1.0, "seed": 3, "logprobs": 0,
    }  # fmt: skip
    assert found[1].logprobs is None  # of which temperature they were is not known
    assert "logprobs" not in server.asked[1]


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, "rollouts.key_env: "),
        (402, "rollouts.key_env: "),
        (403, "rollouts.key_env: "),
        (404, "rollouts.teacher: "),
        (405, "rollouts.endpoint: "),
        (301, "rollouts.endpoint: "),
    ],
)
def test_what_trying_again_cannot_mend_is_refused_at_once(server: Server, status: int, message: str) -> None:
    server.script = [Say(status, f'{{"error": {{"message": "no,\\n{KEY} it is not"}}}}')]
    with pytest.raises(InputError) as error:
        complete(engine(server), 3)
    assert str(error.value).startswith(message)
    assert f"answered HTTP {status} (no, *** it is not)" in str(error.value)
    assert len(server.asked) == 1


def test_an_empty_account_is_not_waited_for(server: Server) -> None:
    server.script = [Say(429, '{"error": {"message": "pay", "code": "insufficient_quota"}}')]
    with pytest.raises(InputError, match=r"^rollouts\.key_env: .* answered HTTP 429 \(pay\); check the key in MY_KEY"):
        complete(engine(server))


@pytest.mark.parametrize(
    "stumble",
    [
        Say(500, "oops"), Say(503, ""), Say(429, "slow down"), Say(408), Say(200, "{not json"), Say(200, "[]"),
        Say(200, '{"choices": []}'), Say(200, '{"choices": [{"finish_reason": "stop"}]}'),
        Say(200, '{"choices": [{"message": {"content": "x"}, "finish_reason": null}]}'),
        Say(200, '{"choices": [{"message": {"content": "cut short"}, "finish_reason": "stop"}]}', cut=True),
        Say(hang=1.0), Say(200, "not gzip", (("Content-Encoding", "gzip"),)),
        Say(200, '{"error": {"message": "overloaded", "code": 502}}'),
    ],
)  # fmt: skip
def test_what_passes_is_tried_again(server: Server, stumble: Say) -> None:
    server.script = [stumble, stumble]
    assert complete(engine(server, timeout=0.3 if stumble.hang else 30.0))["r0"].text == "said question 0"
    assert len(server.asked) == 3
    assert server.asked[0] == server.asked[2]


def test_what_a_server_says_is_wrong_behind_a_200_is_quoted(server: Server) -> None:
    server.script = [Say(200, '{"error": {"message": "no credits left"}}')] * 2
    with pytest.raises(
        StageError, match=r"in 2 tries; last: HTTP 200 with an error in it \(no credits left\); what was"
    ):
        complete(engine(server, retries=1))


@pytest.mark.parametrize("status", [400, 413, 422])
def test_one_refused_request_does_not_end_the_others(server: Server, status: int) -> None:
    server.script = [Say(status, '{"error": {"message": "flagged"}}')]
    found = complete(engine(server), 3)
    assert found["r0"] == Completion(f"HTTP {status} (flagged)", None, None, "refused")
    assert [found[name].text for name in ("r1", "r2")] == ["said question 1", "said question 2"]
    assert len(server.asked) == 3
    server.script = [Say(status, '{"error": {"message": "unknown field"}}')]
    message = rf"^rollouts\.endpoint: it answered a plain question with HTTP {status} \(unknown field\); check"
    with engine(server) as asked, pytest.raises(InputError, match=message):
        asked.probe()


@pytest.mark.parametrize("text", ["\ud83d", "a\ude00b", "whole \U0001f600"])
def test_what_cannot_be_written_is_cleaned(text: str) -> None:
    """JSON can spell half of a surrogate pair; no file and no frame takes it."""
    answer = chat(text)
    answer["choices"][0]["message"]["reasoning"] = text
    found = read_completion(answer, logprobs=False)
    expected = text.replace("\ud83d", "\ufffd").replace("\ude00", "\ufffd")
    assert found.text == found.reasoning == expected
    assert found.text.encode()


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_thinking_is_kept_apart(field: str) -> None:
    answer = chat("4")
    assert read_completion(answer, logprobs=False).reasoning is None
    answer["choices"][0]["message"][field] = "two and two"
    assert read_completion(answer, logprobs=False) == Completion("4", None, None, "stop", "two and two")


def test_a_probe_is_not_told_to_wait_for_minutes(server: Server) -> None:
    server.script = [Say(429, "slow down", (("Retry-After", "600"),))]
    began = time.monotonic()
    with engine(server) as asked, pytest.raises(InputError) as error:
        asked.probe()
    assert time.monotonic() - began < 5
    assert "in 1 try; last: HTTP 429 (slow down), and asks to wait 600 s: start again then" in str(error.value)


def test_a_probe_has_a_patience_of_its_own(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.engines.openai.PROBE_SECONDS", 1.5)
    server.script = [Say(hang=3.0)] * 3
    began = time.monotonic()
    with engine(server, timeout=600.0) as asked, pytest.raises(InputError, match="nothing came for"):
        asked.probe()
    assert time.monotonic() - began < 5


def test_an_endpoint_that_answered_is_not_probed_again(
    server: Server, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = RolloutSpec(engine="openai", endpoint=server.url, teacher="m", key_env="MY_KEY")
    named.allow(spec)
    probe_endpoint(spec)
    probe_endpoint(spec)
    assert len(server.asked) == 1
    monkeypatch.setenv("MY_KEY", "another")
    with pytest.raises(InputError, match=r"^rollouts\.key_env: "):
        probe_endpoint(spec)
    with pytest.raises(InputError, match=r"^rollouts\.key_env: "):
        probe_endpoint(spec)  # a failure is not remembered
    assert len(server.asked) == 3


def test_pauses_grow(server: Server) -> None:
    server.script = [Say(500)] * 4
    complete(engine(server, retries=4))
    pauses = [later - earlier for earlier, later in zip(server.times, server.times[1:], strict=False)]
    # .01 * 2^i, times .5 to 1: the fourth is .04 to .08, the first .005 to .01
    assert pauses[3] > 0.04
    assert sum(pauses) > 0.005 + 0.01 + 0.02 + 0.04


@pytest.mark.parametrize("header", ["1", "date"])
def test_retry_after_is_honoured_by_all(server: Server, header: str) -> None:
    value = formatdate(time.time() + 2, usegmt=True) if header == "date" else header
    server.script = [Say(429, "", (("Retry-After", value),))]
    complete(engine(server, concurrency=1), 2)
    assert server.times[1] - server.times[0] >= 0.9
    assert len(server.asked) == 3


def test_an_endpoint_that_stays_broken_fails_the_stage_and_keeps_what_was_said(server: Server) -> None:
    found: dict[str, Completion] = {}

    def deliver(request: Request, completion: Completion) -> None:
        found[request.id] = completion
        server.script = [Say(200, "{")] * 3 if len(found) == 2 else []

    with engine(server, retries=2) as asked, pytest.raises(StageError) as error:
        asked.complete(requests(5), DRAWN, deliver)
    assert str(error.value) == (
        f"{server.url} gave no usable answer in 3 tries; last: an answer that is no JSON; what was sampled is kept: "
        "run the same command again to go on"
    )
    assert list(found) == ["r0", "r1"]


def test_a_server_that_dies_midway_fails_the_stage() -> None:
    with serving(echo) as server:
        asked = engine(server, key_env=None, retries=1)
    with asked, pytest.raises(StageError, match=r"gave no usable answer in 2 tries; last: the connection failed \("):
        asked.complete(requests(1), DRAWN, lambda *_: None)


def test_when_one_is_refused_those_under_way_are_still_delivered(server: Server) -> None:
    server.delay = 0.2
    server.script = [Say(403, "no")]
    found: list[str] = []
    asked = engine(server, concurrency=4)
    with asked, pytest.raises(InputError, match=r"HTTP 403"):
        asked.complete(requests(40), DRAWN, lambda request, _: found.append(request.id))
    assert len(found) == len(server.asked) - 1  # everything that was asked but for the refused one
    assert 3 <= len(found) < 12


def test_the_key_shows_nowhere(server: Server, caplog: pytest.LogCaptureFixture, capfd: Any) -> None:
    caplog.set_level(logging.DEBUG)
    server.key = "another"  # so its 401 quotes ours
    asked = engine(server)
    with pytest.raises(InputError) as error:
        complete(asked)
    assert "bad Bearer ***" in str(error.value)
    said = capfd.readouterr()
    texts = [str(error.value), repr(error.value), repr(asked), repr(vars(asked)), caplog.text, said.out, said.err]
    assert error.value.__cause__ is None
    assert caplog.text  # httpx logs: they were looked at
    assert not [text for text in texts if KEY in text]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            None,
            "rollouts.key_env: the environment variable that it names is not set; export the endpoint's key under",
        ),
        ("  ", "rollouts.key_env: the environment variable that it names is not set"),
        ("schlüssel", "rollouts.key_env: the value of MY_KEY has characters that no key has; export it again"),
        ("two words", "rollouts.key_env: the value of MY_KEY has characters that no key has"),
    ],
)
def test_a_key_that_cannot_be_sent_is_refused(monkeypatch: pytest.MonkeyPatch, value: str | None, message: str) -> None:
    monkeypatch.delenv("MY_KEY")
    if value is not None:
        monkeypatch.setenv("MY_KEY", value)
    with pytest.raises(InputError) as error:
        OpenAIEngine(Endpoint("http://127.0.0.1:9/v1", "m", "MY_KEY"))
    assert str(error.value).startswith(message)
    assert value is None or not value.strip() or value not in str(error.value)


def test_a_probe_asks_for_one_token_and_says_what_is_wrong(server: Server) -> None:
    with engine(server) as asked:
        asked.probe()
        server.script = [Say(404, '{"error": {"message": "no model teacher"}}')]
        with pytest.raises(InputError, match=r"^rollouts\.teacher: .*\(no model teacher\); check"):
            asked.probe()
    assert [body["max_tokens"] for body in server.asked] == [1, 1]


def test_nobody_at_home_is_bad_input_to_a_probe() -> None:
    with serving(echo) as gone:
        pass
    with engine(gone, key_env=None) as asked, pytest.raises(InputError) as error:
        asked.probe()
    assert str(error.value).startswith(f"rollouts.endpoint: {gone.url} gave no usable answer in 3 tries; last: the ")
    assert str(error.value).endswith("; is it running?")


def test_adapters_are_not_an_endpoints() -> None:
    asked = OpenAIEngine(Endpoint("http://127.0.0.1:9/v1", "m", None))
    with pytest.raises(InputError, match=r"^adapters: "):
        asked.complete([Request("a", "q", None, 0, "sft")], DRAWN, lambda *_: None)


@pytest.mark.parametrize(
    ("reason", "meaning"),
    [("stop", "stop"), ("eos", "stop"), ("length", "length"), ("max_tokens", "length"), ("content_filter", "length")],
)
def test_reasons_for_ending(reason: str, meaning: str) -> None:
    assert read_completion(chat("x", reason), logprobs=False).finish_reason == meaning


def test_logprobs_of_a_chat_and_those_that_do_not_fit() -> None:
    told = {"content": [{"token": "a", "logprob": -0.5}, {"token": "b", "logprob": -2.0}]}
    assert read_completion(chat("ab", logprobs=told), logprobs=True).logprobs == (-0.5, -2.0)
    assert read_completion(chat("ab", logprobs=told), logprobs=False).logprobs is None
    assert read_completion(chat("ab", logprobs=told, token_ids=[1, 2, 3]), logprobs=True).logprobs is None
    bad = {"content": [{"logprob": None}]}
    assert read_completion(chat("ab", logprobs=bad), logprobs=True).logprobs is None


def test_a_reasoner_that_was_cut_before_its_answer_said_nothing() -> None:
    answer = chat("", "length")
    answer["choices"][0]["message"]["content"] = None
    assert read_completion(answer, logprobs=False) == Completion("", None, None, "length")


def test_the_tokens_that_end_an_answer_are_sent_where_tokens_are() -> None:
    def answer(_: dict[str, Any]) -> dict[str, Any]:
        return {"choices": [{"text": "ab", "finish_reason": "stop"}]}

    with serving(answer) as server, engine(server, tokens=True, key_env=None) as asked:
        asked.complete([Request("a", "?", (7, 8), 3)], Sampling(4, 0.7, end_ids=(1, 5)), lambda *_: None)
    assert server.asked[0]["stop_token_ids"] == [1, 5]
