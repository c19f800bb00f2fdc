"""What was said is kept: line by line, through a torn line, and never asked for again."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import pytest

from tasks.core.errors import StageError
from tasks.engines.interface import Completion, Deliver, Request, Sampling, seed_of
from tasks.engines.journal import Journal, append_lines, complete, read_lines

ONE = Completion("a\nb \u2028 é", (1, 2, 3), (-0.1, -1e-17, -0.30000000000000004), "stop")
TWO = Completion("", None, None, "length", reasoning="first\nthis")
REQUESTS = [Request(str(i), f"q{i}", (i,), i) for i in range(4)]


class Parrot:
    """An engine that answers with the question, and can die before the n-th answer."""

    def __init__(self, dies_before: int = 99) -> None:
        self.asked: list[str] = []
        self.dies_before = dies_before
        self.entered = 0

    def __enter__(self) -> Parrot:
        self.entered += 1
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def complete(self, requests: Sequence[Request], sampling: Sampling, deliver: Deliver) -> None:
        for i, request in enumerate(requests):
            if i == self.dies_before:
                raise StageError("died")
            self.asked.append(request.id)
            deliver(request, Completion(request.text, request.prompt_ids, None, "stop"))


def test_completions_come_back_as_they_were(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    assert "0" not in journal
    assert journal.read([]) == []
    journal.keep(REQUESTS[0], ONE)
    journal.keep(REQUESTS[1], TWO)
    assert journal.read(["1", "0"]) == [TWO, ONE]
    assert Journal(tmp_path / "j").read(["0", "1"]) == [ONE, TWO]
    with pytest.raises(KeyError):
        journal.read(["2"])


def test_a_refusal_is_known_to_this_process_and_asked_again_by_the_next(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    refused = Completion("no", None, None, "refused")
    journal.keep(REQUESTS[0], refused)
    assert journal.read(["0"]) == [refused]
    journal.keep(REQUESTS[1], TWO)
    assert journal.read(["1", "0"]) == [TWO, refused]
    assert "0" not in Journal(tmp_path / "j")


def test_a_journal_holds_places_not_completions(tmp_path: Path) -> None:
    """Log-probabilities of 200 answers of 5,000 tokens are 32 MB as Python's numbers."""
    logprobs = tuple(-0.001 * i for i in range(5000))
    journal = Journal(tmp_path / "j")
    for i in range(200):
        journal.keep(Request(str(i), "", None, i), Completion("", None, logprobs, "stop"))
    tracemalloc.start()
    again = Journal(tmp_path / "j")
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert held < 200_000
    assert again.read(["199"])[0].logprobs == logprobs


def test_a_torn_line_costs_only_itself(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    journal.keep(REQUESTS[0], TWO)
    journal.keep(REQUESTS[1], ONE)
    whole = (tmp_path / "j").read_bytes()
    line = whole.index(b'\n{"id": "1"')
    for end in range(line + 1, len(whole)):  # killed after any byte of the second line
        (tmp_path / "j").write_bytes(whole[:end])
        again = Journal(tmp_path / "j")
        assert "1" not in again
        assert again.read(["0"]) == [TWO]
    again.keep(REQUESTS[2], TWO)  # what is written behind the torn line is whole
    assert again.read(["2"]) == [TWO]
    assert "1" not in Journal(tmp_path / "j")
    assert Journal(tmp_path / "j").read(["0", "2"]) == [TWO, TWO]


def test_rows_that_are_no_objects_are_no_rows(tmp_path: Path) -> None:
    append_lines(tmp_path / "f", [{"a": 1}])
    (tmp_path / "f").open("a").write("\n17\n")
    assert list(read_lines(tmp_path / "f")) == [{"a": 1}]
    assert list(read_lines(tmp_path / "none")) == []


def test_only_what_is_missing_is_asked_and_a_whole_journal_enters_no_engine(tmp_path: Path) -> None:
    told: list[str] = []
    first = Parrot(dies_before=2)
    with pytest.raises(StageError, match="died"):
        complete(first, REQUESTS, Sampling(1), Journal(tmp_path / "j"), lambda request, _: told.append(request.id))
    assert told == ["0", "1"]
    second, journal = Parrot(), Journal(tmp_path / "j")
    complete(second, REQUESTS, Sampling(1), journal, lambda request, _: told.append(request.id))
    assert second.asked == ["2", "3"]
    assert [one.text for one in journal.read([request.id for request in REQUESTS])] == ["q0", "q1", "q2", "q3"]
    third = Parrot()
    complete(third, REQUESTS, Sampling(1), Journal(tmp_path / "j"), lambda *_: None)
    assert (second.entered, third.entered) == (1, 0)


def test_seeds_are_spaced_and_depend_on_their_names_alone() -> None:
    names = [(problem, i) for problem in ("p", "p1", "1", "q") for i in range(250)]
    seeds = {seed_of(seed, *name) for seed in (0, 1) for name in names}
    assert len(seeds) == 2000
    assert min(seeds) >= 0
    assert max(seeds) < 2**63
    assert min(b - a for a, b in zip(sorted(seeds), sorted(seeds)[1:], strict=False)) > 2**30
    assert seed_of(0, "p", 11) != seed_of(0, "p1", 1)  # names are told apart by their borders
    # sha256 of '[0, "p", 1]', first eight bytes, big-endian, without the sign bit
    assert seed_of(0, "p", 1) == 0x44E4334A410F47B6
