"""One base with all adapters on it, one of which acts at a time: no merging, no second copy of the base."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.core.errors import InputError
from tasks.geometry.adapters.peft_config import explain, read_json

SWITCHABLE = ("use_dora", "modules_to_save")
"""Not scale * B A, but PEFT switches them on and off like it."""


def check_switchable(folder: Path) -> None:
    """Raise `InputError` unless PEFT can hold the adapter beside others, with the base as it was.

    Plain LoRA in all its ranks and scalings, DoRA and saved modules; not initialisations that change the base.
    """
    config = {name: value for name, value in read_json(folder).items() if name not in SWITCHABLE}
    if reason := explain(config):
        raise InputError(f"{folder}: cannot be measured beside other adapters on one base ({reason}); leave it out")


class Switched:
    """``model`` (a causal language model) with ``adapters`` (run -> PEFT directory, or None for the base itself).

    Raises `InputError` naming the adapter that does not fit the base.
    """

    def __init__(self, model: Any, adapters: Mapping[str, Path | None]) -> None:
        self.model = model
        """The causal language model; its layers are wrapped, so it acts as the active run."""
        self._names: dict[str, str | None] = {}
        self._wrapped: Any = None
        for number, (run, folder) in enumerate(adapters.items()):
            self._names[run] = None
            if folder is not None:
                self._names[run] = f"adapter{number}"  # PEFT's names are module names: a run's may hold a dot
                self._load(folder, f"adapter{number}")
        self.model.eval()

    def activate(self, run: str) -> None:
        """From now on `model` is the base with the adapter of ``run``, or the bare base."""
        name = self._names[run]
        if self._wrapped is None:
            return
        if name is None:
            self._wrapped.base_model.disable_adapter_layers()
        else:
            self._wrapped.base_model.enable_adapter_layers()
            self._wrapped.set_adapter(name, inference_mode=True)

    def _load(self, folder: Path, name: str) -> None:
        from peft import PeftModel

        check_switchable(folder)
        try:
            if self._wrapped is None:
                self._wrapped = PeftModel.from_pretrained(self.model, str(folder), adapter_name=name)
            # Again for the first: only this way does PEFT tell which weights it missed.
            loaded = self._wrapped.load_adapter(str(folder), name)
        except (RuntimeError, ValueError, KeyError, OSError) as error:
            said = " ".join(str(error).split())[:300] or type(error).__name__
            raise InputError(f"{folder}: does not fit the base: {said}") from error
        for keys, what in ((loaded.missing_keys, "lacks"), (loaded.unexpected_keys, "has, without a place for them,")):
            if keys:
                raise InputError(f"{folder}: does not fit the base: it {what} {len(keys)} weights, such as {keys[0]}")
