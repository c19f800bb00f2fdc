"""What was already answered, kept line by line, so that a stage that was killed asks for nothing twice.

Every line is a JSON object that ends in its digest, taken together with the name of its file (which holds the digest of
the stage's key): a line that was changed, or moved to another stage's file, is not read. Lines without a digest are of
earlier versions and taken as they are.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tasks.core.errors import StageError
from tasks.core.events import damaged
from tasks.engines.interface import Completion, Deliver, Engine, Request, Sampling

_SEALED = re.compile(rb'(.*), "sha256": "([0-9a-f]{16})"\}', re.DOTALL)


def append_lines(file: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Append ``rows`` as JSON lines; they are with the kernel when this returns.

    Each begins with a line break of its own: a line that a killed process left half written ends here.
    """
    with file.open("a", encoding="utf-8") as stream:
        stream.writelines(f"\n{_sealed(row, file)}" for row in rows)


def read_lines(file: Path, *, tell: bool = True) -> Iterator[dict[str, Any]]:
    """The rows of a file of `append_lines`; none where there is no file, and none for a line left half written.

    A line that was damaged is none either; with ``tell`` their number is told (`tasks.core.events.damaged`).
    """
    if not file.exists():
        return
    bad = 0
    for line in file.read_bytes().split(b"\n"):
        row = _row(line, file)
        bad += row is None and _damaged(line)
        if row is not None:
            yield row
    if tell:
        _tell(file, bad)


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
        bad, place = 0, 0
        with file.open("rb") as stream:
            for line in stream:
                row = _row(line, file)
                if row is not None and row.keys() >= _COLUMNS:
                    self._places[row["id"]] = place
                bad += row is None and _damaged(line)
                place += len(line)
        _tell(file, bad)

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
                row = _row(stream.readline(), self._file)
                if row is None:
                    raise StageError(f"{self._file}: the line at byte {place} was changed while the stage ran")
                ids, logprobs = _whole(row["ids"]), _whole(row["logprobs"])
                found.append(Completion(row["text"], ids, logprobs, row["finish_reason"], row.get("reasoning")))
        return found

    def keep(self, request: Request, completion: Completion) -> None:
        """Note one completion; what was kept survives this process, but for a refusal: the next asks again."""
        if completion.finish_reason == "refused":
            self._refused[request.id] = completion
            return
        line = _sealed({"id": request.id, **asdict(completion)}, self._file)
        with self._file.open("ab") as stream:
            stream.write(b"\n")  # ends a line that a killed process left half written
            place = stream.tell()
            stream.write(line.encode())
        self._places[request.id] = place


_COLUMNS = {"id", "text", "ids", "logprobs", "finish_reason"}


def _sealed(row: Mapping[str, Any], file: Path) -> str:
    body = json.dumps(row)[:-1]
    return f'{body}, "sha256": "{_digest(body.encode(), file)}"}}'


def _digest(body: bytes, file: Path) -> str:
    return hashlib.sha256(f"{file.parent.name}/{file.name} ".encode() + body).hexdigest()[:16]


def _row(line: bytes, file: Path) -> dict[str, Any] | None:
    """The row in a line; None where it was left half written or has another digest."""
    line = line.strip()
    if sealed := _SEALED.fullmatch(line):
        body, digest = sealed.groups()
        if _digest(body, file) != digest.decode():
            return None
        line = body + b"}"
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def _damaged(line: bytes) -> bool:
    """Of a line that is no row: whether it is more than what a killed process left half written."""
    return line.rstrip().endswith(b"}")


def _tell(file: Path, bad: int) -> None:
    if bad:
        damaged(f"{bad} line{'s' if bad > 1 else ''} of {file}; what they held is asked for again")


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
