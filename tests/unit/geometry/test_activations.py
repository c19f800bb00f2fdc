"""The activation-weighted cosine: outputs on real inputs, dense and slow; its nulls by brute force; low rank; a model's
inputs one text at a time."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from tasks.core.errors import InputError
from tasks.core.results import LocalBase
from tasks.geometry.activations.collect import collect
from tasks.geometry.activations.measure import measure_moments
from tasks.geometry.activations.moments import Moment, Moments, low_rank, read_moments
from tasks.geometry.activations.pairs import NAME, activation_frame, weighted_pairs
from tasks.geometry.delta import Dense, Factors
from tasks.geometry.paths import texts as texts_module
from tasks.geometry.paths.texts import Text, batches
from tasks.geometry.tables.build import geometry
from tasks.models.load import load_model
from tests.definitions.geometry import activation_cosine, random_activation_cosines
from tests.lab.updates import Checked, Memory, dense, grid, infos, random_factors, rotation
from tests.unit.geometry.test_functions import write_base, write_problems

PLACES = grid(2)
FIRST = next(iter(PLACES))


def anisotropic(rng: np.random.Generator, n: int, width: int, fall: float = 1.0) -> np.ndarray:
    """(n, width) inputs that are correlated, with a spectrum that falls as i^-fall and a mean that is not 0."""
    return (rng.standard_normal((n, width)) * np.arange(1, width + 1.0) ** -fall + 0.3) @ rotation(rng, width)


def second(inputs: np.ndarray) -> np.ndarray:
    return inputs.T @ inputs / len(inputs)


def whole(inputs: dict[str, np.ndarray]) -> Moments:
    own = {name.removeprefix("model."): x for name, x in inputs.items()}
    return Moments({name: Moment(second(x)) for name, x in own.items()}, {name: name for name in own})


def values(frame: pl.DataFrame) -> dict[tuple, float]:
    return {
        row[:-1]: row[-1] for row in frame.select("run_a", "run_b", "module", "layer", "projection", "value").rows()
    }


# --- the cosine -------------------------------------------------------------------------------------------------------


def test_what_updates_do_to_directions_without_input_does_not_count() -> None:
    """Inputs have a first coordinate only: [1, 5] and [2, -7] do the same to them but for size."""
    moments = Moments({"layers.0.q_proj": Moment(np.diag([4.0, 0.0]))}, {"layers.0.q_proj": "layers.0.q_proj"})
    one = np.array([[1.0]])
    a, b = (Memory({"layers.0.q_proj": Factors(one, np.array([row]), 1.0)}) for row in ([1.0, 5.0], [2.0, -7.0]))
    plain = geometry([a, b], infos(2), (1,)).pair_metrics.filter(metric="cosine", module="layers.0.q_proj")
    assert plain["value"][0] == pytest.approx((2 - 35) / np.sqrt(26 * 53))
    assert set(activation_frame([a, b], infos(2), moments)["value"]) == {1.0}


def many(rng: np.random.Generator, n_in: int = 11) -> list[Memory]:
    """Factors of three ranks, and a dense update."""
    found = [Memory({name: random_factors(rng, 9, n_in, r) for name in PLACES}) for r in (1, 3, 4)]
    return [*found, Memory({name: Dense(rng.standard_normal((9, n_in))) for name in PLACES})]


def test_it_is_the_cosine_of_the_outputs_on_the_inputs() -> None:
    rng = np.random.default_rng(0)
    sources = many(rng)
    inputs = {name: anisotropic(rng, 40, 11) for name in PLACES}
    found = values(activation_frame(sources, infos(4), whole(inputs)))
    assert len(found) == 6 * (1 + 2 + 2 + 4)
    for (i, a), (j, b) in combinations(enumerate(sources), 2):
        for module, layer, projection in {key[2:] for key in found}:
            names = [
                name for name, place in PLACES.items()
                if module in ("*", name) and layer in (None, place[0]) and projection in (None, place[1])
            ]  # fmt: skip
            formed = [{name: dense(one.read(name)) for name in names} for one in (a, b)]
            expected = activation_cosine(*formed, inputs)
            assert found[f"run{i}", f"run{j}", module, layer, projection] == pytest.approx(expected, abs=1e-12)


def test_with_uncorrelated_inputs_of_one_size_it_is_the_cosine_with_its_interval_and_nulls() -> None:
    sources = many(np.random.default_rng(1))
    names = {name.removeprefix("model."): name.removeprefix("model.") for name in PLACES}
    frame = activation_frame(sources, infos(4), Moments({name: Moment(3 * np.eye(11)) for name in names}, names))
    plain = geometry(sources, infos(4), (1,)).pair_metrics.filter(metric="cosine")
    order = ["run_a", "run_b", "module", "layer", "projection"]
    frame, plain = frame.sort(order), plain.sort(order)
    assert set(frame["metric"]) == {NAME}
    for column in ("value", "low", "high", "null", "null_sd", "shared_null_sd", "shared_percentile"):
        np.testing.assert_allclose(frame[column].to_numpy(), plain[column].to_numpy(), atol=1e-12, err_msg=column)
    difference = (frame["percentile"] - plain["percentile"]).drop_nulls().abs()
    assert len(difference) == 6 * 5
    assert difference.max() < 6  # in percent: its law of the inner product is normal, and over 1,000 draws


def test_turning_input_space_and_moments_together_changes_nothing_nor_does_the_size_of_inputs() -> None:
    rng = np.random.default_rng(2)
    a, b, *_ = many(rng)
    turn = rotation(rng, 11)
    inputs = {name: anisotropic(rng, 40, 11) for name in PLACES}
    turned = [Memory({n: f._replace(A=f.A @ turn) for n, f in one.modules.items()}) for one in (a, b)]
    expected = values(activation_frame([a, b], infos(2), whole(inputs)))
    larger = {name: 7 * x @ turn for name, x in inputs.items()}
    found = values(activation_frame(turned, infos(2), whole(larger)))
    assert found == pytest.approx(expected, abs=1e-12)
    assert values(activation_frame(turned, infos(2), whole(inputs))) != pytest.approx(expected, abs=1e-3)


def test_a_module_without_a_moment_and_one_that_is_not_finite_are_left_out() -> None:
    rng = np.random.default_rng(3)
    a, b, *_ = many(rng)
    every = list(PLACES)
    inputs = {name: anisotropic(rng, 40, 11) for name in every[1:]}
    names = set(activation_frame([a, b], infos(2), whole(inputs))["module"])
    assert names == {"*", *every[1:]}
    damaged = Checked({name: f._replace(A=f.A * (np.nan if name == every[1] else 1)) for name, f in a.modules.items()})
    names = set(activation_frame([damaged, b], infos(2), whole(inputs))["module"])
    assert names == {"*", *every[2:]}
    assert activation_frame([a, b], infos(2), Moments({}, {})).is_empty()


def test_an_update_where_no_input_goes_has_no_direction() -> None:
    """Its weighted norm is the rounding of a float32 S."""
    rng = np.random.default_rng(4)
    inputs = anisotropic(rng, 400, 12) @ np.diag([1.0] * 6 + [0.0] * 6) @ (turn := rotation(rng, 12))
    s = second(inputs).astype(np.float32)
    out_of_sight = Factors(rng.standard_normal((5, 2)), rng.standard_normal((2, 6)) @ turn[6:], 1.0)
    pairs = weighted_pairs([random_factors(rng, 5, 12, 2), out_of_sight], Moment(s), np.array([0]), np.array([1]))
    assert pairs.squared_b[0] == 0 < pairs.squared_a[0]


# --- chance -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fall", [0.0, 0.5, 1.5])
def test_spreads_are_those_of_brute_force(fall: float) -> None:
    """The first null is a ratio of expectations: where inputs have few directions (.6 of S in one at a fall of 1.5) it
    is within a tenth, the second null is exact."""
    rng = np.random.default_rng(5)
    a, b = (Memory({FIRST: random_factors(rng, 16, 24, 3)}) for _ in range(2))
    inputs = {FIRST: anisotropic(rng, 100, 24, fall)}
    (row,) = activation_frame([a, b], infos(2), whole(inputs)).filter(module=FIRST).to_dicts()
    forms, s, n = [dense(one.read(FIRST)) for one in (a, b)], second(inputs[FIRST]), 1500
    free = [random_activation_cosines(*pair, s, n, rng, given_right=False) for pair in (forms, forms[::-1])]
    spread = np.sqrt(np.mean(np.square(free)))
    assert row["null_sd"] == pytest.approx(spread, rel=0.1)
    given = random_activation_cosines(*forms, s, n, rng, given_right=True)
    assert row["shared_null_sd"] == pytest.approx(np.sqrt(np.mean(given**2)), rel=4 / np.sqrt(2 * n))
    assert row["percentile"] == pytest.approx(100 * np.mean(np.ravel(free) < row["value"]), abs=5)


# --- low rank ---------------------------------------------------------------------------------------------------------


def narrowed(s: np.ndarray, rank: int, rng: np.random.Generator) -> Moment:
    test = np.linalg.qr(rng.standard_normal((len(s), rank)))[0]
    return low_rank(s @ test, test, np.diag(s).copy())


def test_of_an_s_of_low_rank_nothing_is_lost() -> None:
    rng = np.random.default_rng(6)
    inputs = rng.standard_normal((200, 5)) @ rng.standard_normal((5, 60))
    s, moment = second(inputs), narrowed(second(inputs), 12, np.random.default_rng(7))
    np.testing.assert_allclose(moment.times(np.eye(60)), s, atol=2e-4 * np.abs(s).max())
    np.testing.assert_allclose(moment.diagonal, np.diag(s), rtol=1e-12)
    assert moment.outside < 1e-4


def test_where_little_is_outside_the_cosines_hardly_change() -> None:
    """Inputs of 300 coordinates whose spectrum falls as i^-.6, 40 directions kept: 4 % of the trace is left to the
    diagonal, and the cosines of ten pairs are within .005."""
    rng = np.random.default_rng(8)
    s = second(anisotropic(rng, 2000, 300, 0.6))
    moment = narrowed(s, 40, rng)
    assert 0.03 < moment.outside < 0.06
    np.testing.assert_allclose(moment.diagonal, np.diag(s), rtol=1e-12)
    start = rng.standard_normal((4, 300))
    updates = [
        Factors(rng.standard_normal((20, 4)) + 1, start + 0.5 * rng.standard_normal((4, 300)), 1.0) for _ in range(5)
    ]
    first, second_ = (np.array(side) for side in zip(*combinations(range(5), 2), strict=True))
    errors = []
    for one in (Moment(s), moment, Moment(np.zeros((300, 1)), np.diag(s).copy())):
        pairs = weighted_pairs(updates, one, first, second_)
        errors.append(pairs.inner / np.sqrt(pairs.squared_a * pairs.squared_b))
    exact, low, diagonal = errors
    assert np.abs(low - exact).max() < 0.005
    assert np.abs(diagonal - exact).max() > 0.02  # the diagonal alone would not do


def test_inputs_that_are_zero_have_a_moment_of_zero() -> None:
    moment = narrowed(np.zeros((30, 30)), 4, np.random.default_rng(9))
    assert not moment.times(np.eye(30)).any()
    assert moment.outside == 0


def test_what_was_written_is_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(10)
    s = second(anisotropic(rng, 50, 12))
    own = {"layers.0.q_proj": Moment(s), "layers.0.down_proj": narrowed(s, 4, rng)}
    shared = {"layers.0.q_proj": "layers.0.q_proj", "layers.0.k_proj": "layers.0.q_proj"}
    Moments(own, {**shared, "layers.0.down_proj": "layers.0.down_proj"}).write(tmp_path)
    found = read_moments(tmp_path)
    assert "model.layers.0.k_proj" in found
    assert "model.layers.0.o_proj" not in found
    np.testing.assert_allclose(found.of("model.layers.0.k_proj").times(np.eye(12)), s, atol=1e-7)
    low = found.of("base_model.model.layers.0.down_proj")
    np.testing.assert_allclose(low.times(np.eye(12)), own["layers.0.down_proj"].times(np.eye(12)), atol=1e-6)
    assert list(found.moments) == ["layers.0.q_proj", "layers.0.down_proj"]
    (tmp_path / "moments.safetensors").write_bytes(b"damage")
    with pytest.raises(InputError, match="not the second moments"):
        read_moments(tmp_path)


# --- a model's inputs -------------------------------------------------------------------------------------------------

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("moments") / "base")


@pytest.fixture(scope="module")
def texts() -> list[Text]:
    rng = np.random.default_rng(11)
    return [Text(rng.integers(3, 23, length).tolist(), []) for length in (2, 3, 3, 7, 11, 12, 30)]


@pytest.fixture(scope="module")
def slow(base: Path, texts: list[Text]) -> dict[str, np.ndarray]:
    """The definition: each text alone, in float64, every module's inputs kept."""
    model = load_model(base, "float32").double()
    kept: dict[str, list[np.ndarray]] = {}
    for name, module in model.named_modules():
        if name.endswith(TARGETS):
            own = kept.setdefault(name.removeprefix("model."), [])
            module.register_forward_pre_hook(lambda _, given, own=own: own.append(given[0][0].numpy()))
    with torch.inference_mode():
        for text in texts:
            model(input_ids=torch.tensor([text.ids]))
    return {name: np.concatenate(rows) for name, rows in kept.items()}


def test_moments_are_those_of_each_text_alone(base: Path, texts: list[Text], slow: dict[str, np.ndarray]) -> None:
    model = load_model(base, "float32")
    found = collect(model, batches(texts, 3, 0, "cpu"), TARGETS)
    assert set(found.shared) == set(slow)
    assert len(found.moments) == 3 * 4  # q, k and v share an input, gate and up another
    for name, inputs in slow.items():
        s = second(inputs)
        error = np.abs(found.of(f"model.{name}").times(np.eye(len(s))) - s)
        size = np.sqrt(np.outer(np.diag(s), np.diag(s)))
        assert np.max(error / size) < 1e-6, name
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_wide_input_is_narrowed_and_a_name_in_full_is_one_module(
    base: Path, texts: list[Text], slow: dict[str, np.ndarray]
) -> None:
    names = ["base_model.model.model.layers.1.mlp.down_proj", "layers.0.self_attn.q_proj"]
    model = load_model(base, "float32")
    found = collect(model, batches(texts, 3, 0, "cpu"), names, most_width=20, rank=32)
    assert set(found.shared) == {"layers.1.mlp.down_proj", "layers.0.self_attn.q_proj"}
    low = found.of(names[0])
    assert low.rest is not None
    s = second(slow["layers.1.mlp.down_proj"])
    np.testing.assert_allclose(low.times(np.eye(32)), s, atol=1e-3 * np.abs(s).max())
    assert found.of(names[1]).rest is None


def test_what_has_no_input_vector_a_token_is_not_there(base: Path, texts: list[Text]) -> None:
    model = load_model(base, "float32")
    with pytest.raises(InputError, match=r"geometry.activations=0"):
        collect(model, batches(texts, 3, 0, "cpu"), ["embed_tokens", "nothing"])


def test_on_held_out_problems_and_on_a_file_of_texts(base: Path, tmp_path: Path) -> None:
    problems = write_problems(tmp_path / "problems.parquet")
    settings: dict[str, Any] = {"base": LocalBase(base), "targets": ["q_proj"], "out": tmp_path}
    summary = measure_moments(**settings, problems=problems, n=5, max_new_tokens=4)
    assert (summary["texts"], summary["inputs"], summary["modules"], summary["low_rank"]) == (5, 3, 3, 0)
    assert summary["outside"] == 0
    file = tmp_path / "texts.jsonl"
    rows: list[dict[str, str]] = [{"text": " the sum of 1 is 2"}, {"question": " the sum", "completion": " so 3"}]
    file.write_text("\n".join(map(json.dumps, rows)))
    summary = measure_moments(**settings, texts=file)
    assert (summary["texts"], summary["of_file"], summary["cut"]) == (2, True, 0)
    assert list(read_moments(tmp_path).moments) == [f"layers.{i}.self_attn.q_proj" for i in range(3)]


def test_texts_are_cut_and_a_row_without_one_is_refused(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(texts_module, "MOST_TEXTS", 2)
    file = tmp_path / "texts.jsonl"
    file.write_text("\n".join(json.dumps({"text": " the" * length}) for length in (5, 100, 7)))
    found, cut = texts_module.texts_of(file, LocalBase(base))
    assert ([len(text.ids) for text in found], cut) == ([5, 48], 1)
    file.write_text(json.dumps({"sentence": " the"}))
    with pytest.raises(InputError, match=r"line 1, field `text`: expected a text, or a prompt with a completion"):
        texts_module.texts_of(file, LocalBase(base))
    file.write_text("")
    with pytest.raises(InputError, match="expected at least one text"):
        texts_module.texts_of(file, LocalBase(base))
