"""The files that rows come from: packed, JSON arrays, folders of shards, and what their digest covers."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tasks.core import rows as rows_module
from tasks.core.digests import file_digest
from tasks.core.errors import InputError
from tasks.core.rows import number_text, read_rows, rows_bytes, rows_digest
from tasks.problems.files import read_problems
from tasks.rollouts.files import read_rollouts

Put = Callable[..., Path]


def row(n: int, **more: Any) -> dict[str, Any]:
    return {"prompt": f"{n} + 0?", "completion": str(n), "answer": str(n), **more}


def lines(*ns: int) -> bytes:
    return "".join(json.dumps(row(n)) + "\n" for n in ns).encode()


def zstd(raw: bytes) -> bytes:
    import pyarrow as pa

    return bytes(pa.compress(raw, codec="zstd", asbytes=True))


@pytest.fixture
def put(tmp_path: Path) -> Put:
    """Writes a file of the folder "set" (bytes, or a frame of some rows as parquet); returns the folder."""

    def written(name: str, content: bytes | list[int]) -> Path:
        path = tmp_path / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, list):
            pl.DataFrame([row(n) for n in content]).write_parquet(path)
        else:
            path.write_bytes(content)
        return tmp_path / "set"

    return written


def numbers(path: Path) -> list[str]:
    return read_rollouts(path)["completion"].to_list()


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("a.jsonl.gz", gzip.compress), ("a.jsonl.zst", zstd), ("A.NDJSON.GZ", gzip.compress), ("a.json.zst", zstd),
        ("a.jsonl.gz", lambda raw: gzip.compress(raw[:40]) + gzip.compress(raw[40:])),  # two members
        ("a.jsonl.zst", lambda raw: zstd(raw[:40]) + zstd(raw[40:])),
        ("a.json", lambda raw: raw),  # JSON lines that are called .json
        ("a.json", lambda raw: b"[" + b",\n".join(raw.splitlines()) + b"]"),
        ("a.json.gz", lambda raw: gzip.compress(b"\xef\xbb\xbf [" + b",".join(raw.splitlines()) + b"]\n")),
    ],
)  # fmt: skip
def test_a_file_reads_the_same_however_it_is_packed(put: Put, name: str, pack: Callable[[bytes], bytes]) -> None:
    plain = put("plain.jsonl", lines(1, 2, 3)) / "plain.jsonl"
    packed = put(name, pack(lines(1, 2, 3))) / name
    assert read_rollouts(packed).equals(read_rollouts(plain))


def test_problems_are_read_from_the_same_files(put: Put) -> None:
    folder = put("p-2.jsonl.gz", gzip.compress(lines(2)))
    put("p-10.jsonl.gz", gzip.compress(lines(10)))
    assert read_problems(folder)["answer"].to_list() == ["2", "10"]


@pytest.mark.parametrize(
    ("name", "content", "refusal"),
    [
        ("a.jsonl.gz", lines(1), "a.jsonl.gz: expected gzip, got what cannot be unpacked ("),
        ("a.jsonl.gz", gzip.compress(lines(1, 2))[:-9], "a.jsonl.gz: expected gzip, got what cannot be unpacked ("),
        ("a.jsonl.zst", lines(1), "a.jsonl.zst: expected zstd, got what cannot be unpacked ("),
        ("a.jsonl.zst", zstd(lines(1, 2))[:-3], "a.jsonl.zst: expected zstd, got what cannot be unpacked ("),
        ("a.jsonl.zst", zstd(b"{"), "a.jsonl.zst, line 1: expected one JSON object a line, got invalid JSON"),
        ("a.json", b'[{"prompt": 1}', "a.json: expected a JSON array, got invalid JSON"),
        ("a.json", b"[1]", "a.json, row 1: expected a JSON object {...}, got 1"),
        ("a.json", b"[]", "a.json: expected at least one rollout, got an empty file"),
    ],
)
def test_a_damaged_file_is_refused_in_one_line(put: Put, name: str, content: bytes, refusal: str) -> None:
    with pytest.raises(InputError) as error:
        read_rollouts(put(name, content) / name)
    assert refusal in str(error.value)
    assert "\n" not in str(error.value)


def test_a_few_bytes_that_unpack_beyond_measure_are_refused(put: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "MOST_UNPACKED", 100_000)
    bomb = put("a.jsonl.gz", gzip.compress(b" " * 1000 + b"\n") + gzip.compress((b" " * 1000 + b"\n") * 2000))
    with pytest.raises(InputError, match=r"a\.jsonl\.gz: its values take more than"):
        list(read_rows(bomb / "a.jsonl.gz"))


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet"])
def test_shards_are_read_in_the_order_of_their_numbers(put: Put, ending: str) -> None:
    pack = {".jsonl": bytes, ".jsonl.gz": gzip.compress, ".jsonl.zst": zstd}
    for n in (10, 2, 1):
        folder = put(f"part-{n}{ending}", [n, n + 1] if ending == ".parquet" else pack[ending](lines(n, n + 1)))
    for aside in ("README.md", ".gitattributes", "_SUCCESS", "LICENSE", "dataset_infos.json"):
        put(aside, b"words")
    assert numbers(folder) == ["1", "2", "2", "3", "10", "11"]


@pytest.mark.parametrize(
    ("files", "refusal"),
    [
        (["a.jsonl", "b.parquet"], "expected shards of one kind, JSONL or parquet, got 'a.jsonl' and 'b.parquet'"),
        (["a.jsonl", "b.csv"], "expected shards of one kind, JSONL or parquet, got 'a.jsonl' and 'b.csv'"),
        (["train.jsonl", "test.jsonl"], "expected one split, got 'test.jsonl' and 'train.jsonl'"),
        (["train-00000-of-00001.parquet", "test-00000-of-00001.parquet"], "expected one split, got 'test-00000"),
        (["x-00000-of-00003.jsonl", "x-00002-of-00003.jsonl"], "2 of 3 shards are there, number 1 is missing"),
        (["x-00000-of-00001.jsonl", "y-00000-of-00001.jsonl"], "expected the shards of one set, got 'x-00000"),
        (["x-00000-of-00001.jsonl", "extra.jsonl"], "expected the shards of one set, got 'extra.jsonl' and"),
        (["README.md"], "or a folder of them, got a folder with none"),
        (["data/a.jsonl", "b.jsonl"], "has shards in its folder 'data'"),
    ],
)
def test_a_folder_that_is_not_one_set_of_shards_is_refused_by_name(put: Put, files: list[str], refusal: str) -> None:
    for name in files:
        folder = put(name, [1] if name.endswith(".parquet") else lines(1))
    with pytest.raises(InputError) as error:
        read_rollouts(folder)
    assert str(error.value).startswith(f"{folder}: ")
    assert refusal in str(error.value)


def test_shards_of_two_schemas_are_refused_with_the_column(put: Put) -> None:
    put("a.jsonl", lines(1))
    folder = put("b.jsonl", json.dumps(row(2, reward=1)).encode())
    with pytest.raises(InputError, match=r"b\.jsonl: has a column 'reward' that 'a\.jsonl' beside it has not"):
        read_rollouts(folder)


def test_an_error_in_a_shard_names_the_shard(put: Put) -> None:
    put("a.jsonl", lines(1))
    folder = put("b.jsonl", lines(2) + b"{}\n")
    with pytest.raises(InputError, match=r"set/b\.jsonl, line 2, field"):
        read_rollouts(folder)


def test_the_digest_is_of_all_shards_and_of_a_file_that_of_its_bytes(put: Put) -> None:
    put("a-1.jsonl", lines(1))
    folder = put("a-2.jsonl", lines(2))
    both = rows_digest(folder)
    assert rows_bytes(folder) == len(lines(1)) + len(lines(2))
    put("README.md", b"words")
    assert rows_digest(folder) == both
    put("a-2.jsonl", lines(3))
    assert rows_digest(folder) != both
    put("a-2.jsonl", lines(1))
    put("a-1.jsonl", lines(2))  # the same shards in another order
    assert rows_digest(folder) != both
    assert rows_digest(folder / "a-1.jsonl") == file_digest(folder / "a-1.jsonl")
    with pytest.raises(InputError, match="no such file"):
        rows_digest(folder / "none.jsonl")


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (1e-05, "0.00001"), (1e22, "1" + 22 * "0"), (-2.5e-7, "-0.00000025"), (1.5e300, "15" + 299 * "0"), (0.1, "0.1"),
        (120.0, "120.0"), (5e-324, "0." + 323 * "0" + "5"), (10**30, "1" + 30 * "0"), (-3, "-3"),
    ],
)  # fmt: skip
def test_a_number_is_written_without_an_exponent_and_reads_back_as_itself(number: float, text: str) -> None:
    assert number_text(number) == text
    assert type(number)(text) == number


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_is_no_number(number: float) -> None:
    with pytest.raises(ValueError, match="not a finite number"):
        number_text(number)
