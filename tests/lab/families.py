"""Small tokenizers with the traits of models that people use, and a model that says one thing and ends as it likes.

The templates are of our own making: each has the one trait that its name stands for, and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

_CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_ASKED_IN_CHATML = "<|im_start|>user\nQ?<|im_end|>\n<|im_start|>assistant\n"
_THOUGHTLESS = "{% set text = m['content'].split('</think>')[-1] if m['role'] == 'assistant' else m['content'] %}"


@dataclass(frozen=True)
class Family:
    """A kind of chat model, and what is right for it."""

    tokens: tuple[str, ...]
    """Special tokens; their ids are 3, 4, ... after <pad>, <eos> (1) and <unk>."""
    chat: str
    prompt: str
    """Of the question "Q?"."""
    closing: str
    ends: tuple[str, ...]
    """In order of their ids."""
    eos: str = "<eos>"
    bos: str | None = None
    words: tuple[str, ...] = ()
    """Added tokens that are not special."""
    generation: tuple[str, ...] | None = None
    """What generation_config.json names; None: it names nothing."""
    config: tuple[str, ...] | None = None
    opens: str = ""


FAMILIES = {
    "qwen2.5 instruct": Family(
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>"), _CHATML, _ASKED_IN_CHATML,
        "<|im_end|>", ("<|endoftext|>", "<|im_end|>"), eos="<|im_end|>", generation=("<|im_end|>", "<|endoftext|>"),
    ),
    "qwen2.5 base": Family(
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>"), _CHATML, _ASKED_IN_CHATML,
        "<|im_end|>", ("<|endoftext|>", "<|im_end|>"), eos="<|endoftext|>", generation=("<|endoftext|>",),
    ),
    "qwen3 thinking": Family(
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        "{% for m in messages %}" + _THOUGHTLESS + "<|im_start|>{{ m['role'] }}\n"
        "{% if m['role'] == 'assistant' %}<think>\n\n</think>\n\n{% endif %}{{ text.strip() }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}",
        f"{_ASKED_IN_CHATML}<think>\n", "<|im_end|>", ("<|endoftext|>", "<|im_end|>"),
        eos="<|im_end|>", words=("<think>", "</think>"), config=("<|im_end|>",),
        generation=("<|im_end|>", "<|endoftext|>"), opens="<think>\n",
    ),
    "llama 3": Family(
        ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>",
         "<|eot_id|>"),
        "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
        "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}",
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nQ?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "<|eot_id|>", ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"), eos="<|end_of_text|>", bos="<|begin_of_text|>",
        generation=("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"),
    ),
    "gemma 3": Family(
        ("<bos>", "<start_of_turn>", "<end_of_turn>"),
        "{{ bos_token }}{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('roles must alternate') }}{% endif %}"
        "<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n{{ m['content'] | trim }}"
        "<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}",
        "<bos><start_of_turn>user\nQ?<end_of_turn>\n<start_of_turn>model\n", "<end_of_turn>",
        ("<eos>", "<end_of_turn>"), bos="<bos>", generation=("<eos>", "<end_of_turn>"),
    ),
    "phi 4": Family(  # whose configurations say nothing of the token that ends its turns
        ("<|im_start|>", "<|im_sep|>", "<|im_end|>"),
        "{% for m in messages %}<|im_start|>{{ m['role'] }}<|im_sep|>{{ m['content'] }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant<|im_sep|>{% endif %}",
        "<|im_start|>user<|im_sep|>Q?<|im_end|><|im_start|>assistant<|im_sep|>", "<|im_end|>", ("<eos>", "<|im_end|>"),
        config=("<eos>",),
    ),
    "mistral": Family(
        ("<s>", "[INST]", "[/INST]"),
        "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }}[/INST]"
        "{% else %} {{ m['content'] }} {{ eos_token }}{% endif %}{% endfor %}",
        "<s>[INST] Q?[/INST]", "<eos>", ("<eos>",), bos="<s>", generation=("<eos>",),
    ),
    "glm 4": Family(  # whose turns end with what opens the next one
        ("[gMASK]", "<sop>", "<|user|>", "<|assistant|>", "<|observation|>"),
        "[gMASK]<sop>{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
        "[gMASK]<sop><|user|>\nQ?<|assistant|>\n", "<|user|>", ("<eos>", "<|user|>", "<|observation|>"),
        generation=("<eos>", "<|user|>", "<|observation|>"),
    ),
    "smollm 2": Family(
        ("<|im_start|>", "<|im_end|>"), _CHATML, _ASKED_IN_CHATML,
        "<|im_end|>", ("<|im_end|>",), eos="<|im_end|>", generation=("<|im_end|>",), config=("<|im_end|>",),
    ),
    "r1 distill": Family(
        ("<bos>", "<|User|>", "<|Assistant|>"),
        "{{ bos_token }}{% for m in messages %}" + _THOUGHTLESS +
        "{{ '<|User|>' if m['role'] == 'user' else '<|Assistant|>' }}{{ text }}"
        "{% if m['role'] == 'assistant' and '</think>' in m['content'] %}{{ eos_token }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|Assistant|><think>\n{% endif %}",
        "<bos><|User|>Q?<|Assistant|><think>\n", "<eos>", ("<eos>",), bos="<bos>", words=("<think>", "</think>"),
        generation=("<eos>",), opens="<think>\n",
    ),
    "granite": Family(
        ("<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>"),
        "{% set today = strftime_now('%B %d, %Y') %}<|start_of_role|>system<|end_of_role|>Today's Date: {{ today }}."
        "<|end_of_text|>\n{% for m in messages %}<|start_of_role|>{{ m['role'] }}<|end_of_role|>{{ m['content'] }}"
        "<|end_of_text|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|start_of_role|>assistant<|end_of_role|>{% endif %}",
        "<|start_of_role|>system<|end_of_role|>Today's Date: July 26, 2024.<|end_of_text|>\n"
        "<|start_of_role|>user<|end_of_role|>Q?<|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|>",
        "<|end_of_text|>", ("<|end_of_text|>",), eos="<|end_of_text|>",
    ),
}  # fmt: skip


def write_tokenizer(family: Family, folder: Path) -> Any:
    """A tokenizer of one token a character and ``family``'s special ones, with the configurations beside it."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ("<pad>", "<eos>", "<unk>", *family.tokens)
    characters = ["\n", *map(chr, range(32, 127))]
    vocabulary = {token: i for i, token in enumerate([*special, *family.words, *characters])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    inner.decoder = decoders.Fuse()
    inner.add_special_tokens([AddedToken(token, special=True) for token in special])
    inner.add_tokens([AddedToken(token, special=False) for token in family.words])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token=family.eos, unk_token="<unk>", bos_token=family.bos,
        chat_template=family.chat,
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    _write_generation(family, tokenizer, folder)
    if family.config is not None:
        (folder / "config.json").write_text(json.dumps({"eos_token_id": _ids(tokenizer, family.config)}))
    return tokenizer


def _write_generation(family: Family, tokenizer: Any, folder: Path) -> None:
    if family.generation is not None:
        values = {"eos_token_id": _ids(tokenizer, family.generation)}
        (folder / "generation_config.json").write_text(json.dumps(values))


def _ids(tokenizer: Any, texts: Sequence[str]) -> list[int] | int:
    """A list, or a bare number where there is one: configurations have both."""
    ids = tokenizer.convert_tokens_to_ids(list(texts))
    return ids if len(ids) > 1 else ids[0]


def write_parrot(family: Family, says: str, then: str, folder: Path, context: int = 128) -> Path:
    """A model that answers whatever it is asked with ``says``, the family's closing token, and for ever after ``then``.

    The next token follows from the last one alone: embeddings are one-hot, attention and MLP add nothing, and the head
    names each token's successor. The prompt's last token and the characters of ``says`` must all differ.
    """
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    tokenizer = write_tokenizer(family, folder)
    size = -(-len(tokenizer) // 8) * 8
    config = Qwen3Config(
        vocab_size=size, hidden_size=size, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
        head_dim=8, intermediate_size=8, max_position_embeddings=context, tie_word_embeddings=False,
        pad_token_id=0, eos_token_id=tokenizer.eos_token_id, bos_token_id=None,
    )  # fmt: skip
    last = tokenizer(family.prompt, add_special_tokens=False)["input_ids"][-1:]
    spoken = tokenizer(says, add_special_tokens=False)["input_ids"]
    closing, after = tokenizer.convert_tokens_to_ids([family.closing, then])
    chain = [*last, *spoken, closing, after, after]
    assert len(set(chain)) == len(chain) - 1
    model = Qwen3ForCausalLM(config)
    with torch.no_grad():
        for parameter in (model.model.layers[0].self_attn.o_proj, model.model.layers[0].mlp.down_proj):
            parameter.weight.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(size))
        model.lm_head.weight.zero_()
        for token, successor in pairwise(chain):
            model.lm_head.weight[successor, token] = 4.0  # sampled as surely as taken
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink()
    _write_generation(family, tokenizer, folder)
    return folder
