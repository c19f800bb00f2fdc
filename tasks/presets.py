"""Named studies. Each docstring gives its command, its cost and the numbers to expect.

A preset is a function that returns nested values; the user's own settings are put on top before anything is checked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tasks.contracts import InputError
from tasks.settings import nearest

Values = dict[str, Any]


def tiny() -> Values:
    """The default: the whole study in a small world that it makes itself.

    ``colinear study tiny``; 6 to 7 minutes on two cores, no GPU, 30 MB of disk. Expect: student .55-.75, teacher
    above .95 on held-out problems; cosine to SFT near .98 for RFT and RIFT (their noise floor is .975), .85 for Offline
    GRPO, .88 for DFT, about 0 for DPO (as measured at seed 0).
    """
    return {"name": "tiny", "train": {"precision": "mixed"}, "paths": {"n": 48}}


def smoke() -> Values:
    """The same in a minute, for tests: smaller network, shorter problems. The numbers mean little.

    ``colinear study smoke``; 54 s in the flow, 75 s as a process, on two cores.
    """
    return {
        "name": "smoke",
        "init_twins": [],
        "tiny": {
            "hidden": 64,
            "layers": 2,
            "intermediate": 256,
            "max_operand": 10,
            "step_mix": [1.0, 0.0, 0.0],
            "hard_steps": [3, 3],
            "max_steps": 800,
            "lr": 4e-3,
            "snapshot_every": 5,
            "teacher_accuracy": 0.9,
            "dev_problems": 200,
        },
        "rollouts": {"prompts": 96, "k": 4, "max_new_tokens": 64},
        "lora": {"r": 4, "alpha": 8.0},
        "train": {"steps": 10, "batch_size": 16, "precision": "mixed"},
        "evaluation": {"n": 128, "hard_n": 32, "max_new_tokens": 64},
        "geometry": {"ks": [1, 4]},
        "paths": {"n": 32},
        "functions": {"n": 32},
    }


def own() -> Values:
    """Your own rollouts, or your own teacher, on your own model; chosen by itself when either is given.

    ``colinear study --rollouts FILE --set model.base=DIR_OR_HUB_ID``; cost and numbers are your model's.
    """
    return {
        "name": "own",
        "rollouts": {"max_new_tokens": 128, "batch_size": 64},
        "train": {"steps": 40, "batch_size": 32, "lr": 5e-4},
        "evaluation": {"n": 200, "hard_n": 0, "max_new_tokens": 128, "batch_size": 64},
        "paths": {"n": 64},
        "functions": {"n": 64},
    }


PRESETS: dict[str, Callable[[], Values]] = {"tiny": tiny, "smoke": smoke, "own": own}


def preset(name: str) -> Values:
    """The values of a named study. Raises `InputError` with the known names."""
    if name not in PRESETS:
        raise InputError(f"preset {name!r}: unknown{nearest(name, PRESETS)}; `colinear presets` lists them")
    return PRESETS[name]()


def summary(name: str) -> str:
    """The first line of a preset's docstring."""
    return (PRESETS[name].__doc__ or "").strip().splitlines()[0]
