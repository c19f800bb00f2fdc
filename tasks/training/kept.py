"""The adapter of a training as PEFT saves it: at its end, and of chosen steps on the way.

Those of steps lie in a folder that outlives the worker, each whole or not at all: a training that is killed and goes on
from a checkpoint has them all, since those before the checkpoint are there and those after it are written again.
Imports no torch.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.core.digests import Damaged
from tasks.core.events import damaged
from tasks.training.checkpoints import check, drop, finish

CONFIG = "adapter_config.json"


def save_adapter(model: Any, folder: Path) -> None:
    """Write ``model``'s adapter as PEFT does, less what depends on the place or the process.

    Those are the base's path, the model card that repeats it, and the order of the target modules, which PEFT keeps as
    a set: any of them would give two equal adapters different digests.
    """
    model.save_pretrained(folder, safe_serialization=True, selected_adapters=["default"])
    (folder / "README.md").unlink(missing_ok=True)
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = None
    config["target_modules"] = sorted(config["target_modules"])
    write_config(folder, config)


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    """``config`` as the adapter's of ``folder``."""
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def keep_callback(trainer: Any, folder: Path, steps: Sequence[int], before: int = 0, *, last: bool) -> Any:
    """A Trainer callback that writes the adapter after each of ``steps``, of which ``before`` were taken in earlier
    phases, to ``folder``; ``last``: and ends the training after the last of them."""
    from transformers import TrainerCallback

    class Keep(TrainerCallback):
        """See `keep_callback`."""

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            step = before + state.global_step
            if step in steps:
                place = _place(folder, step)
                drop(place)
                save_adapter(trainer.model, place)
                finish(place)
            if last and step >= max(steps):
                control.should_training_stop = True

    return Keep()


def is_kept(folder: Path, step: int) -> bool:
    """Whether ``folder`` has the adapter of this step, whole; one that is not is deleted, and told where it was
    damaged."""
    place = _place(folder, step)
    try:
        check(place)
    except FileNotFoundError:  # no manifest: it was never written, or its process was killed while it was
        drop(place)
        return False
    except Exception as error:  # whatever its files hold by now
        damaged(f"{place.name}: {error if isinstance(error, Damaged) else 'its manifest cannot be read'}; made anew")
        drop(place)
        return False
    return True


def copy_kept(folder: Path, step: int, to: Path) -> None:
    """Copy the adapter of this step to ``to``, which is made."""
    shutil.copytree(_place(folder, step), to)


def forget(folder: Path, steps: Sequence[int]) -> None:
    """Delete the adapters of ``steps``, and the folder with the last of all that it has."""
    for step in steps:
        drop(_place(folder, step))
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _place(folder: Path, step: int) -> Path:
    return folder / f"step-{step}"
