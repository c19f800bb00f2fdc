"""The embedded small world's network, its weights as one vector, and what it would answer, without decoding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tasks.core.sections import TinySpec
from tasks.models.load import native_bfloat16

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.models.tiny.batches import Packed

INITIAL_STD = 0.1
"""Qwen3's 0.02 is far too small for a width of 128: the style that needs most look-ups is then never learnt."""
ROPE_THETA = 10_000.0


def build_network(spec: TinySpec, tokenizer: Any, max_length: int) -> Any:
    """A randomly initialised Qwen3 with tied embeddings, on the CPU, in float32; weights from ``spec.seed`` alone."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=spec.hidden,
        num_hidden_layers=spec.layers,
        num_attention_heads=spec.heads,
        num_key_value_heads=spec.kv_heads,
        head_dim=spec.hidden // spec.heads,
        intermediate_size=spec.intermediate,
        max_position_embeddings=max_length,
        initializer_range=INITIAL_STD,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        # sdpa's bfloat16 backward is slow on CPUs; eager takes half the time.
        attn_implementation="eager",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        return Qwen3ForCausalLM(config)


def as_vector(model: Any) -> Tensor:
    """(P,) all weights of ``model``; from now on its parameters are views of this vector.

    One vector makes the optimiser, the average, the clipping and the all-reduce one operation each.
    """
    import torch

    parameters = list(model.parameters())
    vector = torch.cat([parameter.data.reshape(-1) for parameter in parameters])
    start = 0
    for parameter in parameters:
        end = start + parameter.numel()
        parameter.data = vector[start:end].view(parameter.shape)
        start = end
    return vector


def point_gradients(model: Any, buffer: Tensor) -> None:
    """Let ``model``'s gradients accumulate in the first P entries of ``buffer``."""
    start = 0
    for parameter in model.parameters():
        end = start + parameter.numel()
        parameter.grad = buffer[start:end].view(parameter.shape)
        start = end


def target_logits(model: Any, batch: Packed) -> tuple[Tensor, Tensor]:
    """Float32 logits (N, V) and next tokens (N,) of the completion positions; the others never reach the head."""
    import torch

    where = batch.targets >= 0
    with torch.autocast(batch.ids.device.type, dtype=torch.bfloat16, enabled=native_bfloat16(batch.ids.device.type)):
        hidden = model.model(
            input_ids=batch.ids, position_ids=batch.positions, attention_mask=batch.mask, use_cache=False
        ).last_hidden_state
        logits = model.lm_head(hidden[where])
    return logits.float(), batch.targets[where]


def exact_matches(model: Any, batches: Sequence[Packed]) -> int:
    """How many examples have every completion token as the arg-max given the tokens before it.

    Equals the number whose greedy continuation is exactly the reference (by induction over tokens), at the price of
    one forward pass. A right answer in other words is not counted.
    """
    import torch

    matches = 0
    with torch.inference_mode():
        for batch in batches:
            logits, targets = target_logits(model, batch)
            owner = batch.owner[batch.targets >= 0]
            wrong = torch.zeros(int(owner.max()) + 1, device=owner.device)
            wrong.index_add_(0, owner, (logits.argmax(-1) != targets).float())
            matches += int((wrong == 0).sum())
    return matches


def target_probability(model: Any, batches: Sequence[Packed]) -> float:
    """The sum over all targets of the probability (0 to 1) that ``model`` gives each."""
    import torch

    total = 0.0
    with torch.inference_mode():
        for batch in batches:
            logits, targets = target_logits(model, batch)
            total += float(logits.softmax(-1).gather(1, targets[:, None]).sum())
    return total
