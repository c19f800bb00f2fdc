"""A lossless word-level tokenizer for the embedded small world.

Words and signs carry their leading space, digits are tokens of their own (so 27 is " 2", "7"), and decoding joins the
tokens with nothing between them: ``decode(encode(text)) == text`` for every text made of known tokens.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, BOS, EOS, UNK = "<pad>", "<bos>", "<eos>", "<unk>"
PIECES = r" ?\\boxed\{| ?[a-z]+| ?[0-9]| ?[-+*=]|\n|."
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ '\n' + message['content'] + eos_token }}"
    "{% else %}{{ message['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '\n' }}{% endif %}"
)


def build_tokenizer(words: Sequence[str], *, max_length: int) -> PreTrainedTokenizerFast:
    """A tokenizer over ``words`` plus pad, bos, eos, unknown and the newline that opens an answer (ids in that order).

    The chat template is one user turn (the question as it is), a newline, the answer and the end token; it never adds
    special tokens beyond those, so a prompt is ``<bos>question\\n``.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: i for i, token in enumerate(dict.fromkeys((PAD, BOS, EOS, UNK, "\n", *words)))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token=UNK))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(PIECES), behavior="isolated")
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNK,
        padding_side="left",
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


def tokenizer_digest(tokenizer: Any) -> str:
    """sha256 of all that turns text into ids and back, and of the token that ends an answer.

    Two tokenizers with one digest give a text the same ids. Templates, padding and truncation do not count.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = {} if backend is None else json.loads(backend.to_str())
    for passing in ("padding", "truncation"):
        rules.pop(passing, None)
    parts = [rules, sorted(tokenizer.get_vocab().items()), tokenizer.eos_token_id]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
