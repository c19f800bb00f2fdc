"""Largest deviation of every measure from its dense definition; ``python -m tests.definitions.deviations`` prints
it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from tasks.geometry.spectrum import RANKS
from tasks.geometry.tables.build import geometry
from tasks.geometry.updates.measure import resolve_ks
from tasks.geometry.updates.metrics import PAIR_METRICS
from tests.definitions.geometry import pair_value, spectrum_value
from tests.lab.adapter_cases import CASES, Case
from tests.lab.updates import infos

KS = (1, 2)
RELATIVE = ("norm_ratio", "singular_value", "norm")
"""Of quantities with a scale: the deviation divided by the dense value (of a singular value: by the norm)."""


def deviations(which: Callable[[str], bool] = lambda name: True) -> dict[str, float]:
    """Measure -> largest absolute deviation from the dense definition over the chosen `CASES`.

    Degrees for angles; relative for `RELATIVE`. ``inf`` where one of the two is defined and the other is not.
    """
    worst: dict[str, float] = {}
    for name in filter(which, CASES):
        for metric, found in case_deviations(name).items():
            worst[metric] = max(worst.get(metric, 0.0), found)
    return worst


def case_deviations(name: str) -> dict[str, float]:
    """As `deviations`, of one case. Raises `AssertionError` where the frames have other rows than they should."""
    with tempfile.TemporaryDirectory() as folder, threadpool_limits(1):
        return _case_deviations(CASES[name](Path(folder)))


def _case_deviations(case: Case) -> dict[str, float]:
    ks = resolve_ks(KS, case.sources)
    measured = geometry(case.sources, infos(len(case.sources)), KS, workers=1)
    worst: dict[str, float] = {}
    columns = ["run_a", "run_b", "module", "layer", "projection", "metric", "k"]
    expected = dict(_pair_rows(case, ks))
    found = {row[:-1]: row[-1] for row in measured.pair_metrics.select([*columns, "value"]).rows()}
    spectra = {row[:-1]: row[-1] for row in measured.spectra.select(["run", *columns[2:], "value"]).rows()}
    sizes = {key[:2]: value for key, value in spectra.items() if key[4:] == ("norm", None)}
    for known, rows in ((expected, found), (dict(_spectrum_rows(case)), spectra)):
        assert set(rows) == set(known), set(rows) ^ set(known)
        for key, value in rows.items():
            metric, truth = str(key[-2]), known[key]
            scale = truth if metric in RELATIVE else 1.0
            if metric == "singular_value":
                scale = sizes[key[:2]]
            worst[metric] = max(worst.get(metric, 0.0), _deviation(value, truth, abs(scale or 1.0)))
    return worst


def _deviation(value: float | None, truth: float, scale: float) -> float:
    if value is None or np.isnan(truth):
        return 0.0 if value is None and np.isnan(truth) else np.inf
    return abs(value - truth) / scale


def _groups(case: Case) -> Iterator[tuple[tuple[str, int | None, str | None], list[str]]]:
    """What a row is of -> its modules."""
    layers, projections = ({place[i]: None for place in case.places.values()} for i in (0, 1))
    yield ("*", None, None), list(case.places)
    for layer in layers:
        yield ("*", layer, None), [name for name, place in case.places.items() if place[0] == layer]
    for projection in projections:
        yield ("*", None, projection), [name for name, place in case.places.items() if place[1] == projection]
    for name, place in case.places.items():
        yield (name, *place), [name]


def _pair_rows(case: Case, ks: tuple[int, ...]) -> Iterator[tuple[tuple, float]]:
    for i, j in combinations(range(len(case.sources)), 2):
        for place, names in _groups(case):
            a, b = ({name: case.formed[one][name] for name in names} for one in (i, j))
            widest = max(min(a[name].width, b[name].width) for name in names)
            for metric, kind in PAIR_METRICS.items():
                for k in [k for k in ks if k <= widest] if kind.by_k else [None]:
                    value = case.known.get((metric, k or 0), pair_value(metric, k, a, b))
                    yield (f"run{i}", f"run{j}", *place, metric, k), value


def _spectrum_rows(case: Case) -> Iterator[tuple[tuple, float]]:
    for i, formed in enumerate(case.formed):
        for place, names in [(("*", None, None), list(case.places)), *(((n, *p), [n]) for n, p in case.places.items())]:
            modules = {name: formed[name] for name in names}
            incomplete = any(one.width < min(one.w.shape) and one.lora_a is None for one in modules.values())
            for metric in ("norm", *RANKS):
                value = np.nan if incomplete and metric in RANKS else spectrum_value(metric, None, modules)
                yield (f"run{i}", *place, metric, None), value
            for k in range(1, modules[names[0]].width + 1) if len(names) == 1 and place[0] != "*" else ():
                yield (f"run{i}", *place, "singular_value", k), spectrum_value("singular_value", k, modules)


def main() -> None:
    """Print the table."""
    usual, ill = (deviations(lambda name, want=want: name.startswith("condition") == want) for want in (False, True))
    print(f"{'measure':30} {'all but ill-conditioned':>24} {'condition 1e3 to 1e9':>24}")
    for metric in usual:
        unit = " (degrees)" if metric.startswith("angle") else " (relative)" if metric in RELATIVE else ""
        print(f"{metric + unit:38} {usual[metric]:16.1e} {ill[metric]:24.1e}")


if __name__ == "__main__":
    main()
