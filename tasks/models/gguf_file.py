"""A GGUF file (llama.cpp's format, mostly quantised weights): where it is, what its header says, what is refused.

The header is read here, in a tenth of a second and without torch; the tensors are read by transformers
(`tasks.models.dequantise`).
"""

from __future__ import annotations

import mmap
import struct
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any

from tasks.core.errors import InputError
from tasks.core.small_files import expanded

SUFFIX = ".gguf"
MAGIC = b"GGUF"
VERSIONS = (2, 3)
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _ARRAY = 8, 9
_ALIGNMENT = 32
"""Of the tensors, where ``general.alignment`` says nothing else."""

INSTEAD = "give the directory or Hub id of the original weights"


@dataclass(frozen=True, eq=False)
class Gguf:
    """A whole GGUF file, by its header."""

    file: Path
    metadata: dict[str, Any]
    """Numbers and texts; of a list its length."""
    tensors: dict[str, tuple[tuple[int, ...], str]]
    """Name -> (shape, outermost first, and ggml type, such as ``Q5_0``)."""

    @property
    def architecture(self) -> str:
        """As llama.cpp calls it, such as ``qwen2``."""
        return str(self.metadata["general.architecture"])

    @property
    def quantisation(self) -> str:
        """What the file calls itself, such as ``Q4_K_M``; else the type of most of its tensors' entries."""
        from gguf import LlamaFileType

        try:
            return (
                LlamaFileType(self.metadata.get("general.file_type", -1))
                .name.removeprefix("MOSTLY_")
                .removeprefix("ALL_")
            )
        except ValueError:
            return max(sizes := self.entries, key=lambda kind: sizes[kind])

    @property
    def entries(self) -> Counter[str]:
        """How many entries are stored in each ggml type."""
        found: Counter[str] = Counter()
        for shape, kind in self.tensors.values():
            found[kind] += prod(shape)
        return found

    @property
    def shares(self) -> str:
        """``Q5_0 77 %, Q8_0 22 %, ...``: the types that hold 1 % of the entries or more."""
        sizes = self.entries
        return ", ".join(
            f"{kind} {n / sizes.total():.0%}" for kind, n in sizes.most_common() if n >= sizes.total() / 100
        )

    @property
    def note(self) -> str:
        """What a reader of a report must know of a base that was read from it."""
        return quantised_note(self.file.name, self.quantisation, self.shares)

    def number(self, key: str) -> int | None:
        """A whole number that the architecture's own metadata holds, such as ``block_count``."""
        value = self.metadata.get(f"{self.architecture}.{key}")
        return value if type(value) is int else None


def quantised_note(name: str, quantisation: str, shares: str) -> str:
    """What a reader must know of a base that was dequantised; ``shares``: `Gguf.shares`."""
    return (
        f"The base was quantised: {name} is {quantisation} ({shares}), dequantised to bfloat16. Its weights are near "
        "those that were quantised, not the same, and so are its answers."
    )


def find_gguf(base: str, name: str | None = None, setting: str = "model.base") -> Path | None:
    """The GGUF file that ``base`` is, or with ``name`` the one in that directory or Hub repository; None: no GGUF.

    Raises `InputError`: no such file, a directory that holds nothing but GGUF files and no ``name``.
    """
    path = expanded(base)
    if base.lower().endswith(SUFFIX) and not path.is_dir():
        if name is not None:
            raise InputError(f"model.gguf_file: {setting} is a GGUF file already; leave one of them out")
        if not path.is_file():
            raise InputError(f"{setting}: no file {base!r}")
        return path.absolute()
    if path.is_dir():
        return _in_folder(path, name, setting)
    return None if name is None else _from_hub(base, name, setting)


def _in_folder(folder: Path, name: str | None, setting: str) -> Path | None:
    files = sorted(file.name for file in folder.glob(f"*{SUFFIX}"))
    if name is None:
        if files and not (folder / "config.json").is_file():
            listed = ", ".join(files[:5]) + (", ..." if len(files) > 5 else "")
            raise InputError(f"{setting}: {folder} holds GGUF files ({listed}); give one of them, FOLDER/{files[0]}")
        return None
    if not (folder / name).is_file():
        known = f"; it has {', '.join(files[:5])}" if files else ""
        raise InputError(f"model.gguf_file: no file {name!r} in {folder}{known}")
    return (folder / name).absolute()


def _from_hub(base: str, name: str, setting: str) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(base, name))
    except Exception as error:  # whatever the Hub says
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{setting}: {base!r} is no folder here, and {name!r} is not to be had from the Hub: {reason}"
        ) from error


def read_gguf(file: Path, setting: str = "model.base") -> Gguf:
    """The header of ``file``. Raises `InputError`, naming ``setting``, for what cannot be dequantised.

    That is: the package gguf is not installed, no GGUF, a version or tensor type that is not known, a file that is cut
    short, a part of a split one.
    """
    status = file.stat()
    return _read(file, status.st_size, status.st_mtime_ns, setting)


@lru_cache(maxsize=8)
def _read(file: Path, size: int, _: int, setting: str) -> Gguf:
    try:
        from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
    except ImportError:
        raise InputError(
            f"{setting}: to read a GGUF file takes the package gguf: pip install -c constraints.txt '.[gguf]'"
        ) from None
    with file.open("rb") as opened:
        if opened.read(len(MAGIC)) != MAGIC:
            raise InputError(f"{setting}: {file} is no GGUF file (it does not begin with GGUF); {INSTEAD}")
        with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
            try:
                metadata, table, start = _Reader(content).header()
            except (struct.error, _Short) as error:
                raise _cut(file, setting) from error
            except ValueError as error:
                raise InputError(f"{setting}: {file}: {error}; {INSTEAD}") from error
    tensors = {}
    for name, shape, number, offset in table:
        try:
            kind = GGMLQuantizationType(number)
        except ValueError:
            raise InputError(
                f"{setting}: {file}: tensor {name} is of a type ({number}) that gguf does not know; {INSTEAD}"
            ) from None
        block, width = GGML_QUANT_SIZES[kind]
        if start + offset + prod(shape) // block * width > size:
            raise _cut(file, setting)
        tensors[name] = (shape, kind.name)
    found = Gguf(file, metadata, tensors)
    _check(found, setting)
    return found


def _cut(file: Path, setting: str) -> InputError:
    return InputError(f"{setting}: {file} is cut short or damaged: less is there than its header says; copy it again")


def _check(found: Gguf, setting: str) -> None:
    if not isinstance(found.metadata.get("general.architecture"), str):
        raise InputError(f"{setting}: {found.file} does not say which architecture it is of; {INSTEAD}")
    if found.metadata.get("split.count", 1) not in (0, 1):
        raise InputError(
            f"{setting}: {found.file} is one of {found.metadata['split.count']} parts; join them with llama.cpp's "
            "llama-gguf-split --merge"
        )
    if not found.tensors:
        raise InputError(f"{setting}: {found.file} holds no tensors (a vocabulary alone?); {INSTEAD}")
    import numpy as np
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, dequantize

    for name in {kind for _, kind in found.tensors.values()}:
        kind = GGMLQuantizationType[name]
        try:
            dequantize(np.zeros((1, GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
        except NotImplementedError:
            raise InputError(f"{setting}: {found.file}: gguf cannot dequantise {name}; {INSTEAD}") from None


class _Short(Exception):
    """The file ends before what its header promises."""


class _Reader:
    """Walks a GGUF header. Everything in it is little-endian."""

    def __init__(self, content: mmap.mmap) -> None:
        self.content, self.place = content, len(MAGIC)

    def header(self) -> tuple[dict[str, Any], list[tuple[str, tuple[int, ...], int, int]], int]:
        """(metadata, [(tensor, shape, ggml type, offset)], where the tensors begin)."""
        version = self.number("I")
        if version not in VERSIONS:
            raise ValueError(f"version {version} of the format; {' and '.join(map(str, VERSIONS))} are read")
        tensors, keys = self.number("Q"), self.number("Q")
        metadata = {}
        for _ in range(keys):
            key = self.text()
            metadata[key] = self.value(self.number("I"))
        table = []
        for _ in range(tensors):
            name, dimensions = self.text(), self.number("I")
            shape = tuple(reversed([self.number("Q") for _ in range(min(dimensions, 8))]))
            table.append((name, shape, self.number("I"), self.number("Q")))
        alignment = metadata.get("general.alignment", _ALIGNMENT)
        if not isinstance(alignment, int) or alignment < 1:
            raise ValueError("general.alignment is no number of at least 1")
        return metadata, table, -(-self.place // alignment) * alignment

    def number(self, kind: str) -> Any:
        (value,) = struct.unpack_from(f"<{kind}", self.content, self.place)
        self.skip(struct.calcsize(f"<{kind}"))
        return value

    def text(self) -> str:
        length = self.number("Q")
        start = self.place
        self.skip(length)
        return self.content[start : self.place].decode("utf-8", errors="replace")

    def skip(self, length: int) -> None:
        self.place += length
        if self.place > len(self.content):
            raise _Short

    def value(self, kind: int) -> Any:
        if kind == _TEXT:
            return self.text()
        if kind in _SCALARS:
            return self.number(_SCALARS[kind])
        if kind != _ARRAY:
            raise ValueError(f"metadata of type {kind}, which is not known")
        inner, length = self.number("I"), self.number("Q")
        if inner in _SCALARS:
            self.skip(length * struct.calcsize(f"<{_SCALARS[inner]}"))
        elif inner == _TEXT:
            for _ in range(length):
                self.skip(self.number("Q"))
        else:
            raise ValueError(f"a list of type {inner}, which is not known")
        return length
