"""Frozen, typed sections of a study's settings. A leaf: it imports nothing of colinear.

Every field has a title, a unit where it has one, and bounds, so that Prefect's UI can draw a form from it and a wrong
value is refused before any work starts. A study's whole settings are composed of these in `tasks.settings.study`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

T = TypeVar("T")

LARGEST_SEED = 2**31 - 1
"""What every generator that we seed accepts."""

LARGEST_NUMBER = 10**12
"""Of whatever a setting counts."""

MOST_SAMPLES = 1000
"""Sampled answers a problem, beyond which maj@k is not computed."""


class Section(BaseModel):
    """A frozen section: unknown keys are refused, defaults are checked."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    @model_validator(mode="after")
    def _countable(self) -> Self:
        """Beyond `LARGEST_NUMBER` a whole number fits no column, file size or counter that it would become."""
        for name, value in self:
            if isinstance(value, int) and abs(value) > LARGEST_NUMBER:
                raise ValueError(f"{name}: a number of {len(str(value))} digits; the largest is {LARGEST_NUMBER}")
        return self


def once(values: tuple[T, ...]) -> tuple[T, ...]:
    """``values``. Raises `ValueError` for one that is listed twice."""
    if twice := [value for i, value in enumerate(values) if value in values[:i]]:
        raise ValueError(f"{twice[0]} is listed twice")
    return values


class ModelSpec(Section):
    """The base model (the student)."""

    base: str = Field(
        "tiny",
        title="Base model",
        description="'tiny' pretrains the embedded small world; otherwise a Hugging Face directory, a Hub id, or a "
        "GGUF file, which is dequantised to bfloat16 once.",
        min_length=1,
    )
    gguf_file: str | None = Field(
        None,
        title="GGUF file",
        description="Its name in the directory or Hub repository `base`, to read the model from it.",
    )
    prompt_template: str | None = Field(
        None,
        title="Prompt template",
        description="Text with {question} in it, used instead of the tokenizer's chat template. A base without a chat "
        "template needs one.",
    )
    instruction: str | None = Field(
        None,
        title="Instruction",
        description="A sentence on a line of its own behind every question, within the user's turn: of the rollouts, "
        "of what a teacher is asked, of the held-out problems. A question that carries one already, as those of the "
        "named benchmarks do, is left as it is.",
        min_length=1,
    )
    template_date: str = Field(
        "2024-07-26",
        title="Date in the chat template",
        description="The day that a chat template which prints today's (Llama 3.2, Granite) is told, so that a study "
        "trains on the prompts that it is evaluated on. A teacher's template is always told 2024-07-26.",
    )
    pad_token: str | None = Field(
        None, title="Pad token", description="For a tokenizer that has none; usually its end-of-sequence token."
    )
    max_length: int | None = Field(
        None,
        title="Longest sequence (tokens)",
        description="Rows longer than this are counted and dropped, never cut. Default: the model's context.",
        ge=8,
    )
    allow_cpu: bool = Field(
        False,
        title="A large base without a GPU",
        description="Run a base of more than a billion parameters on a CPU, which takes days to years.",
    )

    @field_validator("template_date")
    @classmethod
    def _a_day(cls, day: str) -> str:
        try:
            datetime.strptime(day, "%Y-%m-%d")
        except ValueError:
            raise ValueError(f"expected a day such as 2024-07-26, got {day!r}") from None
        return day


class TinySpec(Section):
    """The embedded small world: what `model.base = 'tiny'` pretrains."""

    seed: int = Field(0, title="Pretraining seed", ge=0, le=LARGEST_SEED)
    hidden: int = Field(128, title="Hidden size", ge=8, multiple_of=4)
    layers: int = Field(3, title="Layers", ge=1)
    heads: int = Field(4, title="Attention heads", ge=1)
    kv_heads: int = Field(2, title="Key-value heads", ge=1)
    intermediate: int = Field(512, title="MLP size", ge=8)
    max_operand: int = Field(30, title="Largest operand in a problem", ge=5, le=99)
    step_mix: tuple[float, float, float] = Field(
        (0.40, 0.35, 0.25), title="Share of 2-, 3- and 4-step problems", description="Must sum to 1."
    )
    hard_steps: tuple[int, int] = Field((4, 5), title="Fewest and most steps of the hard set")
    batch_size: int = Field(48, title="Sequences per pretraining step", ge=2, multiple_of=2)
    max_steps: int = Field(1200, title="Most pretraining steps", ge=10)
    lr: float = Field(3e-3, title="Pretraining learning rate", gt=0, lt=1)
    ema: float = Field(0.97, title="Decay of the weight average, each step", ge=0, lt=1)
    snapshot_every: int = Field(10, title="Steps between kept weight averages", ge=1)
    teacher_accuracy: float = Field(0.97, title="Greedy accuracy at which pretraining stops", gt=0, le=1)
    branch_accuracy: float = Field(
        0.65,
        title="Greedy accuracy at which the student branches off",
        description="The nearest snapshot is taken.",
        gt=0,
        lt=1,
    )
    branch_steps: int = Field(
        290,
        title="Steps of the student after it has branched off",
        description="More make it better in its own style. 0: the student is the snapshot.",
        ge=0,
    )
    branch_asked: float = Field(
        0.006,
        title="Share of the branch's examples that ask for the teacher's style",
        description="More make the student better in the teacher's style.",
        ge=0,
        le=0.5,
    )
    style_mass: float = Field(
        0.04,
        title="Probability that the student answers in the teacher's style unasked",
        description="Measured on the dev problems during the branch, whose share of such examples it steers.",
        gt=0,
        le=0.4,
    )
    dev_problems: int = Field(400, title="Problems used to choose the student", ge=20)


RolloutRole = Literal[
    "prompt", "completion", "completions", "messages", "chosen", "rejected", "reward", "answer", "id", "finish_reason",
    "logprobs", "seed", "question", "solution",
]  # fmt: skip
"""What a column of own rollouts, or of own problems, can be."""


class RolloutSpec(Section):
    """The one set of rollouts that every method trains on: from a file, or sampled from a teacher."""

    file: str | None = Field(
        None,
        title="Own rollouts",
        description="A file (JSONL, JSON or parquet) or a folder of shards; docs/own-data.md has the accepted layouts.",
    )
    problems: str | None = Field(
        None,
        title="Problems to sample for",
        description="deepscaler, gsm8k-train, a JSONL or parquet file, or hub:org/name[:config][:split], for a "
        "model.base of one's own; `prompts` of them are chosen by hash.",
    )
    fields: dict[RolloutRole, str] = Field(
        {},
        title="Columns of own rollouts or problems",
        description="Which column of `file` (prompt, completion, completions, messages, chosen, rejected, reward, "
        "answer, id, finish_reason, logprobs, seed) or of `problems` (question, answer, id, solution) holds what; an "
        "empty name: none does.",
    )
    engine: Literal["transformers", "vllm", "openai"] = Field(
        "transformers", title="Engine", description="What asks the teacher; openai is any OpenAI-compatible endpoint."
    )
    teacher: str | None = Field(
        None, title="Teacher", description="Hugging Face directory or Hub id; of an endpoint its model's name."
    )
    teacher_template: str | None = Field(
        None,
        title="Teacher's prompt template",
        description="Text with {question} in it, used instead of the teacher's chat template.",
    )
    teacher_tokenizer: str | None = Field(
        None,
        title="Tokenizer of the endpoint's model",
        description="Hugging Face directory or Hub id. Given, prompts go to /completions as token ids and the answers' "
        "ids are asked for, as vLLM's server does it; else the server renders a chat.",
    )
    endpoint: str | None = Field(
        None, title="Endpoint", description="Base URL of an OpenAI-compatible server, like https://api.example.com/v1."
    )
    key_env: str | None = Field(
        "OPENAI_API_KEY",
        title="Environment variable with the endpoint's key",
        description="Its name, in capitals, never the key; null for a server that asks for none.",
    )
    concurrency: int = Field(16, title="Requests to an endpoint at once", ge=1, le=1024)
    timeout: float = Field(600.0, title="Longest silence of an endpoint (s)", gt=0, le=86_400)
    retries: int = Field(6, title="Tries after a failed request", ge=0, le=100)
    extra: dict[str, Any] = Field(
        {},
        title="Extra fields of a request",
        description='Sent to the endpoint as they are, e.g. {"thinking": {"type": "disabled"}}.',
    )
    reasoning: Literal["drop", "join"] = Field(
        "drop",
        title="Thinking that an endpoint tells apart from the answer",
        description="Left out and counted, or put before the answer between <think> and </think>.",
    )
    batch_size: int = Field(512, title="Completions decoded at once (transformers, vllm)", ge=1)
    prompts: int = Field(1024, title="Prompts to sample for", ge=1)
    k: int = Field(4, title="Completions a prompt (K)", ge=1)
    temperature: float = Field(1.0, title="Sampling temperature", gt=0, le=5)
    max_new_tokens: int = Field(96, title="Longest completion (tokens)", ge=1)
    seed: int = Field(0, title="Sampling seed", ge=0, le=LARGEST_SEED)
    truncated: Literal["keep", "drop"] = Field(
        "keep", title="Completions cut at max_new_tokens", description="Kept and marked, or left out of training."
    )
    holdout: float = Field(
        0.1,
        title="Share of own problems held out",
        description="Used for evaluation when `evaluation.problems` names none; 0 holds nothing out.",
        ge=0,
        lt=1,
    )

    @property
    def columns(self) -> dict[str, str]:
        """``fields`` as plain text."""
        return {str(role): column for role, column in self.fields.items()}


class LoraSpec(Section):
    """The one LoRA recipe that every method shares."""

    r: int = Field(8, title="Rank (r)", ge=1)
    alpha: float = Field(16.0, title="Alpha", description="The update is alpha / r * B A.", gt=0)
    dropout: float = Field(0.0, title="Dropout", ge=0, lt=1)
    targets: tuple[str, ...] = Field(("q_proj", "k_proj", "v_proj", "o_proj"), title="Target modules", min_length=1)


class TrainSpec(Section):
    """Optimisation, the same for every method but for `lr_ratio` in the methods' own sections."""

    lr: float = Field(1e-3, title="Peak learning rate", gt=0, lt=1)
    steps: int = Field(80, title="Optimiser steps", ge=1)
    schedule_steps: int | None = Field(
        None,
        title="Steps of the learning-rate schedule",
        description="More than train.steps end the training before its schedule: the adapter is the one that a longer "
        "training has after train.steps. Default: train.steps.",
        ge=1,
    )
    batch_size: int = Field(64, title="Sequences (or pairs) per optimiser step", ge=1)
    micro_batch_size: int | None = Field(
        None, title="Most sequences (or pairs) per forward pass", description="Default: the whole batch.", ge=1
    )
    micro_batch_tokens: int | None = Field(
        None,
        title="Most tokens per forward pass",
        description="A longer sequence is a pass of its own. Default: what fits a GPU's memory; 1,024 on a CPU with "
        "bfloat16 weights, fewer where its share of the memory is small; else no limit. The batch of an "
        "optimiser step is the same in any case, and where memory runs out passes are halved.",
        ge=1,
    )
    packing: Literal["auto", "on", "off"] = Field(
        "auto",
        title="Run without padding",
        description="A pass computes its real tokens only, each sequence attending to itself alone. auto: on a GPU and "
        "on a CPU with bfloat16 weights, where the model's attention allows it.",
    )
    gradient_checkpointing: Literal["auto", "on", "off"] = Field(
        "auto",
        title="Gradient checkpointing",
        description="Computes activations again in the backward pass: the same numbers, less memory, a third more "
        "work. auto: on a GPU whose memory is too small without.",
    )
    checkpoint_steps: int | None = Field(
        100,
        title="Steps between checkpoints",
        description="From which a training that was killed goes on, to the same result. null: none.",
        ge=1,
    )
    keep_steps: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (),
        title="Steps whose adapters are kept",
        description="Such as 5,10,20,40: the adapter of every training after each of these steps is kept, and its "
        "way to the end is measured. The training is the same with and without. Empty leaves it out.",
        max_length=100,
    )
    reference: Literal["auto", "live", "stored"] = Field(
        "auto",
        title="Reference log-probabilities of pairs",
        description="stored: computed once for all runs on the same pairs; live: in every step. auto: stored on a "
        "GPU, live on a CPU.",
    )
    stop_above_start: int | None = Field(
        None,
        title="Steps whose mean loss may not lie above the start's",
        description="Ends a run as diverged when the mean loss of so many steps is above that of its first so many. "
        "Default: only a loss or gradient that is not finite ends it.",
        ge=1,
    )
    mask_truncated: bool = Field(
        False,
        title="No loss on truncated completions",
        description="A completion cut at rollouts.max_new_tokens still counts in its group's mean reward, but is not "
        "trained on. rollouts.truncated=drop takes it out of both.",
    )
    warmup: float = Field(0.05, title="Warm-up share of the steps", ge=0, lt=1)
    scheduler: Literal["cosine", "linear", "constant"] = Field("cosine", title="Learning-rate schedule")
    weight_decay: float = Field(0.01, title="Weight decay", ge=0)
    max_grad_norm: float = Field(1.0, title="Gradient clipping norm", gt=0)
    precision: Literal["auto", "float32", "bfloat16", "mixed"] = Field(
        "auto",
        title="Precision",
        description="auto: bfloat16 on a GPU, and on a CPU that computes in it where the base's weights are stored in "
        "16 bits; else float32. LoRA and its optimiser are in float32 in any case. mixed: float32 weights, bfloat16 "
        "arithmetic where the device has it.",
    )

    @field_validator("keep_steps")
    @classmethod
    def _each_once(cls, steps: tuple[int, ...]) -> tuple[int, ...]:
        return once(steps)

    @property
    def identity(self) -> dict[str, Any]:
        """What of it decides the adapter beside the learning rate, which is the run's; part of cache keys. A resumed
        run gives the same, and so does one of which steps are kept."""
        return self.model_dump(mode="json", exclude={"lr", "checkpoint_steps", "keep_steps"})


class EvaluationSpec(Section):
    """Held-out problems, one greedy answer each, and sampled ones where asked for."""

    n: int = Field(1319, title="Held-out problems", ge=1)
    hard_n: int = Field(400, title="Harder problems (synthetic task)", ge=0)
    problems: str | None = Field(
        None,
        title="Own held-out problems",
        description="JSONL or parquet with `question` and `answer` (gold after #### or bare), gsm8k-train, or "
        "hub:org/name[:config][:split]; for own rollouts, and less the problems that are among them.",
    )
    benchmarks: tuple[str, ...] = Field(
        (),
        title="Benchmarks",
        description="gsm8k, math500, aime2024, aime2025, aime2026, aime (all three), files, or "
        "hub:org/name[:config][:split]; own rollouts only. `n` applies to each.",
    )
    fields: dict[Literal["question", "answer", "id", "solution"], str] = Field(
        {},
        title="Columns of files and Hub data sets",
        description="Which column holds what, where `evaluation.problems` or an own benchmark names it otherwise.",
    )
    engine: Literal["transformers", "vllm"] = Field(
        "transformers",
        title="Engine",
        description="What generates the answers; vllm needs an installation of its own (docs/vllm.md). Reference "
        "solutions are scored by transformers either way.",
    )
    max_new_tokens: int = Field(96, title="Longest answer (tokens)", ge=1)
    batch_size: int = Field(512, title="Answers decoded at once", ge=1)
    samples: int = Field(
        0,
        title="Sampled answers a problem",
        description="Beside the greedy one, for avg@k, pass@k and maj@k.",
        ge=0,
        le=MOST_SAMPLES,
    )
    temperature: float = Field(1.0, title="Temperature of the sampled answers", gt=0, le=5)
    seed: int = Field(0, title="Seed of the sampled answers", ge=0, le=LARGEST_SEED)
    kept_steps: bool = Field(
        False,
        title="Ask the adapters of train.keep_steps too",
        description="Greedy answers to all problems, of every training at every step that is kept: so many more models "
        "to evaluate.",
    )


class GeometrySpec(Section):
    """What is measured of updates and their pairs."""

    ks: tuple[int, ...] = Field(
        (1, 5, 10), title="Subspace dimensions (k)", description="k above the rank is skipped; the rank is added."
    )
    base_measures: bool = Field(
        True,
        title="Measure against the base's weights",
        description="Intruder dimensions, rotation, spectrum shift, sparsity: a full SVD a module and adapter, which "
        "takes seconds at hidden size 2,560.",
    )
    activations: int = Field(
        64,
        title="Held-out problems whose inputs weight the cosine",
        description="The activation-weighted cosine counts an update by what it does to the inputs that its modules "
        "have under the base, on these problems with their solutions: one pass of the base, and the second moment of "
        "every input in memory and on disk (--dry-run has the bytes). 0 leaves it out.",
        ge=0,
        le=100_000,
    )
    truncations: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (),
        title="Ranks of truncated updates",
        description="Such as 1,2,4: one run of each method is asked and measured again with only the k leading "
        "directions of its update in every module, and with the rest of it, which is two models a k and method to "
        "evaluate. A k at the rank or above is skipped. Empty leaves it out.",
        max_length=16,
    )

    @field_validator("truncations")
    @classmethod
    def _each_once(cls, ks: tuple[int, ...]) -> tuple[int, ...]:
        return once(ks)


class PathSpec(Section):
    """The straight line in weight space between every two updates (linear mode connectivity)."""

    n: int = Field(256, title="Held-out problems", description="0 leaves the paths out.", ge=0)
    alphas: tuple[float, ...] = Field(
        (0.0, 0.25, 0.5, 0.75, 1.0),
        title="Points on a path",
        description="Base + (1 - alpha) dW + alpha dW'; answers are generated at 0, 0.5 and 1 only.",
    )
    readings: tuple[Literal["boxed", "solution", "accuracy"], ...] = Field(
        ("boxed", "solution", "accuracy"),
        title="What is read at a point",
        description="Cross-entropy of the boxed answer right after the prompt (the paper's), of the whole reference "
        "solution, and the accuracy of generated answers.",
        min_length=1,
    )
    matched: bool = Field(True, title="Also with both updates scaled to one norm")
    reference: str | None = Field(
        None,
        title="Only from runs of this method",
        description="Such as sft: no paths between two runs of other methods. Default: between every two runs of one "
        "method, or of one initialisation and data order.",
    )

    @field_validator("alphas")
    @classmethod
    def _both_ends(cls, alphas: tuple[float, ...]) -> tuple[float, ...]:
        if not {0.0, 1.0} <= set(alphas) or not all(0 <= alpha <= 1 for alpha in alphas):
            raise ValueError(f"expected numbers from 0 to 1, both ends among them, got {list(alphas)}")
        return alphas

    @field_validator("alphas", "readings")
    @classmethod
    def _each_once(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        return once(values)


class FunctionSpec(Section):
    """What the models compute: CKA of hidden states, logit lens, KL divergence."""

    n: int = Field(256, title="Held-out problems", description="0 leaves these measures out.", ge=0)
    pooling: Literal["last", "mean", "tokens"] = Field(
        "last", title="Tokens of a prompt whose hidden states are compared", description="tokens: each one a row."
    )
    batch_size: int = Field(64, title="Problems in a forward pass", ge=1)
    texts: str | None = Field(
        None,
        title="Texts that nobody trained on",
        description="A file of rows with `text`, or with `prompt` and `completion`: by how much each method raises "
        "the base's cross-entropy on them is what it forgets. Default: in the synthetic task the held-out solutions in "
        "the base's own style, which no method trains on; else none.",
        min_length=1,
    )


class GradientSpec(Section):
    """The methods' gradients at the base, before the first step."""

    n: int = Field(
        0,
        title="Rows of the rollouts",
        description="Drawn as whole problems; every method's loss is differentiated once on them, at the base. 0: "
        "leave this out; on fewer than 1,000 a gradient is mostly noise.",
        ge=0,
    )


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as ``section.key`` -> value."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
