"""Rows of a data set on the Hugging Face Hub, by `datasets`: data files only, never a script of the data set's."""

from __future__ import annotations

from collections.abc import Iterator

from tasks.core.errors import InputError
from tasks.core.rows import Row

PREFIX = "hub:"


def parse_hub(name: str) -> tuple[str, str | None, str]:
    """``hub:org/name[:config][:split]`` -> (data set, config or None, split); one part alone is the split, or "test".

    Raises `InputError` for anything else.
    """
    dataset, *rest = name.removeprefix(PREFIX).split(":")
    parts = [part for part in (dataset, *rest) if part]
    if len(parts) != 1 + len(rest) or len(rest) > 2 or dataset.count("/") != 1 or not all(dataset.split("/")):
        raise InputError(f"{name}: expected hub:org/name, hub:org/name:split or hub:org/name:config:split")
    config = rest[0] if len(rest) == 2 else None
    return dataset, config, rest[-1] if rest else "test"


def hub_rows(dataset: str, config: str | None, split: str) -> Iterator[Row]:
    """The rows of one split, from the local cache where they were had before.

    Raises `InputError`, one line, where they cannot be had: no network, no such data set, config or split, or a data
    set that needs code to be read.
    """
    source = ":".join(part for part in (f"{PREFIX}{dataset}", config, split) if part)
    try:
        from datasets import load_dataset
        from datasets.utils.logging import disable_progress_bar

        disable_progress_bar()
        rows = load_dataset(dataset, config, split=split)
    except Exception as error:  # network, Hub, file formats: a dozen unrelated classes, all the user's to solve
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise InputError(
            f"{source}: not to be had from the Hub ({reason[:200]}); check name, config and split and the network, or "
            "give a local file"
        ) from error
    for number, values in enumerate(rows, start=1):
        yield Row(f"{source}, row {number}", values)
