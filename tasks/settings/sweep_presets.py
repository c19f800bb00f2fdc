"""Named sweeps: a study's values and which cells. Docstrings as in `tasks.settings.presets`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tasks.core.errors import InputError, nearest
from tasks.settings.presets import PRESETS, preset

Values = dict[str, Any]


def tiny_sweep() -> tuple[Values, Values]:
    """Two seeds, three learning rates a factor of ten apart, the six methods, in the default study's world.

    ``colinear sweep tiny-sweep`` took 20.5 minutes on two cores (n = 1, in two goes): pretraining and rollouts 2, 44
    trainings, two at a time; answers of 44 models to 660 problems, 28 paths and 44 ends, the geometry of 168 pairs,
    seven pages. A seed more costs about 9: ``--seeds 0,1,2`` later trains only what is new. Not measured since the
    student branches off from the teacher (`tiny`): what it costs and finds is to be seen anew.

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
        "replicates": ["sft"],
        "init_replicates": [],
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
