"""The page and its replicate: every number in them is one of the frames', and nothing from models or data is markup."""

from __future__ import annotations

import html
import io
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser

import polars as pl
import pytest
from rich.console import Console

from tasks.core.frames import PAIR_METRICS_FRAME
from tasks.core.results import RunInfo
from tasks.reporting.charts.picture import short
from tasks.reporting.findings.lead import LONGEST
from tasks.reporting.formats import number, percent, points
from tasks.reporting.notes import interval_note
from tasks.reporting.render.condense import condensed
from tasks.reporting.render.document import Document, build_document
from tasks.reporting.render.html import render_html
from tasks.reporting.render.markdown import escape, render_markdown
from tasks.reporting.render.terminal import headline_renderable
from tasks.reporting.tables.record import stage_tables, study_facts
from tasks.reporting.tables.views import Cell, Cells, Table
from tasks.reporting.views.pairs import EVERYTHING, geometry_of
from tasks.reporting.views.study import Study

OPTIONAL = ("samples", "differences", "connectivity", "barriers", "cka", "lens", "divergence")
HOSTILE = 'x<script>alert("1")</script>&|`b`$a_{1}$'


class Tables(HTMLParser):
    """Table id -> rows -> cells, each the list of its lines."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[list[str]]]] = {}
        self.tags: Counter[str] = Counter()
        self.ids: Counter[str] = Counter()
        self._inside = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        named = dict(attrs)
        if named.get("id"):
            self.ids[str(named["id"])] += 1
        if tag == "table":
            self.tables[str(named["id"])] = []
        elif tag == "tr":
            self._rows().append([])
        elif tag in ("td", "th"):
            self._rows()[-1].append([])
            self._inside = True

    def handle_endtag(self, tag: str) -> None:
        self._inside = self._inside and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._inside and data.strip():
            self._rows()[-1][-1].append(data.strip())

    def _rows(self) -> list[list[list[str]]]:
        return list(self.tables.values())[-1]


@pytest.fixture(scope="module")
def document(study: Study) -> Document:
    return build_document(study)


@pytest.fixture(scope="module")
def page(document: Document) -> str:
    return render_html(document)


@pytest.fixture(scope="module")
def parsed(page: str) -> Tables:
    return Tables(page)


def test_accuracies_are_the_frames(study: Study, parsed: Tables) -> None:
    rows = {(cells[0][0], cells[1][0]): cells for cells in parsed.tables["accuracy"][1:]}
    floors = [rows.pop((name, "Same method")) for name in ("Held-out", "Hard")]
    assert all("order" in " ".join(cells[4]) for cells in floors)  # which kind of replicate it is from
    assert len(rows) == study.accuracy.height
    for row in study.accuracy.iter_rows(named=True):
        cells = rows["Held-out" if row["benchmark"] == "heldout" else "Hard", row["run"]]
        interval = f"{percent(row['accuracy'])} ({percent(row['low'])} to {percent(row['high'])})"
        expected = [str(row["correct"]), str(row["n"]), interval, str(row["unparsed"]), str(row["truncated"])]
        assert [cell[0] for cell in cells[2:7]] == expected
        assert cells[7] == [number(row["answer_loss"], 4)]


def test_pair_values_are_the_frames(study: Study, parsed: Tables) -> None:
    rows = {cells[0][0]: cells for cells in parsed.tables["pairs"][1:]}
    frame = study.pair_metrics.filter(EVERYTHING, run_a="sft", run_b="dft")
    value = {(row["metric"], row["k"]): row for row in frame.iter_rows(named=True)}
    header = [" ".join(cell) for cell in parsed.tables["pairs"][0]]
    assert header[2:8] == [
        "Cosine",
        "Angle of u1 and u1', deg",
        *(f"Worst of top-{k} angles, deg" for k in (5, 8)),
        "Smallest of top-8 angles, deg",
        "|u1 u1'|",
    ]
    angles = [*(value["angle_left", k] for k in (1, 5, 8)), value["angle_min_left", 8]]
    expected = [
        number(value["cosine", None]["value"], 3),
        *(number(angle["value"], 1) for angle in angles),
        number(value["u1_overlap", None]["value"], 3),
        number(value["v1_overlap", None]["value"], 3),
        number(value["phi_left", 8]["value"], 3),
        "0.80",  # |dft| / |sft|, the frame having |sft| / |dft| = 1.25
        number(value["orthogonal_fraction_reverse", None]["value"], 3),  # of dft outside sft, in a frame of (sft, dft)
    ]
    assert [cell[0] for cell in rows["dft"][2:]] == expected
    # .765 with spread .00865
    assert rows["dft"][2] == [
        "0.765",
        "[0.756, 0.774]",
        "percentile 100",
        "across data orders 0.746",
        "below the noise floor",
    ]
    low, high = number(angles[0]["low"], 1), number(angles[0]["high"], 1)
    assert rows["dft"][3][1:] == [f"[{low}, {high}]", "null 84.7", "percentile 0"]
    assert rows["dpo"][2][2] == "percentile 3.2"
    assert rows["rift"][2][-2:] == ["across data orders 0.956", "below the noise floor"]  # .981 x .975


def test_pair_tables_end_with_the_floors_and_the_null(parsed: Tables, document: Document) -> None:
    for key in ("pairs", "other-pairs"):
        order, start, null = parsed.tables[key][-3:]
        assert [cell[0] for cell in order[:3]] == ["noise floor: data order", "1 pair", "0.975"]
        assert start[0] == ["noise floor: initialisation"]
        assert {cell[0] for cell in start[1:]} == {"not measured"}
        expected = ["same shape", "0.000", "84.7", "87.5", "89.6", "74.0"]
        expected += ["0.071", "0.071", "0.062", "none", "1.000"]
        assert [cell[0] for cell in null] == ["random subspaces (null)", *expected]
    (pairs,) = (table for section in document.sections for table in section.tables if table.key == "pairs")
    few = "95 % t interval over 16 modules, from one number a layer, 4 of them (too few to be resampled)."
    assert few in pairs.note
    many = interval_note(replace(geometry_of([], pl.DataFrame(schema=PAIR_METRICS_FRAME), None), layers=10))
    assert "95 % bootstrap interval over 0 modules, resampled in whole layers, 10 of them." in many


def test_cosine_matrix_is_the_frames(study: Study, parsed: Tables) -> None:
    header, base, *rows = parsed.tables["cosines"]
    assert {cell[0] for cell in base[1:]} == {"no update"}
    names = [cell[0] for cell in header]
    table = {(cells[0][0], name): cell for cells in rows for name, cell in zip(names, cells, strict=True)}
    for row in study.pair_metrics.filter(EVERYTHING, metric="cosine").iter_rows(named=True):
        assert table[row["run_a"], row["run_b"]][0] == number(row["value"], 3)
        assert table[row["run_b"], row["run_a"]][0] == number(row["value"], 3)
    assert table["sft", "sft-order1"][1] == "noise floor: data order"


def test_every_table_of_results_begins_with_the_base(parsed: Tables) -> None:
    for key in ("headline", "pairs", "other-pairs", "cosines", "spectra", "barriers", "functions", "cka", "training"):
        assert parsed.tables[key][1][0][0] == "base", key
    for key in ("accuracy", "samples", "mcnemar"):
        assert parsed.tables[key][1][1][0] == "base", key


def test_markdown_says_what_the_page_says(document: Document, parsed: Tables) -> None:
    lines = render_markdown(document).splitlines()
    for table in map(condensed, document.tables):
        cells = [[" ".join(cell) for cell in row] for row in parsed.tables[table.key][1:]]
        assert len(cells) == len(table.rows)
        for row, shown in zip(table.rows, cells, strict=True):
            assert [" ".join((cell.marked, *cell.subs)) for cell in row] == shown
            assert f"| {' | '.join(escape(cell.plain) for cell in row)} |" in lines
    for sentence in document.findings.sentences:
        assert f"- {escape(sentence)}" in lines
    for sentence in document.findings.lead:
        assert escape(sentence) in lines


def test_every_sentence_stands_in_a_section(document: Document) -> None:
    standing = [sentence for section in document.sections for sentence in section.said]
    assert set(document.findings.sentences) <= set(standing)
    assert len(document.findings.lead) <= 3
    assert all(len(sentence) <= LONGEST for sentence in document.findings.lead)


def test_the_first_screen_is_sentences_figures_and_one_table_of_a_line_a_run(page: str, document: Document) -> None:
    assert document.headline is not None
    table = condensed(document.headline)
    assert table.key == "headline"
    assert len(table.header) == 7
    assert all(not cell.subs for row in table.rows for cell in row)
    markup = page.split("<script")[0]
    order = [
        'class="lead"',
        'class="tally"',
        'id="figure-cosines"',
        'id="figure-accuracy"',
        'id="headline"',
    ]
    assert [markup.index(one) for one in order] == sorted(markup.index(one) for one in order)
    assert 'class="warning"' not in markup.split('id="headline"')[0]
    for section in document.sections:
        assert f'href="#{section.key}"' in markup
        assert f'id="{section.key}"' in markup


def test_verdicts_at_a_glance_are_the_frames_by_sign_word_and_colour(study: Study, document: Document) -> None:
    assert document.headline is not None
    rows = {row[0].text: row for row in document.headline.rows}
    for row in study.mcnemar.filter(benchmark="heldout", run_a="base").iter_rows(named=True):
        cell = rows[row["run_b"]][4]
        up = row["difference"] < 0  # the frame has the base first
        sign = {"differs": "▲ higher" if up else "▼ lower", "no power": "? undecided"}[row["verdict"]]
        assert cell.marked == f"{points(-row['difference'])} {sign}"
        assert cell.tone == {"differs": "good" if up else "bad", "no power": "open"}[row["verdict"]]
    # .981 x .975 = .956 across data orders, below the floor .975.
    assert [rows["rift"][1].text, rows["rift"][2].text, rows["rift"][2].tone] == ["0.981", "≠ farther (0.956)", "far"]
    assert rows["dpo"][2].text == "⟂ nearly orthogonal (-0.020)"
    assert rows["dpo"][6].text == "1/10 of the rate"
    assert rows["sft-order1"][2].text == "≈ repeat run"


def test_a_claim_is_a_line_with_its_verdict_number_interval_and_why(document: Document) -> None:
    found = {result.claim.statement: result for result in document.claims}
    chosen = ("claims", "open-questions")
    tables = [table for table in document.tables if table.key in chosen]
    signs = {"holds": "✓ holds", "does not hold": "✗ does not hold", "no power": "? no power"}
    seen = []
    for table in tables:
        for claim, verdict, _, _, _, why, *_ in table.rows:
            assert verdict.text == signs.get(found[claim.text].verdict, "– not measured")
            assert why.text or verdict.text == "? no power"
            seen.append(claim.text)
    assert sorted(seen) == sorted(
        one.claim.statement for one in document.claims if one.claim.open or one.verdict != "not measured"
    )
    assert document.tally is not None
    assert sum(number for _, number, _ in document.tally.counts) == sum(not one.claim.open for one in document.claims)


def test_what_a_table_repeats_is_said_once() -> None:
    rows = [
        Cells(name, Cell("1.0", ("same method 0.5", name)), 0, mark="base" if name == "b" else "") for name in "abcd"
    ]
    found = condensed(Table("key", "Title", ("Run", "Accuracy", "Cut"), rows, "The note."))
    assert found.header == ("Run", "Accuracy")
    assert [row[1].subs for row in found.rows] == [("a",), ("b",), ("c",), ("d",)]
    assert found.note == "In every row 0: Cut. Accuracy, in every row: same method 0.5. The note."
    gone = [*rows[:3], *(Cells(name, "not measured", "not measured", mark="floor") for name in "xy")]
    found = condensed(Table("key", "Title", ("Run", "Accuracy", "Cut"), gone, ""))
    assert [row[0].text for row in found.rows] == ["a", "b", "c"]
    assert found.note.startswith("Not measured: x and y.")
    assert [row.mark for row in found.rows] == ["", "base", ""]


def test_the_facts_say_what_was_trained(study: Study) -> None:
    settings = {
        "model": {"base": "tiny"},
        "tiny": {"layers": 3},
        "lora": {"r": 8, "targets": ["q_proj"]},
        "train": {"steps": 72},
    }
    facts = dict(study_facts(replace(study, record={**study.record, "settings": settings, "parameters": 751_104})))
    assert facts["Model"] == "3-layer Qwen3 made for this study, 0.75 M parameters"
    assert facts["LoRA"] == "rank 8 on q"
    assert facts["Training"] == "72 steps, lr 1e-3 and 1e-4"
    assert facts["Rollouts"] == "4,096 on 1,024 problems, 86 % right"
    assert facts["Seeds"] == "1 seed, 1 repeat run of sft"


def test_the_page_is_small_self_contained_and_well_formed(page: str, parsed: Tables) -> None:
    assert len(page.encode()) < 2_000_000
    assert not parsed.tags.keys() & {"link", "img", "iframe", "object"}
    assert "<script src" not in page
    # The charts' code names addresses that it never asks for: the policy forbids it, and test_browser.py watches it.
    markup = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert not re.search(r"url\((?!#)", markup)
    outside = set(re.findall(r'https?://[^"\s<]+', markup)) - {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    assert outside == set()
    assert [name for name, count in parsed.ids.items() if count > 1] == []


def test_figures_are_text_in_the_pages_colours(document: Document, page: str, study: Study) -> None:
    assert [picture.key for picture in document.drawn] == [
        *("cosines", "accuracy", "accuracy-others", "path-boxed", "path-solution", "path-accuracy", "cka"),
        *("layers", "angles", "outside", "spectra", "training"),
    ]
    for picture in document.drawn:
        assert picture.svg in page
        words = re.findall(r">([^<>]+)</text>", picture.svg)
        assert "dpo" in words  # text, not outlines
        assert 'fill="currentColor"' in picture.svg
        assert not re.search(r'(?<![-\w])style="|<style|font-family="(?!sans-serif")', picture.svg)
    cosines = document.drawn[0].svg
    assert ">.981</text>" in cosines
    assert ">– 0.975 floor</text>" in cosines


def test_nothing_from_data_is_markup(study: Study, build_study: Callable[..., Study]) -> None:
    runs = [*study.runs[:2], RunInfo(HOSTILE, HOSTILE, 0, 0, 1e-3), study.runs[-1]]
    hostile = build_study(runs=runs)
    checks = [{"name": HOSTILE, "ok": False, "detail": HOSTILE}]
    meta = {"name": HOSTILE, "checks": checks, "notes": [HOSTILE], "settings": {HOSTILE: HOSTILE}, "machine": HOSTILE}
    hostile = replace(hostile, record={**hostile.record, **meta}, rollouts={HOSTILE: 1})
    document = build_document(hostile)
    page, text = render_html(document), render_markdown(document)
    assert Tables(page).tags["script"] == 5  # our own: two of data, three of code
    assert html.escape(short(HOSTILE), quote=False) in page  # a figure's axis has no room for all of it
    assert "&lt;script&gt;" in page
    assert all(picture.svg in page for picture in document.drawn)
    assert "<script" not in text
    assert r"&amp;\|\`b\`" in text
    # A bar in a name opens no column: all lines of a table have one width.
    blocks = re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)
    assert len(blocks) >= 10
    for block in blocks:
        assert len({line.replace(r"\|", "").count("|") for line in block.splitlines()}) == 1


def test_answers_of_models_are_not_on_the_page(page: str) -> None:
    assert "alert(1)" not in page  # what every completion of the made-up study says


@pytest.mark.parametrize("frame", ["accuracy", "mcnemar", "pair_metrics", "spectra", "training", *OPTIONAL])
def test_a_missing_frame_leaves_a_page_that_says_so(study: Study, frame: str) -> None:
    document = build_document(replace(study, **{frame: getattr(study, frame).clear()}))
    page = render_html(document)
    assert "ot measured" in page
    assert Tables(page).tables["headline"][1][0][0] == "base"
    assert render_markdown(document).count("not measured") + render_markdown(document).count("Not measured") > 1


def test_missing_values_are_not_zeros(study: Study) -> None:
    holes = replace(
        study,
        accuracy=study.accuracy.with_columns(answer_loss=pl.lit(None, pl.Float64())),
        pair_metrics=study.pair_metrics.with_columns(value=pl.lit(None, pl.Float64())),
        rollouts={**study.rollouts, "mixed_groups": None},
    )
    tables = Tables(render_html(build_document(holes))).tables
    sft = next(cells for cells in tables["headline"] if cells[0][0] == "rft")
    assert sft[1] == ["undefined (zero update)"]  # a null in a row
    assert {row[-3][0] for row in tables["accuracy"][1:] if row[1][0] == "rft"} == {"not measured"}
    cells = {cell[0] for row in tables["pairs"][2:-1] for cell in row[2:]}
    assert cells == {"undefined (zero update)", "not measured"}  # a null in a row; a floor without any pair
    assert ["Mixed groups", "not measured"] in [[cell[0] for cell in row] for row in tables["rollouts"]]


def test_an_empty_study_still_has_a_page(study: Study) -> None:
    names = ("accuracy", "mcnemar", "items", "pair_metrics", "spectra", "training")
    empty = Study(runs=[], **{name: getattr(study, name).clear() for name in names}, rollouts={}, record={})
    document = build_document(empty)
    page = render_html(document)
    assert "No accuracy was measured, neither for the base nor for any method." in page
    assert Tables(page).tables["headline"][1][0][0] == "base"
    assert "<svg" not in page


def test_a_commit_with_changes_says_so(study: Study) -> None:
    document = build_document(replace(study, record={**study.record, "commit": "0123456789ab+changes"}), lambda *_: [])
    (record,) = (table for table in document.tables if table.key == "versions")
    assert {row[0].text: row[1].text for row in record.rows}["commit"] == "0123456789ab+changes"


def test_rollouts_show_shares_and_what_was_dropped(parsed: Tables) -> None:
    rows = dict([cell[0] for cell in row] for row in parsed.tables["rollouts"][1:])
    # 3522 / 4096 = 86.0 %, 311 / 1024 = 30.4 %, 17 / 4096 = 0.4 %
    assert rows["Correct"] == "3522 (86.0 %)"
    assert rows["Mixed groups"] == "311 (30.4 %)"
    assert rows["Dropped: longer than the model's context"] == "17 (0.4 %)"
    assert rows["Disagreements"] == "not measured"


def test_stages_tell_hits_from_work(document: Document, parsed: Tables) -> None:
    first, *_, last = parsed.tables["stages"][1:]
    assert [cell[0] for cell in first] == ["pretrain", "pretrain tiny", "from the cache", "1 min 58 s", "0.0 s"]
    assert [cell[0] for cell in last] == ["train", "sft seed=0 data_seed=1 lr=1e-3", "computed", "9.5 s", "96.0 s"]
    totals = {row[0][0]: [cell[0] for cell in row[1:]] for row in parsed.tables["stage-totals"][1:]}
    # 7 trainings of 9.5 s
    assert totals["train"] == ["7", "0", "66.5 s", "9.5 s"]
    assert totals["pretrain"] == ["1", "1", "1 min 58 s", "1 min 58 s"]
    stages = next(table for section in document.sections for table in section.tables if table.key == "stage-totals")
    # 7 computed stages of 9.5 s
    assert "2 of 9 stages came from the cache" in stages.note
    assert "66.5 s summed over stages" in stages.note


def test_stages_tell_the_most_memory_of_their_workers(study: Study) -> None:
    """3,651,000,000 bytes are 3.7 GB; a stage without a worker has none, and a study without any no such column."""
    plain = stage_tables(study)[1]
    stages = [dict(stage) for stage in study.record["stages"]]
    stages[0]["peak_bytes"] = 3_651_000_000
    told = stage_tables(replace(study, record={**study.record, "stages": stages}))[1]
    assert told.header == (*plain.header, "Memory of a worker at most")
    first = min(range(len(stages)), key=lambda place: stages[place]["started"])
    assert first == 0
    assert [row[-1].text for row in told.rows[:2]] == ["3.7 GB", "not measured"]


def test_the_terminal_prints_the_headline_in_80_columns(study: Study) -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(headline_renderable(replace(study, record={**study.record, "name": "[red]tiny[/red]"})))
    text = console.export_text()
    assert "[red]tiny[/red]" in text
    lines = {line.split()[0]: line.split() for line in text.splitlines() if line.strip()}
    for row in study.accuracy.filter(benchmark="heldout").iter_rows(named=True):
        assert lines[row["run"]][1] == percent(row["accuracy"])
    assert lines["rift"][-3:] == ["0.981", "≠", "2.800"]
    assert lines["dpo"][-3:] == ["-0.021", "⟂", "0.210"]
    assert max(len(line) for line in text.splitlines()) <= 80
    legend = text[text.index("vs base, points:") :].rstrip().splitlines()
    assert len(legend) <= 2
