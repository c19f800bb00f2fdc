"""The sum of two updates against its dense definition, and PEFT's own combinations against the mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tasks.core.errors import InputError
from tasks.geometry.adapters.adapter import AdapterSource
from tasks.geometry.delta import Dense, Factors, LoraDelta
from tasks.geometry.merging import interference, merges_frame
from tests.lab.updates import Memory, deltas, dense, mapped, random_factors, zero

Q, V = "layers.0.self_attn.q_proj", "layers.0.self_attn.v_proj"


def entry(row: int, column: int, scale: float = 1.0) -> Factors:
    """A 3 x 4 update with one entry."""
    return Factors(np.eye(3)[:, [row]], np.eye(4)[[column]], scale)


def test_a_sum_worked_by_hand() -> None:
    """q: 3 and -1 in one place; v: 2 of the first alone. Norms sqrt(13), 1; sum sqrt(4 + 4); inner -3."""
    a = LoraDelta({Q: entry(0, 0, 3.0), V: entry(1, 1, 2.0)})
    b = LoraDelta({Q: entry(0, 0, -1.0)})
    whole, q, v = interference(a, b)
    assert (whole.kind, whole.modules, q.kind, q.modules, v.kind) == ("*", 2, "q_proj", 1, "v_proj")
    assert (whole.norm_a, whole.norm_b, whole.norm_sum) == pytest.approx((13**0.5, 1.0, 8**0.5))
    assert whole.cancelled == pytest.approx(6 / 14)
    assert (whole.kept_a, whole.kept_b) == pytest.approx((1 - 3 / 13, -2.0))
    assert whole.share_a == pytest.approx(13 / 14)
    assert (q.norm_sum, q.cancelled) == pytest.approx((2.0, 0.6))
    assert (v.norm_sum, v.cancelled, v.kept_a) == pytest.approx((2.0, 0.0, 1.0))
    assert np.isnan(v.kept_b)


def test_modules_that_oppose_each_other_are_not_made_up_for_by_others() -> None:
    """One module doubles, one is undone: the sum is as long as of orthogonal updates, and half of both is gone."""
    a = LoraDelta({Q: entry(0, 0), V: entry(0, 0)})
    b = LoraDelta({Q: entry(0, 0), V: entry(0, 0, -1.0)})
    whole = interference(a, b)[0]
    assert (whole.norm_sum, whole.cancelled, whole.kept_a) == pytest.approx((2.0, 0.5, 1.0))


@pytest.mark.parametrize("shape", [(12, 9, 4, 4), (9, 12, 4, 2), (5, 7, 8, 8)])
def test_the_factors_give_what_the_dense_updates_give(shape: tuple[int, int, int, int]) -> None:
    a, b = deltas(shape)
    names = list(a.modules)
    x, y = ({name: dense(one.modules[name]) for name in names} for one in (a, b))
    summed = {name: x[name] + y[name] for name in names}
    total = sum(np.sum(x[name] ** 2) + np.sum(y[name] ** 2) for name in names)
    opposed = sum(max(-2 * np.sum(x[name] * y[name]), 0) for name in names)
    whole = interference(a, b)[0]
    assert whole.norm_sum == pytest.approx(np.sqrt(sum(np.sum(one**2) for one in summed.values())), rel=1e-12)
    assert whole.cancelled == pytest.approx(opposed / total, rel=1e-10)
    along = sum(np.sum(summed[name] * x[name]) for name in names) / sum(np.sum(one**2) for one in x.values())
    assert whole.kept_a == pytest.approx(along, rel=1e-10)
    assert np.isnan(whole.linear_error) == (shape[2] != shape[3])


def test_the_order_of_the_two_does_not_matter() -> None:
    a, b = deltas((12, 9, 4, 4))
    one, other = interference(a, b)[0], interference(b, a)[0]
    assert (one.norm_a, one.kept_a, one.share_a) == pytest.approx((other.norm_b, other.kept_b, 1 - other.share_a))
    assert (one.norm_sum, one.cancelled, one.linear_error) == pytest.approx(
        (other.norm_sum, other.cancelled, other.linear_error)
    )


def test_a_zero_update_and_an_update_with_its_opposite() -> None:
    a, b = deltas((12, 9, 4, 4))
    nothing = interference(a, zero(b))[0]
    assert (nothing.kept_a, nothing.share_a, nothing.cancelled) == (1.0, 1.0, 0.0)
    assert np.isnan(nothing.kept_b)
    undone = interference(a, mapped(a, lambda f: f._replace(B=-f.B)))[0]
    assert undone.norm_sum == pytest.approx(0.0, abs=1e-6 * undone.norm_a)
    assert undone.cancelled == pytest.approx(1.0)


def test_what_cannot_be_merged_is_refused() -> None:
    a = LoraDelta({Q: entry(0, 0)})
    with pytest.raises(InputError, match="no module in common"):
        interference(a, LoraDelta({V: entry(0, 0)}))
    with pytest.raises(InputError, match=r"is \(3, 4\) in adapter and \(5, 7\) in adapter"):
        interference(a, LoraDelta({Q: random_factors(np.random.default_rng(0), 5, 7, 2)}))
    with pytest.raises(InputError, match="memory: its update is not scale"):
        interference(a, Memory({Q: Dense(np.ones((3, 4)))}))


def test_the_frame_has_a_row_a_kind_and_null_for_what_is_not_defined() -> None:
    a, b = LoraDelta({Q: entry(0, 0), V: entry(1, 1)}), LoraDelta({Q: entry(0, 0)})
    frame = merges_frame([("one", "other", a, b)], {"one": 4, "other": 4})
    assert frame.select("run_a", "run_b", "kind").rows() == [
        ("one", "other", kind) for kind in ("*", "q_proj", "v_proj")
    ]
    assert frame["kept_b"].to_list() == [2.0, 2.0, None]


# --- PEFT's own combinations ------------------------------------------------------------------------------------------


class Small(torch.nn.Module):
    """Two linear modules."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.v_proj = torch.nn.Linear(9, 12, bias=False), torch.nn.Linear(9, 5, bias=False)


def wrapped(folder: Path, *, rslora: bool = False, one_start: bool = False, **changes: Any) -> Any:
    """A model with adapters ``one`` and ``two``, both saved under ``folder``."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    config = {"r": 4, "target_modules": ["q_proj", "v_proj"], "use_rslora": rslora, "init_lora_weights": False}
    config |= changes
    model = get_peft_model(Small(), LoraConfig(lora_alpha=6, **config), adapter_name="one")  # type: ignore[arg-type]
    model.add_adapter("two", LoraConfig(lora_alpha=2, **config))
    if one_start:
        for name in ("q_proj", "v_proj"):
            factors = getattr(model.base_model.model, name).lora_A
            factors["two"].weight.data.copy_(factors["one"].weight.data)
    model.save_pretrained(folder)
    return model


def combined(model: Any, kind: str) -> dict[str, torch.Tensor]:
    """Module -> the update of PEFT's combination of both with weights 1/2."""
    model.add_weighted_adapter(["one", "two"], [0.5, 0.5], kind, combination_type=kind)
    return {name: getattr(model.base_model.model, name).get_delta_weight(kind) for name in ("q_proj", "v_proj")}


def mean_of(model: Any) -> dict[str, torch.Tensor]:
    modules = {name: getattr(model.base_model.model, name) for name in ("q_proj", "v_proj")}
    return {name: (one.get_delta_weight("one") + one.get_delta_weight("two")) / 2 for name, one in modules.items()}


def off(found: dict[str, torch.Tensor], mean: dict[str, torch.Tensor]) -> float:
    """|found - mean| / |mean| over both modules."""
    error = sum(float(((found[name] - mean[name]).detach().double() ** 2).sum()) for name in mean)
    return (error / sum(float((one.detach().double() ** 2).sum()) for one in mean.values())) ** 0.5


@pytest.mark.parametrize("one_start", [False, True])
def test_cat_is_the_mean_and_linear_is_off_by_what_is_said(tmp_path: Path, one_start: bool) -> None:
    model = wrapped(tmp_path, one_start=one_start)
    mean = mean_of(model)
    assert off(combined(model, "cat"), mean) < 1e-6
    error = off(combined(model, "linear"), mean)
    assert error > 0.5
    told = interference(AdapterSource(tmp_path / "one"), AdapterSource(tmp_path / "two"))[0].linear_error
    assert told == pytest.approx(error, abs=1e-6)


def test_with_rslora_even_cat_is_scaled_by_the_root_of_the_new_rank(tmp_path: Path) -> None:
    """PEFT keeps use_rslora in the new adapter, whose alpha it sets to the rank 8: alpha / sqrt(8) is not 1."""
    model = wrapped(tmp_path, rslora=True)
    mean = mean_of(model)
    cat = combined(model, "cat")
    assert AdapterSource(tmp_path / "one").config.room == 4  # and no pattern
    assert off(cat, mean) == pytest.approx(8**0.5 - 1, abs=1e-5)
    assert off({name: one / 8**0.5 for name, one in cat.items()}, mean) < 1e-6


def test_of_a_rank_pattern_below_r_everywhere_the_new_rank_is_that_of_r(tmp_path: Path) -> None:
    """r = 9, modules of rank 4 and 3: PEFT's `cat` with rsLoRA has rank 9 + 9 and is scaled by 18 / sqrt(18)."""
    model = wrapped(tmp_path, rslora=True, r=9, rank_pattern={"q_proj": 4, "v_proj": 3})
    sources = [AdapterSource(tmp_path / name) for name in ("one", "two")]
    assert [source.config.room for source in sources] == [9, 9]
    assert [max(source.ranks.values()) for source in sources] == [4, 4]
    mean = mean_of(model)
    cat = combined(model, "cat")
    assert off({name: one / 18**0.5 for name, one in cat.items()}, mean) < 1e-6


def test_peft_refuses_linear_for_two_r_whatever_the_modules_have() -> None:
    rng = np.random.default_rng(0)
    a, b = (
        LoraDelta({"layers.0.q_proj": Factors(rng.standard_normal((6, 2)), rng.standard_normal((2, 5)), 1.0)})
        for _ in range(2)
    )
    found = {
        other: merges_frame([("one", "other", a, b)], {"one": 2, "other": other})["linear_error"].null_count()
        for other in (2, 4)
    }
    assert found == {2: 0, 4: 2}
