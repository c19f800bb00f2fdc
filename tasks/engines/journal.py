"""What was already answered, kept line by line, so that a stage that was killed asks for nothing twice."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tasks.engines.interface import Completion, Deliver, Engine, Request, Sampling


def append_lines(file: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Append ``rows`` as JSON lines; they are with the kernel when this returns.

    Each begins with a line break of its own: a line that a killed process left half written ends here.
    """
    with file.open("a", encoding="utf-8") as stream:
        stream.writelines(f"\n{json.dumps(row)}" for row in rows)


def read_lines(file: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file of `append_lines`; none where there is no file, and none for a line left half written."""
    if not file.exists():
        return
    for line in file.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            yield row


class Journal:
    """The completions of a stage by their requests' ids.

    They stay in the file, and only their places in memory: the log-probabilities of a large study are gigabytes. One
    process at a time may write to it.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._places: dict[str, int] = {}
        self._refused: dict[str, Completion] = {}
        if not file.exists():
            return
        with file.open("rb") as stream:
            place = 0
            for line in stream:
                row = _row(line)
                if row is not None:
                    self._places[row["id"]] = place
                place += len(line)

    def __contains__(self, name: str) -> bool:
        return name in self._places or name in self._refused

    def read(self, names: Sequence[str]) -> list[Completion]:
        """The completions of these requests, all of which must be there (`KeyError`)."""
        if not names:
            return []
        found = []
        with ExitStack() as stack:
            stream = stack.enter_context(self._file.open("rb")) if self._places else None
            for name in names:
                if name in self._refused:
                    found.append(self._refused[name])
                    continue
                place = self._places[name]
                assert stream is not None
                stream.seek(place)
                row = _row(stream.readline())
                assert row is not None
                ids, logprobs = _whole(row["ids"]), _whole(row["logprobs"])
                found.append(Completion(row["text"], ids, logprobs, row["finish_reason"], row.get("reasoning")))
        return found

    def keep(self, request: Request, completion: Completion) -> None:
        """Note one completion; what was kept survives this process, but for a refusal: the next asks again."""
        if completion.finish_reason == "refused":
            self._refused[request.id] = completion
            return
        line = json.dumps({"id": request.id, **asdict(completion)})
        with self._file.open("ab") as stream:
            stream.write(b"\n")  # ends a line that a killed process left half written
            place = stream.tell()
            stream.write(line.encode())
        self._places[request.id] = place


def _row(line: bytes) -> dict[str, Any] | None:
    """The row in a line; None where it was left half written."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and "id" in row else None


def _whole(values: list[Any] | None) -> tuple[Any, ...] | None:
    return None if values is None else tuple(values)


def complete(
    engine: Engine, requests: Sequence[Request], sampling: Sampling, journal: Journal, deliver: Deliver
) -> None:
    """Ask ``engine`` for what the journal lacks; ``deliver`` is called for every new completion once it is kept.

    The engine is entered here, and only where something is missing: a model is not loaded for nothing.
    """

    def keep(request: Request, completion: Completion) -> None:
        journal.keep(request, completion)
        deliver(request, completion)

    missing = [request for request in requests if request.id not in journal]
    if missing:
        with engine as opened:
            opened.complete(missing, sampling, keep)
