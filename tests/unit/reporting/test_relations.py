"""What pairs look like, on the page, in the terminal and as files."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path

import polars as pl
import pytest
from rich.console import Console

from tasks.core.frames import RELATIONS
from tasks.core.results import RunInfo
from tasks.reporting.publish.write import write_comparison
from tasks.reporting.render.terminal import comparison_renderable
from tasks.reporting.tables.relations import MOST_PAIRS, relation_lines, relations_table

Frames = dict[str, pl.DataFrame]
RUNS = [RunInfo(name, name, None, None, None) for name in ("sft", "rft", "dft")]
SAID = {
    ("sft", "rft"): ("one training, two orders", True, 0.97),
    ("sft", "dft"): ("cannot say", False, 0.7),
    ("rft", "dft"): ("one task, two initialisations", True, 0.3),
}


def relations(names: Sequence[str], said: dict[tuple[str, str], tuple[str, bool, float]]) -> pl.DataFrame:
    """All pairs of ``names``, unrelated where ``said`` has them not."""
    rows = []
    for a, b in combinations(names, 2):
        relation, related, cosine = said.get((a, b), ("unrelated", False, 0.01))
        rows.append(
            {
                "run_a": a, "run_b": b, "relation": relation, "related": related, "reason": f"cosine {cosine:.3f}",
                "modules": 16, "cosine": cosine, "norm_ratio": 1.0, "lora_a_cosine": 0.99, "input_overlap": 0.98,
                "u1_overlap": None,
            }
        )  # fmt: skip
    return pl.DataFrame(rows, schema=RELATIONS)


@pytest.fixture(scope="module")
def frames(build_comparison: Callable[..., Frames]) -> Frames:
    return {**build_comparison(RUNS), "relations": relations([info.run for info in RUNS], SAID)}


def test_of_few_adapters_every_pair_has_a_line_the_related_first() -> None:
    assert relation_lines(relations(["sft", "rft", "dft"], SAID)) == [
        "sft ~ rft: one training, two orders (cosine 0.970)",
        "rft ~ dft: one task, two initialisations (cosine 0.300)",
        "sft ~ dft: cannot say (cosine 0.700)",
    ]


def test_of_many_adapters_only_related_pairs_have_a_line_and_the_rest_is_counted() -> None:
    names = ["sft", "rft", "dft", *(f"other-{i}" for i in range(3))]
    frame = relations(names, SAID)
    assert frame.height == 15 > MOST_PAIRS
    assert relation_lines(frame) == [
        "sft ~ rft: one training, two orders (cosine 0.970)",
        "rft ~ dft: one task, two initialisations (cosine 0.300)",
        "the other 13 pairs: 12 unrelated, 1 cannot say",
    ]
    table = relations_table(frame)
    assert [[cell.text for cell in row[:3]] for row in table.rows] == [
        ["sft", "rft", "one training, two orders"],
        ["rft", "dft", "one task, two initialisations"],
    ]
    assert table.note.startswith("2 of 15 pairs; relations.parquet has all.")


def test_the_page_has_them_beside_the_cosines_and_the_evidence_on_hover(frames: Frames, tmp_path: Path) -> None:
    written = write_comparison(RUNS, frames, [], "sft", tmp_path)
    assert (tmp_path / "relations.parquet") in written
    page, text, record = (path.read_text() for path in written[:3])
    glance = text.split("## Every adapter at a glance")[1].split("##")[0]
    header, _, *rows = [line for line in glance.splitlines() if line.startswith("|")]
    place = [cell.strip() for cell in header.split("|")].index("Looks like")
    assert [row.split("|")[place].strip() for row in rows] == ["–", "one training, two orders", "cannot say"]
    assert '<td class="n" title="cosine 0.970">' in page or 'title="cosine 0.970"' in page
    assert "### What pairs look like" in text
    pairs = json.loads(record)["relations"]
    assert [(pair["run_a"], pair["run_b"], pair["relation"]) for pair in pairs] == [
        (a, b, SAID[a, b][0]) for a, b in combinations(("sft", "rft", "dft"), 2)
    ]
    assert pairs[0]["u1_overlap"] is None


def test_the_terminal_has_a_line_a_pair(frames: Frames) -> None:
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(comparison_renderable(frames, "sft"))
    lines = console.export_text().splitlines()
    begins = lines.index("Looks like:")
    assert lines[begins + 1] == "- sft ~ rft: one training, two orders (cosine 0.970)"
    shown = [line.split(":")[0] for line in lines[begins + 1 : begins + 4]]
    assert shown == ["- sft ~ rft", "- rft ~ dft", "- sft ~ dft"]
