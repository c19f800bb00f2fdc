"""Intruder dimensions: leading singular directions of the updated weight that the base weight does not have."""

from __future__ import annotations

import numpy as np

from tasks.geometry.delta import Array

EPSILON = 0.5
"""Below this |cosine| to every base direction a direction is an intruder.

The paper treats it as a free parameter and sweeps it; .5 with k = 10 are the defaults of PEFT's implementation of the
paper (``peft.tuners.lora.intruders``, 0.21), so our counts are comparable with it.
"""


def intruder_dimensions(cosines: Array, epsilon: float = EPSILON) -> int:
    """How many of k directions are intruders (Shuttleworth et al., arXiv 2410.21228): 0..k.

    ``cosines`` (n, k) = U_0^T U_k: ALL n left singular vectors of the base weight against the k leading ones of the
    updated weight; signs do not matter. With no base direction at all (a zero weight) every direction is an intruder.
    """
    return int(np.count_nonzero(np.abs(cosines).max(axis=0, initial=0.0) < epsilon))
