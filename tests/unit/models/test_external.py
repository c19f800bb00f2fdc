"""A base that somebody else trained: where it is, what names its content, and what is refused about it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tasks.core.errors import InputError
from tasks.models import external
from tasks.models.external import check_base, locate, reference
from tests.lab.refusals import refusal as refused

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")


def check(folder: Path, **changes: Any) -> dict[str, Any]:
    arguments = {"prompt_template": None, "pad_token": None, "max_length": None, "targets": TARGETS, **changes}
    return check_base(folder=folder, **arguments)


refusal = partial(refused, check)


# --- where ---------------------------------------------------------------------------------------------------------


def test_a_folder_is_itself(base_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(base_model.parent)
    assert locate(str(base_model)) == locate(base_model.name) == base_model


@pytest.mark.parametrize("base", ["/no/such/folder", "./nope", "~/no-such-folder", "a/b/c"])
def test_what_looks_like_a_folder_is_never_asked_of_the_hub(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(external, "_from_hub", lambda _: pytest.fail("asked the Hub"))
    with pytest.raises(InputError, match=r"^model\.base: no folder "):
        locate(base)


def test_a_name_that_the_hub_does_not_have_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def fail(*_: Any, **__: Any) -> str:
        raise OSError("no network\nand a second line")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(InputError) as error:
        locate("somebody/model")
    assert str(error.value) == (
        "model.base: 'somebody/model' is neither a folder here nor to be had from the Hub: no network"
    )


def test_only_configuration_tokenizer_and_safetensors_are_fetched(
    base_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    asked: dict[str, Any] = {}

    def download(name: str, **options: Any) -> str:
        asked.update(options, name=name)
        return str(base_model)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert locate("somebody/model") == base_model
    assert asked == {
        "name": "somebody/model",
        "allow_patterns": ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"],
    }


def test_a_folder_without_configuration_or_safetensors_is_refused(base_model: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^model\.base: .* has no config\.json"):
        locate(str(tmp_path))
    shutil.copy(base_model / "config.json", tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(InputError, match=r"^model\.base: .* has no model\.safetensors; pickled weights are not loaded"):
        locate(str(tmp_path))


def test_a_pointer_in_place_of_weights_is_named(base_model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(base_model, tmp_path / "clone"))
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(InputError, match=r"^model\.base: .*model\.safetensors: a Git LFS pointer \(\d+ bytes\)"):
        locate(str(folder))


# --- what names its content ------------------------------------------------------------------------------------------


def test_the_digest_names_the_content_not_the_place(base_model: Path, tmp_path: Path, state: Path) -> None:
    here, there = reference(base_model), reference(shutil.copytree(base_model, tmp_path / "copy"))
    assert (here.kind, here.uri) == ("external-model", str(base_model))
    assert here.sha256 == there.sha256
    (tmp_path / "copy" / "README.md").write_text("not part of the model")
    assert reference(tmp_path / "copy").sha256 == here.sha256


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "chat_template.jinja", "model.safetensors"])
def test_a_change_in_any_part_changes_the_digest(base_model: Path, tmp_path: Path, state: Path, name: str) -> None:
    folder = shutil.copytree(base_model, tmp_path / "copy")
    before = reference(folder).sha256
    content = bytearray((folder / name).read_bytes())
    content[-2] ^= 1
    (folder / name).write_bytes(content)
    os.utime(folder / name, ns=(1, 1))  # another time, whatever the clock's resolution
    assert reference(folder).sha256 != before


def test_a_large_file_is_read_once(base_model: Path, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = reference(base_model)
    monkeypatch.setattr(external, "file_digest", lambda path: pytest.fail(f"read {path} again"))
    assert reference(base_model) == first


@pytest.mark.parametrize("content", ["", "{", "[1]", '"x"'])
def test_a_damaged_memory_of_digests_is_forgotten(base_model: Path, state: Path, content: str) -> None:
    first = reference(base_model)
    (state / "digests.json").write_text(content)
    assert reference(base_model) == first
    assert len(json.loads((state / "digests.json").read_text())) == 6


def test_many_studies_may_ask_at_once(base_model: Path, state: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: reference(base_model).sha256, range(40)))
    assert len(set(found)) == 1
    assert [path.name for path in state.glob("digests*")] == ["digests.json"]


# --- what is refused -------------------------------------------------------------------------------------------------


def test_a_base_that_fits_is_accepted(base_model: Path, variant: Callable[..., Path]) -> None:
    from tasks.models.load import load_model

    found = check(base_model)
    assert found["max_length"] == 64
    assert found["parameters"] == sum(p.numel() for p in load_model(base_model).parameters())
    assert check(base_model, max_length=10, targets=("down_proj",))["max_length"] == 10
    bare = variant("bare", chat_template=None, pad_token=None)
    assert check(bare, prompt_template="{question}", pad_token="<eos>")["max_length"] == 64


def test_each_thing_that_is_missing_is_named(base_model: Path, variant: Callable[..., Path]) -> None:
    assert refusal(variant("plain", chat_template=None)).startswith("model.prompt_template: the base has no chat")
    assert refusal(variant("unpadded", pad_token=None)).startswith("model.pad_token: ")
    assert refusal(base_model, max_length=65).startswith("model.max_length: 65 tokens is beyond")
    assert refusal(base_model, targets=("q_proj", "c_attn")) == (
        "lora.targets: the base has no module 'c_attn'; it has "
        "down_proj, gate_proj, k_proj, lm_head, o_proj, q_proj, up_proj, v_proj"
    )


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", "{"),
        ("config.json", '{"model_type": "no-such-model"}'),
        ("config.json", "{}"),
        ("tokenizer.json", "{"),
        ("chat_template.jinja", "{% for %}"),
    ],
)
def test_a_damaged_model_is_bad_input_not_a_failed_stage(variant: Callable[..., Path], name: str, content: str) -> None:
    folder = variant("damaged")
    (folder / name).write_text(content)
    template = f"model.prompt_template: the chat template of {folder} cannot render a question "
    expected = template if name.endswith(".jinja") else f"model.base: transformers cannot use {folder}: "
    assert refusal(folder).startswith(expected)
