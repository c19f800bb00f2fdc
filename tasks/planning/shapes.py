"""The shape of a base model: what decides its parameters, its arithmetic and its memory. No weights are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.core.sections import TinySpec
from tasks.core.small_files import expanded, read_object
from tasks.models.gguf_file import Gguf, find_gguf, read_gguf
from tasks.problems.synthetic import vocabulary

SPECIAL_TOKENS = 5
"""That the synthetic task's tokenizer adds to its words."""
FAMILIES = ("qwen3", "qwen2", "llama", "mistral")
"""`model_type`s whose block is what `Shape` describes: four attention matrices and a gated MLP of three."""


@dataclass(frozen=True)
class Shape:
    """A decoder with grouped-query attention and a gated MLP."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    tied: bool = True
    """Whether the output head is the embedding."""
    query_norms: bool = True
    """Qwen3's RMSNorm on queries and keys, one weight vector a layer each."""
    biases: bool = False
    """Qwen2's biases of q, k and v."""

    @property
    def queries(self) -> int:
        """Width of the attention's queries, and of its output."""
        return self.heads * self.head_dim

    @property
    def keys(self) -> int:
        """Width of the keys, and of the values."""
        return self.kv_heads * self.head_dim

    @property
    def modules(self) -> dict[str, tuple[int, int]]:
        """The linear modules of one layer: name -> (inputs, outputs)."""
        return {
            "q_proj": (self.hidden, self.queries),
            "k_proj": (self.hidden, self.keys),
            "v_proj": (self.hidden, self.keys),
            "o_proj": (self.queries, self.hidden),
            "gate_proj": (self.hidden, self.intermediate),
            "up_proj": (self.hidden, self.intermediate),
            "down_proj": (self.intermediate, self.hidden),
        }

    def input_widths(self, targets: Sequence[str]) -> list[int]:
        """Widths of the inputs that ``targets`` have in one layer; q, k and v share one, gate and up another."""
        shared = {"k_proj": "q_proj", "v_proj": "q_proj", "up_proj": "gate_proj"}
        first = dict.fromkeys(shared.get(target, target) for target in targets if target in self.modules)
        return [self.modules[name][0] for name in first]

    @property
    def linear(self) -> int:
        """Entries of all layers' matrices: each costs two operations a token."""
        return self.layers * sum(inputs * outputs for inputs, outputs in self.modules.values())

    @property
    def head(self) -> int:
        """Entries of the output head."""
        return self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        """All of them; a tied head counts once."""
        norms = 2 * self.hidden + 2 * self.head_dim * self.query_norms
        biases = (self.queries + 2 * self.keys) * self.biases
        return self.linear + self.layers * (norms + biases) + self.hidden + self.head * (1 if self.tied else 2)

    def lora_parameters(self, r: int, targets: Sequence[str]) -> int:
        """r (inputs + outputs) of every target in every layer; names that are no linear module count nothing."""
        sizes = (self.modules[target] for target in targets if target in self.modules)
        return self.layers * r * sum(inputs + outputs for inputs, outputs in sizes)

    def cache_bytes(self, width: int) -> int:
        """Bytes of keys and values that one token leaves in the KV cache; ``width``: bytes of a number."""
        return 2 * self.layers * self.keys * width


KNOWN = {
    "HuggingFaceTB/SmolLM2-135M-Instruct": Shape(30, 576, 9, 3, 64, 1536, 49_152, query_norms=False),
    "Qwen/Qwen2.5-Coder-0.5B-Instruct": Shape(24, 896, 14, 2, 64, 4864, 151_936, query_norms=False, biases=True),
    "Qwen/Qwen3-4B-Instruct-2507": Shape(36, 2560, 32, 8, 128, 9728, 151_936),
    "Qwen/Qwen3-4B": Shape(36, 2560, 32, 8, 128, 9728, 151_936),
    "Qwen/Qwen3-1.7B": Shape(28, 2048, 16, 8, 128, 6144, 151_936),
    "Qwen/Qwen3-0.6B": Shape(28, 1024, 16, 8, 128, 3072, 151_936),
}
"""Shapes of bases that are on the Hub only, as their config.json gives them: a plan needs no network."""


@dataclass(frozen=True)
class Found:
    """A base's shape, None where it is not known, and where it was read."""

    shape: Shape | None
    source: str
    here: bool
    """Whether its weights are on this machine."""
    quantised: bool = False
    """Whether it is a GGUF file, which the study dequantises."""
    folder: Path | None = None
    """Where they are."""


def shape_of_world(spec: TinySpec) -> Shape:
    """The network that the synthetic task pretrains."""
    width, tokens = spec.hidden // spec.heads, len(vocabulary()) + SPECIAL_TOKENS
    return Shape(spec.layers, spec.hidden, spec.heads, spec.kv_heads, width, spec.intermediate, tokens)


def shape_of_config(config: Mapping[str, Any]) -> Shape | None:
    """The shape that a config.json describes; None for an architecture that is not one of `FAMILIES`."""
    family = config.get("model_type")
    if family not in FAMILIES:
        return None
    try:
        heads = int(config["num_attention_heads"])
        hidden = int(config["hidden_size"])
        return Shape(
            layers=int(config["num_hidden_layers"]),
            hidden=hidden,
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            head_dim=int(config.get("head_dim") or hidden // heads),
            intermediate=int(config["intermediate_size"]),
            vocabulary=int(config["vocab_size"]),
            tied=bool(config.get("tie_word_embeddings", False)),
            query_norms=family == "qwen3",
            biases=family == "qwen2",
        )
    except (KeyError, TypeError, ValueError):  # what is wrong with it, loading will say
        return None


def shape_of_gguf(gguf: Gguf) -> Shape | None:
    """The shape that a GGUF file's header describes; None for an architecture that is not one of `FAMILIES`."""
    names = ("block_count", "embedding_length", "attention.head_count", "feed_forward_length")
    layers, hidden, heads, intermediate = (gguf.number(name) for name in names)
    embedding = gguf.tensors.get("token_embd.weight")
    if gguf.architecture not in FAMILIES or not (layers and hidden and heads and intermediate and embedding):
        return None
    return Shape(
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=gguf.number("attention.head_count_kv") or heads,
        head_dim=gguf.number("attention.key_length") or hidden // heads,
        intermediate=intermediate,
        vocabulary=embedding[0][0],
        tied="output.weight" not in gguf.tensors,
        query_norms="blk.0.attn_q_norm.weight" in gguf.tensors,
        biases="blk.0.attn_q.bias" in gguf.tensors,
    )


def find_shape(base: str, gguf_file: str | None = None) -> Found:
    """The shape of ``model.base`` (not ``tiny``), from its folder, the Hub's cache on this disk, or `KNOWN`.

    Raises `InputError` for a GGUF file that cannot be read.
    """
    folder = expanded(base)
    on_hub = gguf_file is not None and not folder.is_dir()
    gguf = _cached(base, str(gguf_file)) if on_hub else find_gguf(base, gguf_file)
    if gguf is not None:
        header = read_gguf(gguf)
        known = shape_of_gguf(header)
        source = (
            f"its GGUF header, {header.quantisation}"
            if known
            else f"not modelled: architecture {header.architecture!r}"
        )
        return Found(known, source, True, quantised=True)
    config = folder / "config.json" if folder.is_dir() else _cached(base, "config.json")
    if config is not None and config.is_file():
        try:
            values = read_object(config)
        except (OSError, ValueError):
            values = {}
        shape, family = shape_of_config(values), values.get("model_type")
        source = "its config.json" if shape else f"not modelled: architecture {family!r}"
        return Found(shape, source, any(config.parent.glob("*.safetensors")), folder=config.parent)
    if base in KNOWN:
        return Found(KNOWN[base], "the table of known shapes, as the model is not on this machine", False)
    return Found(None, "not on this machine, and no known shape", False)


def _cached(base: str, name: str) -> Path | None:
    """A file of a Hub model in the cache on this disk."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(base, name)
    except HFValidationError:
        return None
    return Path(found) if isinstance(found, str) else None
