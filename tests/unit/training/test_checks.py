"""The controls see a violation where there is one, and only there."""

from __future__ import annotations

from tasks.core.results import RunInfo
from tasks.training.checks import shared_initialisation, shared_stream

SFT = RunInfo("sft", "sft", 0, 0, 1e-3)
RFT = RunInfo("rft", "rft", 0, 0, 1e-3)
TWIN = RunInfo("sft-order1", "sft", 0, 1, 1e-3)
OTHER = RunInfo("sft-seed1", "sft", 1, 0, 1e-3)


def test_initialisation_is_one_a_seed() -> None:
    check = shared_initialisation({SFT: "a", RFT: "a", TWIN: "a", OTHER: "b"})
    assert check == {
        "name": "shared LoRA initialisation",
        "ok": True,
        "detail": "4 adapters, 2 seed(s): lora_A bit-identical before step 1",
    }


def test_initialisation_that_differs_within_a_seed_is_found() -> None:
    check = shared_initialisation({SFT: "a", RFT: "b", OTHER: "c"})
    assert not check["ok"]
    assert "differs within seed(s) [0]" in str(check["detail"])


# The stream of data seed 0 is 4 1 3 0 2, again and again; RFT keeps 1, 2, 3.
EVERY = [4, 1, 3, 0, 2, 4, 1]
SELECTED = {SFT: {0, 1, 2, 3, 4}, RFT: {1, 2, 3}, TWIN: {0, 1, 2, 3, 4}}


def test_a_thinned_stream_that_goes_on_longer_is_the_same_stream() -> None:
    check = shared_stream({SFT: EVERY, RFT: [1, 3, 2, 1, 2, 3, 3]}, SELECTED)
    assert check["ok"], check
    assert check["detail"] == "2 row methods: one order of rollouts"


def test_two_rows_exchanged_are_found() -> None:
    check = shared_stream({SFT: EVERY, RFT: [3, 1, 2, 1]}, SELECTED)
    assert not check["ok"]
    assert "['sft~rft']" in str(check["detail"])


def test_a_row_left_out_is_found() -> None:
    assert not shared_stream({SFT: EVERY, RFT: [1, 2, 1]}, SELECTED)["ok"]


def test_another_data_seed_may_have_another_order() -> None:
    assert shared_stream({SFT: EVERY, TWIN: [0, 1, 2, 3, 4]}, SELECTED)["ok"]
