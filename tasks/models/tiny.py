"""Pretrains the embedded small world's student and teacher: one tiny Qwen3, seen at two moments.

The teacher is the final exponential average of the weights; the student is the average at the snapshot whose greedy
accuracy on the dev problems is nearest ``spec.student_accuracy``. Runs in one process or in two that each hold half of
every batch (gloo): an example belongs to a batch by its global index, so the number of processes changes only the
rounding of sums.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.contracts import InputError, Progress, no_progress
from tasks.models.tiny_batches import Encoded, pack
from tasks.models.tokenizer import build_tokenizer
from tasks.problems.overlap import question_key
from tasks.problems.synthetic import check, dev_problems, instruct, pretraining_example, solve, vocabulary
from tasks.specs import TinySpec

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.models.tiny_network import Averaged

MAX_LENGTH = 256
ROW_TOKENS = 160
EVAL_ROW_TOKENS = 256
EVAL_EXAMPLES = 100
WARMUP_STEPS = 50
CHECK_EVERY = 25
CHECK_BELOW_LOSS = 0.5
STUDENT_RANGE = (0.55, 0.75)
