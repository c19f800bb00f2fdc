"""What flows between stages: references to artifacts, small frozen results, and who a run is.

Shape suffixes of the code base: ``_P`` problems, ``_G`` samples of a group, ``_B`` batch, ``_T`` tokens, ``_M`` methods
or runs, ``_L`` layers, ``_R`` rank.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

EXTERNAL = "external"
"""Prefix of the kind of references to folders that colinear did not make and does not copy."""


Progress = Callable[[int, int, str], None]
"""``progress(done, total, note)``: how a plain function tells how far it is. Units are the caller's.

``progress(0, 0, "")`` says that a device was had and work begins."""


def no_progress(done: int, total: int, note: str = "") -> None:
    """The default `Progress`: says nothing."""


TEMPLATE_DATE = "2024-07-26"
"""The day that templates which print today's (Llama 3.2, Granite) are told: Llama 3's own where it knows no clock. A
prompt that changes with the day would be trained on in one form and evaluated in another."""


@dataclass(frozen=True)
class ArtifactRef:
    """Where a stage's output lives. All that Prefect carries between tasks.

    ``sha256`` is the digest of the artifact's manifest (every file's path, size and digest), so it names the content.
    """

    uri: str
    sha256: str
    kind: str
    run_id: str


@dataclass(frozen=True)
class TurnRecord:
    """How a base is asked and what ends its answers, as `tasks.models.turn` found it: for keys and readers."""

    prompt: str
    """A question as it is asked, decoded."""
    opens: str
    """What the prompt has begun of the answer."""
    answer: str
    """What training teaches for that prompt, decoded, the end token included."""
    ends: tuple[tuple[int, str, str], ...]
    """(id, text, who says so) of every token that ends an answer."""
    closing: int
    """Id of the one that training teaches."""
    date: str | None
    """The day that the chat template prints; None where it prints none."""
    split: str | None
    """What the tokenizer makes of the prompt's end and the answer's beginning; None: it keeps them apart."""
    rule: dict[str, Any] | None
    """What is not as in a model that is ended by its tokenizer's end-of-sequence token alone; None: nothing."""


@dataclass(frozen=True)
class LocalBase:
    """A base model's directory on this machine, and how a question becomes its prompt: what worker processes get."""

    folder: Path
    prompt_template: str | None = None
    instruction: str | None = None
    pad_token: str | None = None
    max_length: int | None = None
    template_date: str = TEMPLATE_DATE


@dataclass(frozen=True)
class LocalTeacher:
    """The directory of a teacher that a method trains on the distribution of."""

    folder: Path
    in_style: bool
    """Whether it is asked in its own style, as the synthetic task's is for the rollouts."""


@dataclass(frozen=True)
class ModelRef:
    """A base model: an artifact (or a folder outside the store), and how a question becomes its prompt."""

    ref: ArtifactRef
    folder: str = "."
    """Where in the artifact the Hugging Face directory is."""
    prompt_template: str | None = None
    instruction: str | None = None
    """Behind every question (`tasks.problems.overlap.instructed`)."""
    pad_token: str | None = None
    max_length: int | None = None
    template_date: str = TEMPLATE_DATE
    """What a chat template that prints the date is told."""
    turn: TurnRecord | None = None
    """None: the synthetic task's, ended by its tokenizer's end-of-sequence token alone."""

    def at(self, artifact: Path) -> LocalBase:
        """The same with the artifact's files in the folder ``artifact``."""
        return LocalBase(
            artifact / self.folder,
            self.prompt_template,
            self.instruction,
            self.pad_token,
            self.max_length,
            self.template_date,
        )

    @property
    def identity(self) -> dict[str, Any]:
        """What of it decides a stage's output; part of cache keys.

        The turn is part of it only where it is not the plain one: keys of models that nothing else ends stay.
        """
        rule: dict[str, Any] = {"turn": self.turn.rule} if self.turn is not None and self.turn.rule else {}
        if self.instruction is not None:
            rule["instruction"] = self.instruction
        return {
            "sha256": self.ref.sha256,
            "folder": self.folder,
            "prompt_template": self.prompt_template,
            "pad_token": self.pad_token,
            "max_length": self.max_length,
            **rule,
        }


@dataclass(frozen=True)
class StageResult:
    """What a task returns: the artifact, and how it came to be."""

    stage: str
    name: str
    ref: ArtifactRef
    seconds: float
    """Seconds of bare work when it was computed (0 for a hit: see ``cached_seconds``)."""
    hit: bool = False
    cached_seconds: float = 0.0
    total_seconds: float = 0.0
    """Seconds from the look-up to the end, waiting for a device and recording included."""
    started: float = 0.0
    """Unix time at which the work (or the look-up) began; with ``seconds`` it gives the study's timeline."""
    summary: dict[str, float | int | str | bool | None] = field(default_factory=dict)
    used: tuple[StageResult, ...] = ()
    """Stages that the task ran for its own, which other tasks may have run as well."""
    damage: tuple[str, ...] = ()
    """What was found damaged on the way and not used, for people to read: ``stage: what``."""


REFERENCE_METHODS = ("base", "base-instructed", "teacher")
"""Methods of rows that no study trains: the base, the base asked in the teacher's style, the teacher."""


LEVEL = 0.05
"""Significance level of tests, two-sided."""


EFFECT = 0.02
"""Smallest difference in accuracy of interest, a share: two points, by convention. On the paper's n = 1319 the five
imitation methods lie within one point of each other, and what they lose to the base is five points or more; two
separate the two cases."""


DIFFERS, NO_POWER = "differs", "no power"


def differs_little(effect: float = EFFECT) -> str:
    """``'differs, by less than 2 points'``: the verdict on a pair that is both, for that margin (a share)."""
    return f"{DIFFERS}, by less than {in_points(effect)}"


def equal_within(effect: float = EFFECT) -> str:
    """``'equal within 2 points'``: the verdict of equality for that margin (a share)."""
    return f"equal within {in_points(effect)}"


def in_points(effect: float) -> str:
    """A share in points of accuracy: ``.02 -> '2 points'``."""
    return "1 point" if (points := f"{100 * effect:g}") == "1" else f"{points} points"


DIFFERS_LITTLE, EQUAL = differs_little(), equal_within()
"""Verdicts on a pair's accuracies: `tasks.evaluation.power.verdict`."""


@dataclass(frozen=True)
class RunInfo:
    """One adapter (or ``base``): the columns that identify it in every table.

    A study knows all of them; of an adapter that somebody else trained, what is not known is None.
    """

    run: str
    method: str
    seed: int | None
    """LoRA initialisation."""
    data_seed: int | None
    """Order of the data."""
    lr: float | None

    @property
    def label(self) -> str:
        """The name a reader sees in Prefect, MLflow and the report's settings."""
        if self.method in REFERENCE_METHODS:
            return self.run
        if self.seed is None or self.lr is None:
            return self.run
        order = "" if self.data_seed == self.seed else f" data_seed={self.data_seed}"
        return f"{self.method} seed={self.seed}{order} lr={short_rate(self.lr)}"


@dataclass(frozen=True)
class Truncated:
    """The adapter of one part (`tasks.core.frames.LEADING` or ``REST``) of a run's update."""

    of: RunInfo
    part: str
    k: int

    @property
    def info(self) -> RunInfo:
        """What it is called where it is asked and measured beside others."""
        return RunInfo(f"{self.of.run}-{self.part}-{self.k}", self.of.method, None, None, None)


@dataclass(frozen=True)
class Kept:
    """The adapter that a run had after ``step`` of its training."""

    of: RunInfo
    step: int

    @property
    def info(self) -> RunInfo:
        """What it is called where it is asked beside others."""
        return RunInfo(f"{self.of.run}-step-{self.step}", self.of.method, None, None, None)


@dataclass(frozen=True)
class Soup:
    """The adapter of several runs' updates with one weight each: 1 for their sum, 1 / their number for the mean."""

    name: str
    """As it was asked for: ``sft+dpo``, ``mean(sft+dpo)``."""
    of: tuple[RunInfo, ...]
    weight: float

    @property
    def info(self) -> RunInfo:
        """What it is called where it is asked and measured beside others."""
        return RunInfo(self.name, "soup", None, None, None)


def short_rate(lr: float) -> str:
    """``0.001 -> '1e-3'``: learning rates as people write them."""
    mantissa, exponent = f"{lr:.3e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
