"""What several packages' tests need: a state folder of their own, and a tiny base model that somebody else made."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.living import ui as ui  # one pair of servers for all that needs them
from tests.lab.mlflow_server import server as server

CHAT = "{% for m in messages %}U: {{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}A: {% endif %}"
CONTEXT = 64


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs both servers is long."""
    for item in items:
        if "ui" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.long)


@pytest.fixture(autouse=True)
def forgotten_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one test uses as an endpoint's key is a word for the others."""
    from tasks.core import secrets

    monkeypatch.setattr(secrets, "_kept", set())


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A fresh state folder for this process and those that it starts; device slots of their own as well."""
    from tasks.workers import devices

    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("COLINEAR_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr(tempfile, "tempdir", None)  # read TMPDIR again
    for name in ("MLFLOW_TRACKING_URI", "COLINEAR_SLOTS"):
        monkeypatch.delenv(name, raising=False)
    devices.slots.cache_clear()
    yield tmp_path / "home"
    devices.slots.cache_clear()


@pytest.fixture(scope="session")
def base_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen3 of one layer with a tokenizer of one token a character, context `CONTEXT`, and a chat template."""
    import torch
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    characters = ["\n", *map(chr, range(32, 127))]
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<eos>", "<unk>", *characters])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    folder = tmp_path_factory.mktemp("base")
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", chat_template=CHAT
    ).save_pretrained(folder)
    config = Qwen3Config(
        vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
        head_dim=8, intermediate_size=16, max_position_embeddings=CONTEXT, tie_word_embeddings=True,
        pad_token_id=0, eos_token_id=1, bos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    Qwen3ForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def variant(base_model: Path, tmp_path: Path) -> Callable[..., Path]:
    """Copies of `base_model` with keys of the tokenizer's configuration changed (``None``: removed)."""

    def make(name: str, **changes: Any) -> Path:
        folder = tmp_path / name
        shutil.copytree(base_model, folder)
        if "chat_template" in changes:
            (folder / "chat_template.jinja").unlink()
        file = folder / "tokenizer_config.json"
        values = {**json.loads(file.read_text()), **changes}
        file.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))
        return folder

    return make
