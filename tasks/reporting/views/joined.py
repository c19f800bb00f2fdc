"""Every pair of methods before training, after it, and by what their updates do to the inputs that occur."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

from tasks.core.results import RunInfo
from tasks.reporting.estimates import Estimate
from tasks.reporting.views.before import before_of, trained_as
from tasks.reporting.views.pairs import Geometry
from tasks.reporting.views.study import Study

GRADIENT, TRAINED, WEIGHTED = "first gradient", "trained update", "weighted by inputs"
"""What the cosine of a pair is taken of, in the order of a training."""
METRICS = {TRAINED: "cosine", WEIGHTED: "activation_cosine"}


@dataclass(frozen=True)
class Joined:
    """One pair of runs. ``is_floor``: it is the reference with itself, in another data order or initialisation."""

    a: RunInfo
    b: RunInfo
    is_floor: bool
    found: Mapping[str, Estimate]
    """The cosines that were measured; of gradients that without the noise of the rows."""
    floors: Mapping[str, float]
    """Of TRAINED and WEIGHTED the lowest that a method of the pair has with itself in another data order."""

    def value(self, name: str) -> float | None:
        """One of the cosines."""
        return self.found[name].value if name in self.found else None


def joined_pairs(study: Study) -> list[Joined]:
    """The floors of the reference, then every two methods from the nearest trained pair to the farthest.

    Empty where fewer than two of the three cosines were measured.
    """
    view = study.geometry
    if view.reference is None:
        return []
    floors = [(view.reference, other) for other in view.runs if view.replicate(view.reference, other)]
    methods = combinations(trained_as(view).values(), 2)
    pairs = [_joined(study, a, b, is_floor=True) for a, b in floors]
    pairs += sorted((_joined(study, a, b, is_floor=False) for a, b in methods), key=_farther)
    measured = {name for pair in pairs for name in pair.found}
    return pairs if TRAINED in measured and len(measured) > 1 else []


def _farther(pair: Joined) -> float:
    trained = pair.value(TRAINED)
    return 2.0 if trained is None else -trained


def _joined(study: Study, a: RunInfo, b: RunInfo, *, is_floor: bool) -> Joined:
    view, before = study.geometry, before_of(study.gradients)
    found: dict[str, Estimate] = {name: view.estimate(a.run, b.run, metric) for name, metric in METRICS.items()}
    if not is_floor and before and (start := before.of(a.method, b.method)):
        found[GRADIENT] = start.corrected
    known = {name: one for name, one in found.items() if one.value is not None}
    return Joined(a, b, is_floor, known, {} if is_floor else _floors(view, a, b))


def _floors(view: Geometry, a: RunInfo, b: RunInfo) -> dict[str, float]:
    measured = {name: view.likeness(a, b, metric).floor for name, metric in METRICS.items()}
    return {name: min(values) for name, values in measured.items() if values}
