"""A GGUF file as a base: what it is dequantised to, held against the file's bytes, and what is refused about one."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tasks.core.digests import StageKey
from tasks.core.errors import InputError, StageError
from tasks.models import gguf_file
from tasks.models.dequantise import dequantise, dequantise_key, describe
from tasks.models.external import check_base, file_sha256, locate
from tasks.models.gguf_file import find_gguf, read_gguf
from tasks.planning.shapes import Shape, find_shape
from tests.lab.gguf_maker import CONTEXT, HEADS, KV_HEADS, SPECIAL, rotated, tokens, weights, write_gguf
from tests.lab.refusals import refusal as refused

pytestmark = pytest.mark.usefixtures("state")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture(scope="module")
def model(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLINEAR_HOME", str(tmp_path_factory.mktemp("home")))
        out = tmp_path_factory.mktemp("model")
        summary = dequantise(file=file, sha256=file_sha256_of(file), out=out)
    entries = sum(tensor.size for tensor in weights().values())
    assert summary["parameters"] == entries
    assert (summary["quantisation"], summary["file_sha256"]) == ("Q4_0", file_sha256_of(file))
    return out


def file_sha256_of(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()


def stored(file: Path, name: str) -> bytes:
    """The bytes of one tensor, as llama.cpp's own reader finds them."""
    return next(tensor.data.tobytes() for tensor in gguf.GGUFReader(file).tensors if tensor.name == name)


def bfloat16(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.asarray(values, dtype=np.float32)).to(torch.bfloat16)


# --- the tensors ----------------------------------------------------------------------------------------------------


def test_a_block_of_q4_0_by_hand(file: Path, model: Path) -> None:
    """18 bytes hold 32 entries: a float16 d, then 16 bytes of two nibbles q, entry j and entry j + 16: d (q - 8)."""
    found = load_file(model / "model.safetensors")["model.layers.1.self_attn.v_proj.weight"]
    block = stored(file, "blk.1.attn_v.weight")[18:36]  # the second of the first row
    (d,) = struct.unpack("<e", block[:2])
    nibbles = [byte & 15 for byte in block[2:]] + [byte >> 4 for byte in block[2:]]
    expected = bfloat16(np.array([d * (q - 8) for q in nibbles]))
    assert torch.equal(found[0, 32:64], expected)
    original = torch.from_numpy(weights()["model.layers.1.self_attn.v_proj.weight"])[0, 32:64]
    assert 0 < (found[0, 32:64].float() - original).abs().max() <= abs(d)  # near what was quantised, and not the same


def test_a_block_of_q8_0_by_hand(file: Path, model: Path) -> None:
    """34 bytes hold 32 entries: a float16 d, then 32 signed bytes q: d q."""
    found = load_file(model / "model.safetensors")["model.layers.0.mlp.gate_proj.weight"]
    block = stored(file, "blk.0.ffn_gate.weight")[34 * 2 : 34 * 3]  # the first of the second row
    d, *q = struct.unpack("<e32b", block)
    assert torch.equal(found[1, :32], bfloat16(d * np.array(q)))


@pytest.mark.parametrize(("name", "heads"), [("q_proj", HEADS), ("k_proj", KV_HEADS)])
def test_rows_of_q_and_k_are_put_back_in_their_order(name: str, heads: int, model: Path) -> None:
    """llama.cpp takes the halves of a head in turn; stored as float16, what comes back is the original, rounded."""
    original = weights()[f"model.layers.0.self_attn.{name}.weight"]
    assert not np.array_equal(rotated(original, heads), original)
    found = load_file(model / "model.safetensors")[f"model.layers.0.self_attn.{name}.weight"]
    assert torch.equal(found, bfloat16(original.astype(np.float16)))


def test_the_rest_is_there_in_bfloat16_and_the_head_is_the_embedding(model: Path) -> None:
    found = load_file(model / "model.safetensors")
    assert found.keys() == weights().keys()
    assert {tensor.dtype for tensor in found.values()} == {torch.bfloat16}
    for name in ("model.norm.weight", "model.layers.1.mlp.down_proj.weight"):
        assert torch.equal(found[name], bfloat16(weights()[name]))
    config = json.loads((model / "config.json").read_text())
    assert (config["architectures"], config["dtype"]) == (["LlamaForCausalLM"], "bfloat16")
    assert config["tie_word_embeddings"] is True
    assert "quantization_config" not in config
    assert not [key for key in config if "name_or_path" in key]


def test_transformers_takes_the_directory_for_a_plain_model(file: Path, model: Path) -> None:
    from transformers import AutoModelForCausalLM
    from transformers.utils.quantization_config import GgufConfig

    plain = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    direct = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    ids = torch.tensor([[1, 40, 50, 60, 2]])
    with torch.no_grad():
        ours, theirs = plain(ids).logits, direct(ids).logits
    assert (ours - theirs).abs().max() < 0.02 * theirs.std()  # bfloat16 weights against float32 ones
    plain.save_pretrained(model.parent / "saved")  # which is refused for a model "quantized with gguf"


# --- the tokenizer --------------------------------------------------------------------------------------------------


def test_the_tokenizer_the_template_and_the_end_come_along(model: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (SPECIAL[1], SPECIAL[2], SPECIAL[0])
    assert len(tokenizer) == len(tokens())
    turn = [{"role": "user", "content": "1+1?"}]
    text = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    assert text == "<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n"
    ids = tokenizer(text)["input_ids"]
    assert (ids[0], ids.count(1), ids.count(2), tokenizer.decode(ids)) == (1, 2, 1, text)
    assert json.loads((model / "generation_config.json").read_text())["eos_token_id"] == [2]
    assert tokenizer.model_max_length == CONTEXT


def spelled(folder: Path, text: str) -> list[str]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    return [tokenizer.decode([one]) for one in tokenizer(text)["input_ids"]]


def test_digits_are_set_apart_first_where_the_model_was_trained_so(model: Path, tmp_path: Path) -> None:
    """SmolLM2 reads "\\n\\n1" as a double break and a digit; GPT-2's rule, which leaves one white space to what
    follows, as two breaks."""
    assert spelled(model, "a\n\n12") == ["a", "\n\n", "1", "2"]
    (tmp_path / "gpt2").mkdir()
    describe(file=write_gguf(tmp_path / "gpt2.gguf", pre="gpt-2"), out=tmp_path / "gpt2")
    assert spelled(tmp_path / "gpt2", "a\n\n12") == ["a", "\n", "\n", "1", "2"]


# --- the artifact ---------------------------------------------------------------------------------------------------


def test_a_moved_file_has_the_same_key_and_a_changed_one_another(file: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copy(file, tmp_path / "other.gguf"))
    key = dequantise_key(file_sha256(file))
    assert dequantise_key(file_sha256(moved)).digest == key.digest
    assert key.settings["gguf"] == "0.19.0"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    moved.write_bytes(content)
    assert dequantise_key(file_sha256(moved)).digest != key.digest


@pytest.mark.slow
def test_it_is_made_once_and_found_again(file: Path, tmp_path: Path) -> None:
    folder = locate(str(file))
    assert (folder / "model.safetensors").is_file()
    written = (folder / "model.safetensors").stat().st_mtime_ns
    moved = Path(shutil.copy(file, tmp_path / "moved.gguf"))
    assert locate(str(moved)) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == written


def test_no_path_and_no_state_of_the_network_is_in_it(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = []
    for name, offline in (("a", "1"), ("b", "0")):
        monkeypatch.setenv("HF_HUB_OFFLINE", offline)
        (tmp_path / name).mkdir()
        describe(file=Path(shutil.copy(file, tmp_path / f"{name}.gguf")), out=tmp_path / name)
        digests.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert digests[0] == digests[1]
    assert not any(str(tmp_path).encode() in content for content in digests[0].values())


def test_a_file_that_changes_while_it_is_read_is_no_artifact(file: Path, tmp_path: Path) -> None:
    with pytest.raises(StageError, match="it was changed while it was read; start again"):
        dequantise(file=file, sha256="0" * 64, out=tmp_path)


def test_nothing_beside_the_file_is_read(file: Path, tmp_path: Path) -> None:
    """Neither another model's tokenizer nor an adapter, for which transformers would fetch the model that it names."""
    beside, alone, out = tmp_path / "beside", tmp_path / "alone", tmp_path / "out"
    for folder in (beside, alone, out):
        folder.mkdir()
    (beside / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "stranger/model"}')
    (beside / "tokenizer_config.json").write_text('{"eos_token": "<|im_start|>", "chat_template": "none"}')
    (beside / "special_tokens_map.json").write_text('{"pad_token": "<|im_end|>"}')
    (beside / "chat_template.jinja").write_text("none")
    mixed = Path(shutil.copy(file, beside / "model.gguf"))
    dequantise(file=mixed, sha256=file_sha256_of(file), out=out)
    describe(file=file, out=alone)
    for path in alone.iterdir():
        assert (out / path.name).read_bytes() == path.read_bytes(), path.name


# --- the header -----------------------------------------------------------------------------------------------------


def test_the_header_agrees_with_llama_cpp_s_reader(file: Path) -> None:
    found, known = read_gguf(file), gguf.GGUFReader(file)
    assert found.tensors == {
        tensor.name: (tuple(int(n) for n in reversed(tensor.shape)), tensor.tensor_type.name)
        for tensor in known.tensors
    }
    assert found.metadata["tokenizer.chat_template"] == known.fields["tokenizer.chat_template"].contents()
    assert found.metadata["tokenizer.ggml.tokens"] == len(tokens())
    assert (found.architecture, found.quantisation, found.number("context_length")) == ("llama", "Q4_0", CONTEXT)
    assert found.entries.total() == sum(tensor.size for tensor in weights().values())


def test_a_plan_knows_its_shape(file: Path) -> None:
    found = find_shape(str(file))
    assert found.shape == Shape(2, 64, 4, 2, 16, 96, len(tokens()), tied=True, query_norms=False, biases=False)
    assert found.shape.parameters == read_gguf(file).entries.total()
    assert (found.here, found.quantised, found.source) == (True, True, "its GGUF header, Q4_0")
    assert find_shape(str(file.parent), file.name) == found


# --- where it is ----------------------------------------------------------------------------------------------------


def test_where_a_file_is_looked_for(file: Path, base_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    assert find_gguf(str(file)) == find_gguf(file.name) == find_gguf(str(file.parent), file.name) == file
    assert find_gguf(str(base_model)) is None
    assert find_gguf("owner/name") is None


def test_a_file_of_the_hub(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda base, name: str(file) if name == "a.gguf" else 1 / 0)
    assert find_gguf("owner/name", "a.gguf") == file
    assert refused(lambda: find_gguf("owner/name", "b.gguf")) == (
        "model.base: 'owner/name' is no folder here, and 'b.gguf' is not to be had from the Hub: division by zero"
    )


# --- refusals -------------------------------------------------------------------------------------------------------


def test_a_file_that_is_not_there_or_not_chosen(file: Path, tmp_path: Path) -> None:
    assert refused(lambda: find_gguf("no/such.gguf")) == "model.base: no file 'no/such.gguf'"
    assert refused(lambda: find_gguf(str(file.parent))) == (
        f"model.base: {file.parent} holds GGUF files (tiny.gguf); give one of them, FOLDER/tiny.gguf"
    )
    assert refused(lambda: find_gguf(str(file.parent), "other.gguf")) == (
        f"model.gguf_file: no file 'other.gguf' in {file.parent}; it has tiny.gguf"
    )
    assert refused(lambda: find_gguf(str(file), "tiny.gguf")) == (
        "model.gguf_file: model.base is a GGUF file already; leave one of them out"
    )


def test_what_is_no_gguf_or_cut_short(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "x.gguf"
    other.write_bytes(b"PK\x03\x04 a zip")
    assert refused(lambda: read_gguf(other, "--base")).startswith(f"--base: {other} is no GGUF file (it does not begin")
    other.write_bytes(b"")
    assert "is no GGUF file" in refused(lambda: read_gguf(other))
    whole = file.read_bytes()
    cut = f"model.base: {other} is cut short or damaged: less is there than its header says; copy it again"
    for length in (4, 20, 100, 3000, len(whole) // 2, len(whole) - 1):
        other.write_bytes(whole[:length])
        assert refused(lambda: read_gguf(other)) == cut, length
    other.write_bytes(whole[:4] + struct.pack("<I", 9) + whole[8:])
    assert "version 9 of the format; 2 and 3 are read" in refused(lambda: read_gguf(other))


def test_hostile_headers_are_refused_at_once(tmp_path: Path) -> None:
    """Counts and lengths beyond the file take neither time nor memory."""
    other = tmp_path / "x.gguf"
    head = b"GGUF" + struct.pack("<I", 3)
    text = struct.pack("<Q", 1) + b"k"
    for rest in (
        struct.pack("<QQ", 2**63, 0),
        struct.pack("<QQ", 0, 2**63),
        struct.pack("<QQ", 0, 1) + struct.pack("<Q", 2**62),
        struct.pack("<QQ", 0, 1) + text + struct.pack("<IIQ", 9, 8, 2**62),
        struct.pack("<QQ", 0, 1) + text + struct.pack("<IIQ", 9, 4, 2**62),
        struct.pack("<QQ", 1, 0) + text + struct.pack("<I", 2**31),
    ):
        other.write_bytes(head + rest)
        assert "is cut short or damaged" in refused(lambda: read_gguf(other))
    other.write_bytes(head + struct.pack("<QQ", 0, 1) + text + struct.pack("<I", 99))
    assert "metadata of type 99" in refused(lambda: read_gguf(other))


def test_an_architecture_that_transformers_cannot_read(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "x.gguf", architecture="plamo")
    said = refused(lambda: describe(file=file, out=tmp_path))
    assert said.startswith(f"model.base: transformers cannot read {file}, a GGUF of architecture 'plamo' (")
    assert said.endswith("); give the directory or Hub id of the original weights")


def test_a_model_that_is_no_decoder(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "x.gguf", architecture="t5encoder")
    assert "transformers cannot read" in refused(lambda: describe(file=file, out=tmp_path))


def test_a_rule_of_splitting_that_transformers_does_not_know(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "x.gguf", pre="viking")
    assert refused(lambda: describe(file=file, out=tmp_path)) == (
        f"model.base: {file} splits texts by the rule 'viking' (tokenizer.ggml.pre), which transformers does not know: "
        "its tokens would be others; give the directory or Hub id of the original weights"
    )


@pytest.mark.slow
def test_tensors_that_transformers_would_leave_out(tmp_path: Path) -> None:
    """Llama 3.1 and later scale their positions by such a tensor."""
    file = write_gguf(tmp_path / "x.gguf", extra={"rope_freqs.weight": np.ones(8, np.float32)})
    entries = sum(tensor.size for tensor in weights().values())
    said = refused(lambda: describe(file=file, out=tmp_path))
    assert (
        f"holds {entries + 8:,} numbers (rope_freqs.weight), and the model that transformers makes of it {entries:,}"
        in said
    )


def test_without_the_package_the_way_to_it_is_said(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gguf.constants", None)
    gguf_file._read.cache_clear()
    assert refused(lambda: read_gguf(file)) == (
        "model.base: to read a GGUF file takes the package gguf: pip install -c constraints.txt '.[gguf]'"
    )


def test_a_file_without_a_chat_template_needs_one(tmp_path: Path) -> None:
    describe(file=write_gguf(tmp_path / "x.gguf", chat_template=None), out=tmp_path)
    arguments: dict[str, Any] = {"folder": tmp_path, "pad_token": None, "max_length": None, "targets": ("q_proj",)}
    assert refused(lambda: check_base(**arguments, prompt_template=None)) == (
        "model.prompt_template: the base has no chat template; give one, for example "
        "--set model.prompt_template='Question: {question}\\nAnswer:\\n'"
    )
    plain = check_base(**arguments, prompt_template="Question: {question}\nAnswer:\n")
    assert plain["turn"].prompt == "<|im_start|>Question: What is 1 + 1?\nAnswer:\n"


def test_prompts_of_which_none_fits_the_context(model: Path) -> None:
    arguments: dict[str, Any] = {
        "folder": model, "prompt_template": None, "pad_token": None, "max_length": None, "targets": ("q_proj",),
    }  # fmt: skip
    long, short = "x" * CONTEXT, "How many?"
    said = refused(lambda: check_base(**arguments, questions=[long, long + "x"]))
    assert said.startswith(f"rollouts.file: no prompt fits the base's context of {CONTEXT} tokens, the shortest has ")
    check_base(**arguments, questions=[long, short])
    with pytest.raises(InputError, match="no prompt fits"):  # with the instruction not even the short one
        check_base(**arguments, questions=[short], instruction="z" * CONTEXT)


def test_the_key_names_what_reads() -> None:
    found: StageKey = dequantise_key("0" * 64)
    assert found.inputs == {"gguf": "0" * 64}
    assert found.settings.keys() == {"gguf", "transformers", "weights"}
