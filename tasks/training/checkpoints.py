"""Checkpoints of a training that can be killed at any moment: written whole or not at all, verified before use.

transformers' Trainer writes adapter, optimiser, schedule, random state and its own state; here come the log so far and
what our trainers count, and a manifest last of all, beside the folder. A folder without its manifest, with a file that
has another digest, or of another training is no checkpoint. Resuming from one gives the same losses and, on a CPU, the
same bytes. Imports no torch.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tasks.core.digests import Damaged, build_manifest, verify
from tasks.core.events import damaged

STATE = "colinear.json"
LOG_COPY = "log.jsonl"
KEPT = 2
"""The newest, and one to fall back to where its files were damaged."""


@dataclass(frozen=True)
class Progressed:
    """What a checkpoint knows beyond the Trainer's own state."""

    step: int
    tokens: list[int]
    """Tokens of every batch that was trained on."""
    rows: list[int]
    """Rollouts of those batches, in order."""
    total_train_tokens: int
    limits: dict[str, Any]
    notes: list[str]
    owner: str = ""
    """Name of the folder that it was written to, which is the digest of its training's key."""


def seal(folder: Path, state: Progressed, log: Path) -> None:
    """Make what the Trainer wrote to ``folder`` a checkpoint, and drop all but the `KEPT` newest of its siblings."""
    state = replace(state, owner=folder.parent.name)
    (folder / STATE).write_text(json.dumps(asdict(state)), encoding="utf-8")
    shutil.copyfile(log, folder / LOG_COPY)
    finish(folder)
    for old in _found(folder.parent)[KEPT:]:
        drop(old)


def finish(folder: Path) -> None:
    """Write the manifest of ``folder`` beside it: from here on it is whole."""
    partial = _partial(folder)
    partial.write_text(json.dumps(build_manifest(folder)), encoding="utf-8")
    os.replace(partial, _manifest(folder))


def check(folder: Path) -> None:
    """Raise `Damaged` unless ``folder`` is as `finish` left it, or whatever its manifest raises that cannot be read."""
    verify(folder, json.loads(_manifest(folder).read_text(encoding="utf-8")))


def drop(folder: Path) -> None:
    """Delete ``folder`` and its manifest, that one first: from here on it is not whole."""
    for path in (_manifest(folder), _partial(folder)):
        path.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def newest(folder: Path) -> tuple[Path, Progressed] | None:
    """The newest sound checkpoint under ``folder``; what is not sound is deleted, and told where it was damaged."""
    bad: list[str] = []
    found = None
    for path in _found(folder):
        try:
            found = path, _sound(path)
            break
        except Exception as error:  # whatever its files hold by now
            if _manifest(path).exists():  # else it was being written when its process was killed
                bad.append(f"{path.name}: {error if isinstance(error, Damaged) else 'its manifest cannot be read'}")
            drop(path)
    goes_on = f"goes on from {found[0].name}" if found else "begins anew"
    for what in bad:
        damaged(f"{what}; {goes_on}")
    return found


def _sound(path: Path) -> Progressed:
    check(path)
    state = Progressed(**json.loads((path / STATE).read_text(encoding="utf-8")))
    if state.owner not in ("", path.parent.name) or f"checkpoint-{state.step}" != path.name:
        raise Damaged(f"it is step {state.step} of another training")
    return state


def _manifest(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.manifest.json")


def _partial(folder: Path) -> Path:
    return _manifest(folder).with_suffix(".partial")


def _found(folder: Path) -> list[Path]:
    """The checkpoint folders under ``folder``, whole or not, the newest first."""
    paths = [path for path in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    return sorted(paths, key=lambda path: -int(path.name.rpartition("-")[2]))


class Resumable:
    """Put before a TRL trainer: its checkpoints are sealed, and can be gone on from.

    `keep_checkpoints` says where; without it the trainer writes none.
    """

    def keep_checkpoints(self: Any, every: int, collator: Any, log: Path) -> None:
        """Write one every ``every`` steps (but the last) to the trainer's output folder, and when `stop` was called."""
        from transformers import TrainerCallback

        trainer = self
        trainer.collator, trainer.log_file, trainer.stopping = collator, log, False

        class Save(TrainerCallback):
            """Tells the Trainer when."""

            def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                if state.global_step < state.max_steps:
                    control.should_save = trainer.stopping or state.global_step % every == 0
                    control.should_training_stop |= trainer.stopping  # another callback may have said so

        trainer.add_callback(Save())

    def stop(self) -> None:
        """Write a checkpoint after the step under way, then end `train`."""
        self.stopping = True

    def resume(self: Any) -> str | None:
        """The folder to hand to `train`, with everything but the Trainer's own state restored; None: begin."""
        found = newest(Path(self.args.output_dir))
        if found is None:
            return None
        folder, state = found
        self.collator.restore(state.rows, state.tokens)
        self._total_train_tokens = state.total_train_tokens
        kept = type(self.limits)(**state.limits)
        self.set_limits(self.limits.within(kept) if self.killed else kept)
        self.notes = list(dict.fromkeys([*state.notes, *self.notes]))
        shutil.copyfile(folder / LOG_COPY, self.log_file)
        return str(folder)

    def _save_checkpoint(self: Any, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)  # type: ignore[misc]
        step = self.state.global_step
        state = Progressed(
            step=step,
            tokens=self.collator.tokens_by_batch[:step],  # the loader is a batch ahead
            rows=self.collator.seen[: step * self.args.train_batch_size],
            total_train_tokens=self._total_train_tokens,
            limits=asdict(self.limits),
            notes=self.notes,
        )
        seal(Path(self.args.output_dir) / f"checkpoint-{step}", state, self.log_file)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """None: TRL would write one into every checkpoint."""


@contextmanager
def ending_well(trainer: Resumable) -> Iterator[None]:
    """Within it, SIGTERM lets ``trainer`` write a checkpoint; the process then dies of that signal as it would have.

    Only in a process's main thread, where alone Python handles signals; elsewhere SIGTERM does what it did.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: trainer.stop())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
    if getattr(trainer, "stopping", False):
        with suppress(ProcessLookupError):
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
