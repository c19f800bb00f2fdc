"""vLLM itself (its CPU build) against transformers and PEFT: ``make test-vllm``."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from tasks.core.errors import InputError, StageError
from tasks.engines.interface import Completion, Request, Sampling
from tasks.engines.journal import Journal, complete
from tasks.engines.transformers import TransformersEngine
from tasks.engines.vllm import VllmEngine
from tests.lab.vllm_models import CONTEXT, ask, make_adapter, make_base, needs_vllm, prompt

pytestmark = needs_vllm

EOS = 2
N = 120
TOKENS = 40


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def adapters(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Of different ranks, targets and scalings, so that a batch mixes them."""
    folder = tmp_path_factory.mktemp("adapters")
    mlp = ["q_proj", "gate_proj", "up_proj", "down_proj"]
    return {
        "attention": make_adapter(base, folder / "attention", 0),
        "mlp": make_adapter(base, folder / "mlp", 1, r=8, use_rslora=True, target_modules=mlp),
        "late": make_adapter(base, folder / "late", 2, r=16, layers_to_transform=[1]),
    }


@pytest.fixture(scope="module")
def engine(base: Path, adapters: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmEngine]:
    """One for the tests that leave it alive. Loading it takes most of their time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLINEAR_HOME", str(tmp_path_factory.mktemp("home")))
        with VllmEngine(base, adapters=adapters, batch_size=64) as opened:
            yield opened


@pytest.fixture(scope="module")
def peft(base: Path, adapters: dict[str, Path]) -> Iterator[TransformersEngine]:
    with TransformersEngine(base, adapters=adapters) as opened:
        yield opened


def requests(n: int = N, seed: int = 0) -> list[Request]:
    names = (None, "attention", "mlp", "late")
    return [Request(f"r{i}", "", prompt(i // 4), seed + i, names[i % 4]) for i in range(n)]


def largest_gap(a: Mapping[str, Completion], b: Mapping[str, Completion]) -> float:
    """Between the log-probabilities of the same completions."""
    return max(abs(x - y) for name in a for x, y in zip(a[name].logprobs or (), b[name].logprobs or (), strict=True))


def test_greedy_answers_of_a_mixed_batch_are_pefts_token_for_token(
    engine: VllmEngine, peft: TransformersEngine
) -> None:
    """The base's rows among them: on a CPU vLLM 0.30 would give them an adapter where no slot is left empty."""
    ours, theirs = (ask(one, requests(), Sampling(TOKENS, logprobs=True)) for one in (engine, peft))
    assert {name: one.ids for name, one in ours.items()} == {name: one.ids for name, one in theirs.items()}
    assert [one.text for one in ours.values()] == [ours[name].text for name in ours]
    assert {name: (one.text, one.finish_reason) for name, one in ours.items()} == {
        name: (one.text, one.finish_reason) for name, one in theirs.items()
    }
    assert largest_gap(ours, theirs) < 1e-4
    first = [tuple(ours[f"r{i}"].ids or () for i in range(start, N, 4)) for start in range(4)]
    assert len(set(first)) == 4  # the three adapters and the base do not say the same


def test_completions_end_with_eos_or_are_marked_as_cut(engine: VllmEngine) -> None:
    found = ask(engine, requests(), Sampling(TOKENS))
    assert {one.finish_reason for one in found.values()} == {"stop", "length"}
    for one in found.values():
        assert one.ids is not None
        assert one.logprobs is None
        assert EOS not in one.ids[:-1]
        assert (one.ids[-1] == EOS) == (one.finish_reason == "stop")
        assert len(one.ids) == TOKENS or one.finish_reason == "stop"
        assert "<eos>" not in one.text


def test_behaviour_logprobs_are_the_models_at_the_sampling_temperature(
    engine: VllmEngine, base: Path, adapters: dict[str, Path]
) -> None:
    """Against a forward pass over prompt and completion, of the model that PEFT merged."""
    import torch

    from tasks.models.load import load_model

    temperature = 0.7
    found = ask(engine, requests(48), Sampling(TOKENS, temperature, logprobs=True))
    models = {name: load_model(base, adapter=folder) for name, folder in adapters.items()} | {None: load_model(base)}
    for request in requests(48):
        answer = found[request.id]
        assert answer.ids is not None
        ids = torch.tensor([[*(request.prompt_ids or ()), *answer.ids]])
        with torch.inference_mode():
            logits = models[request.adapter](ids).logits[0, len(request.prompt_ids or ()) - 1 : -1].double()
        expected = torch.log_softmax(logits / temperature, -1).gather(-1, torch.tensor(answer.ids)[:, None])
        assert answer.logprobs == pytest.approx(expected[:, 0].tolist(), abs=1e-4)


def test_a_sample_is_its_seeds_alone_or_in_company(engine: VllmEngine) -> None:
    sampling = Sampling(TOKENS, 1.0)
    together = ask(engine, requests(), sampling)
    assert ask(engine, requests(), sampling) == together
    for request in requests()[5:9]:
        assert ask(engine, [request], sampling)[request.id].ids == together[request.id].ids
    shuffled = ask(engine, requests()[::-3], sampling)
    assert all(together[name].ids == one.ids for name, one in shuffled.items())


def test_other_seeds_give_other_samples_of_the_models_distribution(engine: VllmEngine, base: Path) -> None:
    """First tokens of 4,000 seeds against the model's softmax, and neighbours' samples are independent.

    Chi-square over the tokens that are expected at least ten times; agreement of neighbouring seeds' first tokens has
    the rate sum of p^2. Both statistics' chances of a failure are below 1e-4, were the seeds not fixed.
    """
    import torch
    from scipy.stats import chi2

    from tasks.models.load import load_model

    n = 4000
    asked = [Request(f"s{seed}", "", prompt(0), seed) for seed in range(n)]
    found = ask(engine, asked, Sampling(1, 1.0))
    drawn = [(found[f"s{seed}"].ids or ())[0] for seed in range(n)]
    with torch.inference_mode():
        p_V = torch.softmax(load_model(base)(torch.tensor([prompt(0)])).logits[0, -1].double(), -1).numpy()
    counts = np.bincount(drawn, minlength=len(p_V))
    often = p_V * n >= 10
    observed = np.append(counts[often], counts[~often].sum())
    expected = np.append(p_V[often], p_V[~often].sum()) * n
    assert chi2.sf(float(((observed - expected) ** 2 / expected).sum()), len(observed) - 1) > 1e-4
    rate = float((p_V**2).sum())
    agreeing = sum(a == b for a, b in pairwise(drawn))
    assert abs(agreeing - rate * (n - 1)) < 5 * (rate * n) ** 0.5


def test_answers_come_in_the_order_in_which_they_end(engine: VllmEngine) -> None:
    """Not in that of the requests, and not all at the end: the test of a killed engine finds the first ones kept."""
    order: list[int] = []
    engine.complete(requests(60), Sampling(100), lambda _, completion: order.append(len(completion.ids or ())))
    assert order == sorted(order)
    assert order[0] < 10
    assert order[-1] == 100


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request("x", "", None, 0), "needs the prompt's tokens"),
        (Request("x", "", (1, 5, 4), 0, "other"), r"no adapter 'other' is loaded; there: attention, mlp, late"),
        (Request("x", "", (1, *[5] * CONTEXT, 4), 0), rf"130 tokens and max_new_tokens 40 .* beyond the {CONTEXT}"),
    ],
)
def test_what_it_would_misread_is_refused_and_the_engine_lives_on(
    engine: VllmEngine, request_: Request, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        engine.complete([request_], Sampling(TOKENS), lambda *_: None)
    assert len(ask(engine, requests(4), Sampling(TOKENS))) == 4


def living(group: int) -> list[int]:
    """Processes of a group that still run; a zombie does not."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            pid, rest = stat.read_text().split(" ", 1)
        except OSError:
            continue
        state, _, its_group = rest.rsplit(")", 1)[1].split()[:3]
        if int(its_group) == group and state != "Z":
            found.append(int(pid))
    return found


def test_a_killed_engine_fails_clearly_and_a_second_run_completes_what_is_missing(
    base: Path, tmp_path: Path, state: Path, peft: TransformersEngine
) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    sampling = Sampling(100, logprobs=True)
    asked = [Request(f"r{i}", "", prompt(i), i) for i in range(300)]
    killed: list[int] = []

    def kill_at_30(_: Request, __: Completion) -> None:
        if sum(request.id in journal for request in asked) == 30:
            assert engine.pid is not None
            killed.append(engine.pid)
            os.kill(engine.pid, signal.SIGKILL)

    engine = VllmEngine(base, batch_size=8)
    with pytest.raises(StageError, match=r"vLLM's process died \(signal SIGKILL\); its last words: .*vllm-.*\.log"):
        complete(engine, asked, sampling, journal, kill_at_30)
    assert not living(killed[0])
    with pytest.raises(StageError, match="not running"):
        engine.complete(asked, sampling, lambda *_: None)

    again = Journal(tmp_path / "journal.jsonl")
    kept = [request.id for request in asked if request.id in again]
    assert 30 <= len(kept) < len(asked)
    new: list[str] = []
    complete(VllmEngine(base, batch_size=64), asked, sampling, again, lambda request, _: new.append(request.id))
    assert sorted([*kept, *new]) == sorted(request.id for request in asked)  # nothing twice, nothing lost
    expected = ask(peft, asked, sampling)
    answered = again.read([request.id for request in asked])
    assert [one.ids for one in answered] == [expected[request.id].ids for request in asked]


def test_a_hanging_engine_is_ended(base: Path, state: Path) -> None:
    with VllmEngine(base, batch_size=8, patience=6.0) as engine:
        pid = engine.pid
        assert pid is not None

        def stop(_: Request, __: Completion) -> None:
            os.kill(pid, signal.SIGSTOP)

        began = time.monotonic()
        with pytest.raises(StageError, match="vLLM said nothing for 6 s and was ended"):
            engine.complete([Request(f"r{i}", "", prompt(i), i) for i in range(200)], Sampling(100), stop)
        assert time.monotonic() - began < 30
        assert not living(pid)
