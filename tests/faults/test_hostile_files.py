"""Files of strangers: rollouts, problems, settings. Each is refused in one line, at once, in bounded memory."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.core.errors import LONGEST_MESSAGE, InputError
from tasks.problems.files import read_problems, worked
from tasks.rollouts.files import read_rollouts
from tasks.settings.study import build, load_toml
from tests.faults.confined import read
from tests.lab.refusals import refusal as refused

ROW = {"prompt": "2 + 2?", "completion": "4", "reward": 1}
BEFORE = json.dumps(ROW).encode() + b"\n"


def refusal(read: Callable[[Path], Any], path: Path) -> str:
    said = refused(read, path)
    assert len(said) <= LONGEST_MESSAGE
    return said


# --- a line, in every way that it can be wrong ------------------------------------------------------------------------

LINES = [
    pytest.param(b"[" * 1_000_000, "numbers and nesting of ordinary size", id="a million brackets"),
    pytest.param(b'{"a":' * 1_000_000, "numbers and nesting of ordinary size", id="a million objects"),
    pytest.param(b'{"seed": ' + b"9" * 1_000_000 + b"}", "numbers and nesting of ordinary size", id="a million digits"),
    pytest.param(b'{"prompt": "q", "prompt": "r"}', "each key once, but key 'prompt' is there twice", id="a key twice"),
    pytest.param(json.dumps(ROW).encode("utf-16"), "expected UTF-8, got byte 0xff at 0", id="UTF-16"),
    pytest.param(b"\x1f\x8b\x08\x00", "expected UTF-8, got byte 0x8b at 1", id="gzip"),
    pytest.param(b'{"prompt": "q\x00"}', "invalid JSON at column 14", id="NUL"),
    pytest.param(b'{"prompt": "q", "completion": "x", "reward": 1e999}', "got inf", id="1e999"),
    pytest.param(b'{"question": "q", "ground_truth": "4", "\\u001b]0;x\\u0007\\n": {"solution": 1}}',
                 r"field `\x1b]0;x\x07 .solution`", id="a key with an escape sequence"),
    pytest.param(b'{"question": "q", "ground_truth": "4", "' + b"k" * 10_000 + b'": {"solution": 1}}',
                 " ... ", id="a key of ten thousand characters"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "message"), LINES)
def test_a_hostile_line_is_refused_with_its_number(tmp_path: Path, line: bytes, message: str) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_bytes(BEFORE + line + b"\n" if "UTF-16" not in message and line[:2] != b"\xff\xfe" else BEFORE + line)
    said = refusal(read_rollouts, path)
    assert said.startswith(f"{path}, line 2")
    assert message in said


def test_a_line_of_a_gigabyte_is_refused_without_being_held(tmp_path: Path) -> None:
    path = tmp_path / "long.jsonl"
    with path.open("wb") as file:
        file.write(BEFORE + b'{"prompt": "')
        file.truncate(2**30)  # a hole: it takes no disk
    ran = read("rollouts.files.read_rollouts", path, memory=2**30)
    assert ran.code == 2, ran.stderr
    assert f"{path}, line 2: expected one JSON object a line, got more than 64 MiB without a line break" in ran.stdout
    assert ran.stderr == ""
    assert ran.memory < 400 * 2**20


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    for name, reader in (("x.jsonl", read_rollouts), ("y.parquet", read_problems), ("z.toml", load_toml)):
        os.mkfifo(tmp_path / name)
        said = refusal(reader, tmp_path / name)
        assert "no such file" in said or "no regular file" in said


def test_a_name_that_a_terminal_would_obey_is_spelled_out(tmp_path: Path) -> None:
    path = tmp_path / "a\x1b[2J\x1b]0;owned\x07\ncolinear: all is well.jsonl"
    path.write_bytes(b"[]\n")
    assert r"a\x1b[2J\x1b]0;owned\x07 colinear: all is well.jsonl, line 1: expected" in refusal(read_rollouts, path)
    assert "no such file" in refusal(read_rollouts, tmp_path / f"{'x' * 5000}.jsonl")


# --- parquet ----------------------------------------------------------------------------------------------------------


def write_parquet(path: Path, **columns: Any) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table(columns), path, compression="zstd", use_dictionary=True)


def test_a_parquet_file_that_unpacks_beyond_measure_is_refused(tmp_path: Path) -> None:
    """20,000 rows that share one text of a megabyte: 20 GB out of a few kilobytes."""
    import pyarrow as pa

    path = tmp_path / "bomb.parquet"
    text = pa.DictionaryArray.from_arrays(pa.array([0] * 20_000, pa.int32()), pa.array(["x" * 2**20]))
    write_parquet(path, prompt=text, completion=text, reward=pa.array([1] * 20_000))
    assert path.stat().st_size < 2**20
    ran = read("rollouts.files.read_rollouts", path, memory=6 * 2**30)
    assert ran.code == 2, ran.stderr
    assert "bomb.parquet: its values take more than 1 GiB, over 100 times the file" in ran.stdout
    assert ran.stderr == ""
    assert ran.seconds < 30


def test_a_parquet_file_of_200_million_rows_is_refused_by_its_footer(tmp_path: Path) -> None:
    import pyarrow as pa

    path = tmp_path / "many.parquet"
    write_parquet(path, prompt=pa.nulls(200_000_000))
    assert path.stat().st_size < 2**20
    ran = read("problems.files.read_problems", path, memory=2 * 2**30)
    assert ran.code == 2, ran.stderr
    assert "its values take more than 1 GiB" in ran.stdout


def test_columns_of_other_types_are_refused_by_row_and_field(tmp_path: Path) -> None:
    import pyarrow as pa

    cases: dict[str, tuple[dict[str, Any], str]] = {
        "map": ({"prompt": pa.array([[("a", "b")]], pa.map_(pa.string(), pa.string())), "completion": ["x"]}, "prompt"),
        "binary": ({"prompt": pa.array([b"\xff"]), "completion": ["x"]}, "prompt"),
        "when": ({"prompt": pa.array([0], pa.timestamp("ns")), "completion": ["x"]}, "prompt"),
        "struct": ({"prompt": ["q"], "completion": pa.array([{"text": "x"}])}, "completion"),
        "list": ({"prompt": ["q"], "completion": ["x"], "reward": pa.array([[1]])}, "reward"),
    }
    for name, (columns, field) in cases.items():
        path = tmp_path / f"{name}.parquet"
        write_parquet(path, **columns)
        said = refusal(read_rollouts, path)
        assert said.startswith(f"{path}, row 1, field `{field}`: expected"), said


def test_a_damaged_parquet_file_says_nothing_on_the_terminal(tmp_path: Path) -> None:
    """polars' reader panics on some of these, and a panic prints itself."""
    whole = tmp_path / "whole.parquet"
    write_parquet(whole, prompt=["q" * 50] * 300, completion=["x", "", "z"] * 100, reward=[1, 0, 1] * 100)
    content, path = whole.read_bytes(), tmp_path / "bad.parquet"
    code = """
import sys
from pathlib import Path
from tasks.core.errors import InputError
from tasks.rollouts.files import read_rollouts
path, content, refused = Path(sys.argv[1]), Path(sys.argv[2]).read_bytes(), 0
for place in range(0, len(content), 7):
    path.write_bytes(content[:place] + bytes([content[place] ^ 0xA5]) + content[place + 1:])
    try:
        read_rollouts(path)
    except InputError:
        refused += 1
print(refused)
"""
    from tests.faults.confined import confined

    ran = confined(["-c", code, str(path), str(whole)])
    assert (ran.code, ran.stderr) == (0, "")
    assert int(ran.stdout) > len(content) // 14


# --- golds and templates: what takes a time that grows too fast -------------------------------------------------------


def test_a_gold_of_many_spaces_is_read_at_once(tmp_path: Path) -> None:
    """A pattern that looks for the last line in the whole text takes the square of it: minutes for 200,000 spaces."""
    gold = "#### a" + " " * 1_000_000 + "b\nc"
    path = tmp_path / "gold.jsonl"
    path.write_text(json.dumps({"question": "q", "answer": gold}))
    ran = read("problems.files.read_problems", path, seconds=20)
    assert ran.code == 0, ran.stdout
    assert worked(gold) == (gold, None)
    assert worked("so\n#### 1,234 \n\n") == ("1234", "so\n#### 1,234 \n\n")


# --- settings ---------------------------------------------------------------------------------------------------------

TOML = [
    pytest.param("a = " + "[" * 100_000, "nested too deep", id="brackets"),
    pytest.param("a = " + "{a = " * 100_000, "nested too deep", id="tables"),
    pytest.param("a = " + "[" * 40 + "]" * 40, "nested deeper than 16", id="40 brackets"),
    pytest.param(".".join(["a"] * 200_000) + " = 1", "a key of more than 32 parts", id="200,000 parts"),
    pytest.param("seed = " + "9" * 1_000_000, "not a TOML file that can be read", id="a million digits"),
    pytest.param("seed = 1\nseed = 2", "Cannot overwrite a value", id="a key twice"),
    pytest.param('name = "\\u0000"', "", id="NUL"),
    pytest.param("\x00", "not a TOML file that can be read", id="no TOML"),
    pytest.param("[train]\nlr = nan", "", id="NaN"),
    pytest.param("[train]\nsteps = 99999999999999999999", "a number of 20 digits; the largest is", id="a huge number"),
    pytest.param('name = "../../evil\\u001b[31m"', "expected characters that print", id="a name with an escape"),
    pytest.param("[train]\n" + "k" * 100_000 + " = 1", "unknown setting", id="a key of 100,000 characters"),
]


@pytest.mark.parametrize(("text", "message"), TOML)
def test_hostile_settings_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.toml").write_text(text)
    assert message in refusal(lambda path: build(load_toml(path)), tmp_path / "x.toml")


def test_settings_of_a_gigabyte_are_not_read(tmp_path: Path) -> None:
    with (tmp_path / "x.toml").open("wb") as file:
        file.truncate(2**30)
    ran = read("settings.study.load_toml", tmp_path / "x.toml", memory=2**30)
    assert ran.code == 2, ran.stderr
    assert "it is larger than 64 MiB" in ran.stdout


def test_a_key_in_the_extra_fields_is_not_recorded() -> None:
    sampled = {"rollouts": {"problems": "x.jsonl", "teacher": "t", "engine": "openai", "endpoint": "http://h/v1"},
               "model": {"base": "owner/name"}}  # fmt: skip
    for name in ("api_key", "Authorization", "x-api-key", "password", "auth_token"):
        given = {**sampled, "rollouts": {**sampled["rollouts"], "extra": {"deep": [{name: "sk-0123456789"}]}}}
        with pytest.raises(InputError, match="looks like a key or password, and settings are recorded") as error:
            build(given)
        assert "sk-0123456789" not in str(error.value)
    fine = {"max_completion_tokens": 5, "stop_token_ids": [1], "thinking": {"type": "disabled"}, "min_tokens": 1}
    assert build({**sampled, "rollouts": {**sampled["rollouts"], "extra": fine}}).rollouts.extra == fine
