"""Who the compared adapters are: their columns in every table, which of them are replicates, and which is the
reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from tasks.core.errors import InputError, nearest
from tasks.core.results import RunInfo


def identify(labels: Sequence[str], known: Mapping[str, RunInfo], replicates: Sequence[str] = ()) -> list[RunInfo]:
    """One `RunInfo` a label. ``known``: label -> what MLflow knows of it; of a stranger the method is the label.

    Each of ``replicates`` is ``A=B``: B is the method of A, trained again with its learning rate. Raises `InputError`
    for a replicate that is no label, and where the two are known to have different learning rates.
    """
    infos = {label: RunInfo(label, label, None, None, None) for label in labels}
    infos |= {label: replace(info, run=label) for label, info in known.items() if info.seed is not None}
    for replicate in replicates:
        first, second = _pair(replicate, labels)
        a, b = infos[first], infos[second]
        if a.lr is not None and b.lr is not None and a.lr != b.lr:
            raise InputError(
                f"--replicate {replicate}: their learning rates are {a.lr:g} and {b.lr:g}; replicates share one"
            )
        lr = a.lr if a.lr is not None else b.lr
        infos[first], infos[second] = replace(a, lr=lr), replace(b, method=a.method, lr=lr)
    return list(infos.values())


def choose_reference(labels: Sequence[str], reference: str | None) -> str:
    """``reference`` if it is a label, the first label where None is asked for. Raises `InputError`."""
    if reference is None:
        return labels[0]
    if reference not in labels:
        raise InputError(f"--reference {reference}: no adapter of that name{nearest(reference, labels)}")
    return reference


def _pair(replicate: str, labels: Sequence[str]) -> tuple[str, str]:
    """``A=B`` into two labels, either of which may hold an equals sign itself."""
    cuts = [
        (replicate[:place], replicate[place + 1 :]) for place, character in enumerate(replicate) if character == "="
    ]
    if not cuts:
        raise InputError(f"--replicate {replicate}: expected A=B, two names of adapters")
    both = [cut for cut in cuts if cut[0] in labels and cut[1] in labels]
    if not both:
        first, second = cuts[0]
        unknown = second if first in labels else first
        raise InputError(f"--replicate {replicate}: no adapter {unknown!r}{nearest(unknown, labels)}")
    if both[0][0] == both[0][1]:
        raise InputError(f"--replicate {replicate}: an adapter is not its own replicate")
    return both[0]
