"""The numbers embedded for the charts are the frames', whichever way round, to the last digit; nothing is markup."""

from __future__ import annotations

import hashlib
import json
import re
from base64 import b64encode
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from itertools import combinations

import polars as pl
import pytest

from tasks.core.frames import PAIR_METRICS_FRAME
from tasks.core.results import RunInfo
from tasks.reporting.charts.catalogue import pictures
from tasks.reporting.charts.explore import build_explore, pair_data
from tasks.reporting.charts.picture import MOST_ROWS
from tasks.reporting.metrics import pair_metric
from tasks.reporting.render.document import build_document
from tasks.reporting.render.html import render_html
from tasks.reporting.render.scripts import content_policy, script_code, script_json
from tasks.reporting.views.study import Study

LAYERS = [0, 1, 2, 3]


def metric(data: dict, name: str, k: int | None = None) -> dict:
    (found,) = (entry for entry in data["metrics"] if (entry["metric"], entry["k"]) == (name, k))
    return found


def places(frame: pl.DataFrame, run_a: str, run_b: str, name: str, k: int | None = None) -> list[float]:
    rows = frame.filter(pl.col("module") == "*", pl.col("projection").is_null(), pl.col("k").eq_missing(k))
    rows = rows.filter(run_a=run_a, run_b=run_b, metric=name).sort("layer", nulls_last=False)
    assert rows["layer"].to_list() == [None, *LAYERS]
    return rows["value"].to_list()


@pytest.mark.parametrize(("name", "k"), [("cosine", None), ("angle_left", 5), ("u1_overlap", None), ("phi_right", 8)])
def test_pairs_are_the_frames(study: Study, name: str, k: int | None) -> None:
    data = json.loads(script_json(pair_data(study)))
    assert data["layers"] == LAYERS
    rows = metric(data, name, k)["values"]
    assert not {("angle_min_left", 1), ("orthogonal_fraction_reverse", None)} & {
        (entry["metric"], entry["k"]) for entry in data["metrics"]
    }
    for (a, b), row in zip(combinations(data["names"], 2), rows, strict=True):
        assert row == places(study.pair_metrics, a, b, name, k)


def test_the_order_of_a_pair_decides_only_where_it_means_something(study: Study) -> None:
    data = pair_data(study)
    assert data is not None
    at = list(combinations(data["names"], 2)).index(("sft", "dft"))
    frame = study.pair_metrics
    outside = metric(data, "orthogonal_fraction")
    assert outside["values"][at] == places(frame, "sft", "dft", "orthogonal_fraction")
    assert outside["turned"][at] == places(frame, "sft", "dft", "orthogonal_fraction_reverse")
    ratio = metric(data, "norm_ratio")
    assert (ratio["values"][at], ratio["turned"][at]) == ([1.25] * 5, [0.8] * 5)
    assert metric(data, "cosine")["turned"] is None
    assert "orthogonal_fraction_reverse" not in {entry["metric"] for entry in data["metrics"]}


def test_a_frame_the_other_way_round_gives_the_same(study: Study) -> None:
    sides = ("run", "method", "seed", "data_seed", "lr")
    swap = {f"{name}_{x}": f"{name}_{y}" for name in sides for x, y in ("ab", "ba")}
    names = {"orthogonal_fraction": "orthogonal_fraction_reverse", "orthogonal_fraction_reverse": "orthogonal_fraction"}
    turned = (
        study.pair_metrics.rename(swap).select(list(PAIR_METRICS_FRAME)).with_columns(pl.col("metric").replace(names))
    )
    turned = turned.with_columns(
        value=pl.when(pl.col("metric") == "norm_ratio").then(1 / pl.col("value")).otherwise("value")
    )
    assert pair_data(replace(study, pair_metrics=turned)) == pair_data(study)


def test_a_floor_is_that_of_the_pair_least_alike(build_study: Callable[..., Study]) -> None:
    runs = [RunInfo("base", "base", 0, 0, 0.0), *(RunInfo(f"s{i}", "sft", 0, i, 1e-3) for i in range(3))]
    tables = build_study(runs=runs)
    data = pair_data(tables)
    assert data is not None
    for name, k, worst in (("cosine", None, min), ("angle_left", 8, max)):
        lines = [places(tables.pair_metrics, a, b, name, k) for a, b in combinations(("s0", "s1", "s2"), 2)]
        floors = metric(data, name, k)["floors"]
        assert floors["data order"] == [worst(values) for values in zip(*lines, strict=True)]
        assert floors["initialisation"] == [None] * 5


def test_what_does_not_fit_is_named_and_nothing_else_is_lost(study: Study) -> None:
    full, small = (pair_data(study, most) for most in (40_000, 400))
    assert full is not None
    assert small is not None
    # 7 runs: 21 pairs at 5 places are 105 values; cosine's null is one line of 5 for all pairs.
    assert (full["left_out"], full["runs_left_out"]) == ([], 0)
    assert small["metrics"][0] == full["metrics"][0] or small["runs_left_out"] > 0
    kept = {entry["title"] for entry in small["metrics"]}
    assert kept | set(small["left_out"]) == {entry["title"] for entry in full["metrics"]}
    tiny = pair_data(study, 100)
    assert tiny is not None
    # 100 // 15 = 6 pairs, so 4 runs: the reference, its floor and the two nearest.
    assert tiny["names"] == ["sft", "rft", "rift", "sft-order1"]
    explore = build_explore(study)
    assert explore is not None
    assert "left out" not in explore.note


def test_a_measure_of_tomorrow_is_offered_under_its_own_name(study: Study) -> None:
    frame = study.pair_metrics.with_columns(pl.col("metric").replace("u1_overlap", "<new>"))
    data = pair_data(replace(study, pair_metrics=frame))
    assert data is not None
    assert data["metrics"][-1]["title"] == "<new>"
    assert pair_metric("angle_left").called(1) == "Angle of the first left singular vectors"


def test_nothing_compared_gives_no_section(study: Study) -> None:
    assert build_explore(replace(study, pair_metrics=study.pair_metrics.clear())) is None
    assert build_explore(replace(study, runs=study.runs[:2])) is None


def test_numbers_behind_figures_are_the_frames(study: Study) -> None:
    found = {picture.key: picture.data for picture in pictures(study)}
    assert found["accuracy"]["rows"] == [list(row) for row in study.accuracy.rows()]
    assert found["training"]["rows"] == [list(row) for row in study.training.filter(metric="loss").rows()]
    columns = found["layers"]["columns"]
    rows = [dict(zip(columns, row, strict=True)) for row in found["layers"]["rows"]]
    assert len(rows) == 6 * len(LAYERS)
    dft = [row["value"] for row in rows if row["run_b"] == "dft"]
    assert dft == places(study.pair_metrics, "sft", "dft", "cosine")[1:]
    many = pl.concat([study.training] * (MOST_ROWS // study.training.height + 1))
    assert {one.key: one.data for one in pictures(replace(study, training=many))}["training"] == {
        "file": "training.parquet"
    }


@pytest.mark.parametrize(
    "text", ["</script><script>x()</script>", "<!--", "\u2028\u2029", "]]>&amp;", "\\u003c", "é\0"]
)
def test_no_text_leaves_its_json(text: str) -> None:
    written = script_json({text: [text]})
    assert not set(written) & set("<>&\u2028\u2029")
    assert written.isascii()
    assert json.loads(written) == {text: [text]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        script_json(float("nan"))


def test_code_cannot_close_its_element_either() -> None:
    code = script_code("a = '</SCRIPT>' + '<!--' + `<script>`;\r\nb < c")
    assert code == "a = '\\x3C/SCRIPT>' + '\\x3C!--' + `\\x3Cscript>`;\nb < c"


class Scripts(HTMLParser):
    """The text of every script element, by its type, and the page's policy, as a browser reads them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.code: list[str] = []
        self.policy = ""
        self._inside = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        assert "src" not in named
        if tag == "meta" and named.get("http-equiv") == "Content-Security-Policy":
            self.policy = str(named["content"])
        self._inside = tag == "script" and named.get("type") is None
        if self._inside:
            self.code.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = self._inside and tag != "script"

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.code[-1] += data


def test_the_policy_lets_exactly_the_pages_scripts_run(study: Study) -> None:
    found = Scripts(render_html(build_document(study, lambda *_: [])))
    hashes = [b64encode(hashlib.sha256(code.encode()).digest()).decode() for code in found.code]
    assert len(hashes) == 3
    assert re.findall("'sha256-([^']+)'", found.policy) == hashes
    assert found.policy.startswith("default-src 'none'; ")
    assert "unsafe-eval" not in found.policy
    assert "script-src 'unsafe-inline'" not in found.policy
    assert content_policy([]).endswith("script-src 'none'")
