"""What pairs of updates look like, on updates whose relation is known by construction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from tasks.core.frames import RELATIONS
from tasks.core.results import RunInfo
from tasks.geometry.delta import Dense, Factors, LoraDelta
from tasks.geometry.relations import (
    COPY,
    ONE_TRAINING,
    OTHER_TRAINING,
    SAME_TASK,
    THRESHOLDS,
    UNKNOWN,
    UNRELATED,
    Evidence,
    Relation,
    calibrated,
    evidence_of,
    relation,
    relations_frame,
)
from tasks.geometry.tables.build import geometry
from tests.lab.frames import WHOLE
from tests.lab.updates import Memory, infos, mapped

OUT, IN, R = 48, 40, 4
MODULES = [f"model.layers.{layer}.self_attn.{name}" for layer in range(3) for name in ("q_proj", "v_proj")]
Make = Callable[[np.random.Generator, str], Factors]


def built(make: Make, seed: int) -> LoraDelta:
    """An adapter, module by module; draws of a module depend on the seed and its name."""
    return LoraDelta({name: make(np.random.default_rng((seed, place)), name) for place, name in enumerate(MODULES)})


def start(seed: int, name: str) -> np.ndarray:
    """lora_A as drawn before the first step, (R, IN)."""
    return np.random.default_rng((99, seed, MODULES.index(name))).standard_normal((R, IN))


def gradient(seed: int, name: str) -> np.ndarray:
    """(OUT, IN) what a task asks for: one strong direction and three weaker ones."""
    rng = np.random.default_rng((7, seed, MODULES.index(name)))
    left, right = rng.standard_normal((OUT, R)), rng.standard_normal((R, IN))
    return left * np.array([4.0, 1, 1, 1]) @ right


def trained(task: int, begun: int, order: int, noise: float = 0.1) -> LoraDelta:
    """B after one large step from B = 0: the gradient times lora_A^T, with the noise of an order."""

    def make(rng: np.random.Generator, name: str) -> Factors:
        a = start(begun, name)
        b = gradient(task, name) @ a.T
        return Factors(b + noise * np.abs(b).mean() * rng.standard_normal(b.shape), a, 1.0)

    return built(make, order)


def evidence(*adapters: LoraDelta) -> Evidence:
    sources = [Memory(one.modules, f"adapter {i}") for i, one in enumerate(adapters)]
    return evidence_of(geometry(sources, infos(len(adapters)), (1,), workers=1).pair_metrics)[0]


def kind(*adapters: LoraDelta) -> str:
    return relation(evidence(*adapters)).kind


def mixed(delta: LoraDelta, seed: int = 3) -> LoraDelta:
    """The same update in other factors: ``B G^-1`` and ``G A`` with a random G."""
    mix = np.random.default_rng(seed).standard_normal((R, R))
    return mapped(delta, lambda f: f._replace(B=f.B @ np.linalg.inv(mix), A=mix @ f.A))


def test_copies_scaled_copies_and_copies_in_other_factors() -> None:
    one = trained(0, 0, 0)
    assert relation(evidence(one, one)) == Relation(COPY, "equal to the last digit")
    doubled = mapped(one, lambda f: f._replace(scale=2.0))
    assert relation(evidence(doubled, one)) == Relation(COPY, "scaled by 2, else equal")
    assert kind(one, mixed(one)) == COPY
    nearly = mapped(one, lambda f: f._replace(B=f.B + 1e-3 * np.roll(f.B, 1, axis=0)))
    assert kind(one, nearly) == ONE_TRAINING


def test_one_start_tells_trainings_apart_by_the_cosine() -> None:
    assert kind(trained(0, 0, 0), trained(0, 0, 1)) == ONE_TRAINING
    assert kind(trained(0, 0, 0), trained(1, 0, 1)) == OTHER_TRAINING


def test_a_start_is_shared_whatever_basis_it_is_in() -> None:
    one, other = trained(0, 0, 0), mixed(trained(1, 0, 1))
    found = evidence(one, other)
    assert (found.start or 0) < THRESHOLDS.start[0] < THRESHOLDS.space[1] < (found.input or 0)
    assert relation(found).kind == OTHER_TRAINING
    assert kind(one, mixed(trained(0, 0, 1))) == ONE_TRAINING


def test_two_starts_tell_tasks_apart_by_the_output_directions() -> None:
    same, other = evidence(trained(0, 0, 0), trained(0, 1, 1)), evidence(trained(0, 0, 0), trained(1, 1, 1))
    assert (same.cosine or 1) < 0.5  # which alone would say little
    assert (relation(same).kind, relation(other).kind) == (SAME_TASK, UNRELATED)


def test_which_of_the_two_comes_first_does_not_matter() -> None:
    for other in (trained(0, 0, 1), trained(1, 0, 1), trained(0, 1, 1), trained(1, 1, 1)):
        one, two = (relation(evidence(*pair)) for pair in ((trained(0, 0, 0), other), (other, trained(0, 0, 0))))
        assert one.kind == two.kind


def test_a_zero_update_and_values_between_the_thresholds_are_not_called_anything() -> None:
    one = trained(0, 0, 0)
    nothing = mapped(one, lambda f: f._replace(B=np.zeros_like(f.B)))
    assert kind(one, nothing) == UNKNOWN
    shared, apart = evidence(one, trained(0, 0, 1)), evidence(one, trained(0, 1, 1))
    between = sum(THRESHOLDS.training) / 2
    assert relation(replace(shared, cosine=between)).kind == UNKNOWN
    assert relation(replace(apart, left=sum(THRESHOLDS.task) / 2)).kind == UNKNOWN
    assert relation(replace(apart, start=None, input=None)).kind == UNKNOWN


def test_opposite_updates_are_no_relation_of_trainings() -> None:
    one = trained(0, 0, 0)
    assert kind(one, mapped(one, lambda f: f._replace(B=-f.B))) == UNKNOWN


@pytest.mark.parametrize("rank", [2, 8])
def test_two_ranks_have_no_lora_a_to_compare_but_input_spaces(rank: int) -> None:
    rng = np.random.default_rng(rank)
    other = LoraDelta(
        {name: Factors(rng.standard_normal((OUT, rank)), rng.standard_normal((rank, IN)), 1.0) for name in MODULES}
    )
    found = evidence(trained(0, 0, 0), other)
    assert found.start is None
    assert relation(found).kind == UNRELATED


def test_the_frame_has_a_row_a_pair_with_its_evidence() -> None:
    sources = [
        Memory(one.modules, f"adapter {i}")
        for i, one in enumerate([trained(0, 0, 0), trained(0, 0, 1), trained(1, 1, 0)])
    ]
    metrics = geometry(sources, infos(3), (1,), workers=1).pair_metrics
    frame = relations_frame(metrics)
    assert dict(frame.schema) == RELATIONS
    assert frame.select("run_a", "run_b", "relation", "related", "modules").rows() == [
        ("run0", "run1", ONE_TRAINING, True, len(MODULES)),
        ("run0", "run2", UNRELATED, False, len(MODULES)),
        ("run1", "run2", UNRELATED, False, len(MODULES)),
    ]
    whole = metrics.filter(*WHOLE, metric="u1_overlap")
    assert frame["u1_overlap"].to_list() == whole["value"].to_list()


def named(*pairs: tuple[str, str]) -> list[RunInfo]:
    """(run, method) each."""
    return [RunInfo(run, method, None, None, None) for run, method in pairs]


def test_a_repeat_that_is_known_calibrates_the_others() -> None:
    """Two orders with little noise: what is farther from them than they from each other is not called one training."""
    near = [trained(0, 0, order, noise=0.05) for order in (0, 1)]
    far = trained(0, 0, 2, noise=0.4)
    sources = [Memory(one.modules, f"adapter {i}") for i, one in enumerate([*near, far])]
    told = {}
    for second in ("b", "a"):
        runs = named(("a", "a"), ("again", second), ("c", "c"))
        frame = relations_frame(geometry(sources, runs, (1,), workers=1).pair_metrics)
        told[second] = frame["relation"].to_list()
    assert told["b"] == [ONE_TRAINING] * 3
    assert told["a"] == [ONE_TRAINING, UNKNOWN, UNKNOWN]


def test_repeats_from_two_initialisations_raise_what_output_directions_take_and_noisy_ones_lower_nothing() -> None:
    one = evidence(trained(0, 0, 0), trained(0, 1, 1))
    near = replace(one, left=0.9)
    assert calibrated([near]).task == (THRESHOLDS.task[0], 0.9)
    assert calibrated([near]).training == THRESHOLDS.training
    assert calibrated([replace(one, left=0.1)]) == calibrated([]) == THRESHOLDS


def test_whole_models_have_no_initialisation_to_compare() -> None:
    rng = np.random.default_rng(0)
    whole = [Memory({name: Dense(rng.standard_normal((OUT, IN))) for name in MODULES}, f"model {i}") for i in range(2)]
    metrics = geometry(whole, named(("a", "a"), ("b", "b")), (1, 10), workers=1).pair_metrics
    assert relations_frame(metrics, ["a", "b"])["relation"].to_list() == [UNKNOWN]
