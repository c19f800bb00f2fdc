"""Drawings by the engine's process are those of this one, also where the process goes away."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tasks.reporting.charts import svg
from tasks.reporting.charts.engine import Engine
from tasks.reporting.charts.svg import draw_ahead, inline_svg, start_engine


def bars(height: float) -> dict:
    return {
        "mark": "bar",
        "data": {"values": [{"y": height}]},
        "encoding": {"y": {"field": "y", "type": "quantitative"}},
    }


BAD = {"mark": "bar", "data": {"values": []}, "encoding": {"x": {"field": "y", "type": "no such type"}}, "layer": 3}


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    monkeypatch.setattr(svg, "_engine", None)
    monkeypatch.setattr(svg, "_asked", {})
    start_engine()
    started = svg._engine
    assert started is not None
    yield started
    started.process.kill()
    started.process.wait()


@pytest.mark.slow
def test_drawings_by_its_process_are_those_made_here(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    draw_ahead(bars(2.0))
    draw_ahead(bars(3.0))
    found = [inline_svg("figure", "Zwei Ä", bars(height)) for height in (3.0, 2.0, 4.0)]
    with monkeypatch.context() as patch:
        patch.setattr(svg, "_drawn", lambda text: pytest.fail("drawn here"))
        assert inline_svg("figure", "Zwei Ä", bars(5.0)).startswith("<svg")
    monkeypatch.setattr(svg, "_engine", None)
    assert found == [inline_svg("figure", "Zwei Ä", bars(height)) for height in (3.0, 2.0, 4.0)]


@pytest.mark.slow
def test_where_its_process_was_killed_they_are_made_here(engine: Engine) -> None:
    whole = inline_svg("figure", "", bars(2.0))
    engine.process.kill()
    engine.process.wait()
    assert [inline_svg("figure", "", bars(2.0)) for _ in range(2)] == [whole, whole]


@pytest.mark.slow
def test_what_cannot_be_drawn_fails_as_it_does_here(engine: Engine) -> None:
    with pytest.raises(ValueError, match="conversion failed"):
        inline_svg("figure", "", BAD)
    assert inline_svg("figure", "", bars(2.0)).startswith("<svg")


def test_under_a_limit_of_addresses_it_is_not_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(svg, "_engine", None)
    monkeypatch.setattr(svg, "addresses_left", lambda: 2.0**30)
    start_engine()
    assert svg._engine is None
    assert "Not drawn" in inline_svg("figure", "", bars(2.0))
