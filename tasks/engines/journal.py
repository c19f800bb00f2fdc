"""What was already answered, kept line by line, so that a stage that was killed asks for nothing twice."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
    """The completions of one stage by their requests' ids; the file is the stage's own, named by its key."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.found: dict[str, Completion] = {}
        for row in read_lines(file):
            ids, logprobs = _whole(row["ids"]), _whole(row["logprobs"])
            self.found[row["id"]] = Completion(row["text"], ids, logprobs, row["finish_reason"])

    def keep(self, request: Request, completion: Completion) -> None:
        """Note one completion; what was kept survives this process."""
        append_lines(self._file, [{"id": request.id, **asdict(completion)}])
        self.found[request.id] = completion


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

    missing = [request for request in requests if request.id not in journal.found]
    if missing:
        with engine as opened:
            opened.complete(missing, sampling, keep)
