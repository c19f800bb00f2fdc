"""Named sweeps: a study's values and which cells. Docstrings as in `tasks.presets`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tasks.contracts import InputError
from tasks.presets import PRESETS, preset
from tasks.settings import nearest

Values = dict[str, Any]


def tiny_sweep() -> tuple[Values, Values]:
    """Two seeds, three learning rates a factor of ten apart, the six methods, in the default study's world.

    ``colinear sweep tiny-sweep``; estimated at 20 to 25 minutes on two cores, never run whole by us. From the seconds
    of the default study: 44 trainings at 35 CPU seconds, two at a time, 13 minutes; pretraining and rollouts 2; answers
    of 47 models to 660 problems 2 to 3; 24 paths and the geometry of 168 pairs 2; seven pages 1 to 2. A seed more
    costs 9 to 10 minutes: ``--seeds 0,1,2`` later trains only what is new.

    Each cell trains SFT, RFT, DFT, RIFT, Offline GRPO and DPO at one rate, DPO at a tenth of it (its default) and at
    the same (``matched``), and SFT once more in another order of the data. That order is one for both seeds, so two
    cells of one rate differ in the initialisation alone. Cells measure accuracy, on 660 problems, and the geometry of
    pairs; paths only between the same method at two seeds.

    Training is that of the `tiny` study, whose adapters serve as they are. ``train.stop_above_start`` stays unset, as
    DFT's loss, -p log p a token, rises before it falls where tokens are improbable. In the default study the mean of
    its steps 11 to 20 is .0139, above the .0134 of the first ten, and it does well. A loss that is not finite ends a
    run in any case.
    """
    values = preset("tiny") | {
        "name": "tiny-sweep",
        "data_seed": 0,
        "twins": ["sft"],
        "init_twins": [],
        "matched": ["dpo"],
        "evaluation": {"n": 660, "hard_n": 0},
        "geometry": {"base_measures": False},
        "paths": {"n": 0},
        "functions": {"n": 0},
    }
    return values, {"seeds": [0, 1], "lrs": [1e-4, 1e-3, 1e-2]}


SWEEPS: dict[str, Callable[[], tuple[Values, Values]]] = {"tiny-sweep": tiny_sweep}


def sweep_preset(name: str) -> tuple[Values, Values]:
    """Values of a study and of a sweep over it; a study's preset has no cells of its own. Raises `InputError`."""
    if name in SWEEPS:
        return SWEEPS[name]()
    if name in PRESETS:
        return preset(name), {}
    raise InputError(f"preset {name!r}: unknown{nearest(name, [*SWEEPS, *PRESETS])}; `colinear presets` lists them")


def summary(name: str) -> str:
    """The first line of a sweep's docstring."""
    return (SWEEPS[name].__doc__ or "").strip().splitlines()[0]
