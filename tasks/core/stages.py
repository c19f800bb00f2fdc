"""The stages of a study: what each computes, from what, and the version that its cached outputs carry.

One entry a stage. Raise ``version`` where the same inputs and settings give another output from now on: what is in
people's caches is then computed again. A stage's name and version are part of its key; so nothing else may change them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tasks.core.digests import StageKey


@dataclass(frozen=True)
class Stage:
    """A stage by the name under which MLflow and the logs show it. ``computes``: its output, in a few words.

    ``inputs``: the artifacts whose digests decide the output; ``*`` stands for one input for each run or benchmark.
    """

    name: str
    version: int
    computes: str
    inputs: tuple[str, ...] = ()

    def key(self, inputs: Mapping[str, str], settings: Mapping[str, Any]) -> StageKey:
        """What decides one output of this stage. Raises `ValueError` for an input that the table does not know."""
        unknown = [name for name in inputs if name not in self.inputs]
        if unknown and "*" not in self.inputs:
            raise ValueError(f"stage {self.name!r} has no input {', '.join(unknown)}")
        return StageKey(self.name, self.version, inputs, settings)


PRETRAIN = Stage("pretrain", 2, "the embedded teacher and base")
DEQUANTISE = Stage("dequantise", 1, "a GGUF base as bfloat16 safetensors", ("gguf",))
PUBLISHED = Stage("published", 1, "a base that other machines can fetch", ("folder",))
WORLD_PROBLEMS = Stage("problems", 1, "synthetic problems", ("pretrained",))
PROBLEMS = Stage("problems", 3, "held-out problems and benchmarks of a user's study", ("rollouts", "file", "*"))
PROMPTS = Stage("prompts", 2, "the problems that a teacher is asked", ("problems",))
COMPLETIONS = Stage("completions", 2, "a teacher's answers", ("prompts",))
JOURNAL = Stage("journal", 1, "a teacher's answers as they come")
WORLD_ROLLOUTS = Stage("rollouts", 3, "the embedded teacher's rollouts", ("world", "problems"))
UNTRUNCATED = Stage("rollouts", 3, "those of the embedded teacher's rollouts that were not cut", ("rollouts",))
ROLLOUTS = Stage("rollouts", 3, "rollouts of a file or of a teacher, tokenised", ("file", "prompts", "completions"))
GRADE = Stage("grade", 2, "rewards and groups", ("rollouts",))
REFERENCE_LOGPROBS = Stage("reference", 1, "log-probabilities under the base", ("rollouts",))
GRADIENTS = Stage("gradients", 1, "how alike the methods' gradients are before training", ("rollouts",))
TRAIN = Stage("train", 2, "one adapter and its training curve", ("rollouts", "reference"))
KEPT = Stage("kept step", 1, "the adapter after one step of a training", ("rollouts", "reference"))
EVALUATE = Stage("evaluate", 5, "one model's graded answers", ("problems", "adapter"))
ACCURACY = Stage("accuracy", 5, "accuracy and paired tests of all models", ("*",))
TRUNCATE = Stage("truncate", 1, "an update's leading directions, or the rest of it, as an adapter", ("adapter",))
TRUNCATION = Stage("truncation", 1, "what leading directions and the rest carry: accuracy, loss, divergence", ("*",))
TRAJECTORY = Stage("trajectory", 1, "the way of one update through its training", ("adapter", "gradient", "*"))
KEPT_ACCURACY = Stage("kept accuracy", 1, "trajectories beside the accuracy at their steps", ("*",))
SOUP = Stage("soup", 1, "the sum or the mean of updates as an adapter", ("*",))
SOUPS = Stage("soups", 1, "what sums and means of updates change, beside what their parts predict", ("*",))
SPECTRUM = Stage("spectrum", 3, "singular values of one update", ("adapter",))
GEOMETRY = Stage("geometry", 4, "every measure of one pair of updates", ("a", "b"))
COMPARE = Stage("compare", 4, "the geometry of adapters that exist already", ("base", "*"))
BASE_MEASURES = Stage("base measures", 2, "what one update does to the base's weights", ("adapter",))
PATH_END = Stage("path end", 2, "losses and accuracy of one model on the paths' problems", ("adapter", "problems"))
PATH = Stage("path", 2, "losses and accuracy between two updates", ("a", "b", "problems"))
VISIBLE = Stage("visible overlap", 1, "which entries pairs of updates change both, in bfloat16", ("*",))
MOMENTS = Stage("second moments", 1, "second moments of modules' inputs under the base", ("problems", "texts"))
ACTIVATIONS = Stage(
    "activation geometry", 1, "the activation-weighted cosine of all pairs of updates", ("moments", "*")
)
MERGE_LOSSES = Stage("merge losses", 1, "losses between adapters, and of their sum, on given texts", ("texts", "*"))
TEXTS = Stage("texts", 1, "texts that nobody trained on", ("file",))
RETENTION = Stage(
    "retention",
    1,
    "what runs forget, and how far they are from the base on its own answers",
    ("problems", "texts", "*"),
)
FUNCTIONS = Stage("functions", 2, "CKA, logit lens and divergences of all models", ("problems", "*"))

STAGES = tuple(value for value in vars().values() if isinstance(value, Stage))
