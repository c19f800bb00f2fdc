"""What ties a study's folder together: ``study.json`` holds the digest of every other file, and of itself.

So a folder that was copied by half, edited, or damaged is refused before anybody joins its numbers with others.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from tasks.core.digests import file_digest
from tasks.core.errors import InputError
from tasks.reporting.files import json_text

FILES, OWN = "files", "sha256"
"""Keys of ``study.json``: {name: sha256} of the other files; sha256 of the record's canonical JSON without this key."""


def sealed_json(record: Mapping[str, Any], others: Mapping[str, bytes]) -> str:
    """``record`` as indented JSON with both keys; ``others``: the folder's other files."""
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in sorted(others.items())}
    plain = json.loads(json_text({key: value for key, value in record.items() if key != OWN} | {FILES: digests}))
    return json_text({**plain, OWN: _digest(plain)})


def check_sealed(folder: Path, record: Mapping[str, Any]) -> None:
    """Raise `InputError`, naming the file, where ``record`` or a frame or record beside it is not what was written.

    A record without the keys is of an earlier version, and says nothing.
    """
    files = record.get(FILES)
    if OWN not in record and files is None:
        return
    if not isinstance(files, dict) or record.get(OWN) != _digest(record):
        _refuse(folder, "study.json is damaged: it does not have the digest that it was written with")
    for name, digest in files.items():
        if not name.endswith((".parquet", ".json")):  # for people; what is read back are these
            continue
        if not (folder / name).is_file():
            _refuse(folder, f"{name} is missing")
        if file_digest(folder / name) != digest:
            _refuse(folder, f"{name} is damaged: it does not have the digest that study.json has for it")


def _digest(record: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in record.items() if key != OWN}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _refuse(folder: Path, what: str) -> NoReturn:
    raise InputError(f"{folder}: {what}; run the study again, which makes its report anew")
