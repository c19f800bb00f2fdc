"""What pages, terminal and MLflow say of small made-up studies, word for word: `approved.md` beside this file.

Other tests hold numbers, verdicts and what may not be said; here is how it is said. After a change of words:
``make approve``, and read the difference before it is committed.
"""

from __future__ import annotations

import difflib
import io
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from rich.console import Console, RenderableType

from tasks.core.results import RunInfo
from tasks.reporting.findings.headline import findings
from tasks.reporting.many.document import many_document
from tasks.reporting.many.frames import paths_frame
from tasks.reporting.many.joined import join
from tasks.reporting.many.studies import read_studies
from tasks.reporting.many.sweep import Sweep
from tasks.reporting.publish.published import study_note
from tasks.reporting.render.comparison_document import comparison_document
from tasks.reporting.render.document import build_document
from tasks.reporting.render.markdown import render_markdown
from tasks.reporting.render.terminal import comparison_renderable, headline_renderable
from tasks.reporting.views.study import Comparison, Study
from tests.lab.many_studies import made, runs_of, write
from tests.unit.reporting.conftest import RUNS, make_comparison, make_study
from tests.unit.reporting.test_comparison import TWINS, without_update
from tests.unit.reporting.test_comparison import changed as changed_frames
from tests.unit.reporting.test_floors import INITIALISATIONS
from tests.unit.reporting.test_sweep import CELLS, A, B, path
from tests.unit.reporting.test_unended import cut

APPROVED = Path(__file__).with_name("approved.md")
ROWS = 3
"""Of a table's rows so many are kept: the others are numbers."""


def terminal(shown: RenderableType) -> str:
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(shown)
    return "\n".join(line.rstrip() for line in console.export_text().splitlines())


def page(text: str) -> str:
    """A report.md with the first `ROWS` rows of its tables."""
    kept: list[str] = []
    inside = 0
    for line in text.splitlines():
        inside = inside + 1 if line.startswith("|") else 0
        if inside <= 2 + ROWS:
            kept.append(line)
        elif inside == 3 + ROWS:
            kept.append("| ... |")
    return "\n".join(kept)


def sentences(tables: Study) -> str:
    found = findings(tables)
    return "\n".join(
        (*(f"! {one}" for one in found.warnings), *found.lead, "", *(f"- {one}" for one in found.sentences))
    )


def of(study: Study, metric: str, value: float) -> Study:
    return replace(
        study, pair_metrics=study.pair_metrics.with_columns(
            value=pl.when(pl.col("metric") == metric).then(value).otherwise("value")
        )
    )  # fmt: skip


def comparison(frames: dict[str, pl.DataFrame], runs: list[RunInfo]) -> Comparison:
    return Comparison(runs=runs, reference=runs[0], **frames)


def unlike(frames: dict[str, pl.DataFrame]) -> dict[str, pl.DataFrame]:
    """dpo is merged and of another base, rft is a zero update, and modules are missing."""
    of_dpo = pl.col("run") == "dpo"
    other = changed_frames(
        without_update(frames, "rft"), "adapters",
        base=pl.when(of_dpo).then(pl.lit("org/other")).otherwise("base"),
        update=pl.when(of_dpo).then(pl.lit("merged - base")).otherwise("update"),
    )  # fmt: skip
    rows = [("dpo", "sft", f"layers.{i}.mlp.up_proj") for i in range(5)]
    return {**other, "unshared": pl.DataFrame(rows, schema=frames["unshared"].schema, orient="row")}


def many(folder: Path, sweep: Sweep | None = None) -> str:
    """Two seeds, and the first of them at a tenth of the rate."""
    norms = {"sft": 2.0, "rft": 2.2, "dpo": 0.2, "sft-order1": 2.1}
    studies = {
        "zero": made("zero", norms=norms, cosines={("sft", "rft"): 0.9, ("sft", "sft-order1"): 0.95}),
        "one": made("one", runs_of(1), norms={"sft": 2.4, "rft": 2.6, "dpo": 0.3, "sft-order2": 2.5},
                    settings={"seed": 1}),
        "low": made("low", runs_of(0, 1e-4, ratio=1.0, replicate=False), norms={"sft": 0.5, "rft": 0.55, "dpo": 0.2},
                    settings={"train.lr": 1e-4, "dpo.lr_ratio": 1.0}),
    }  # fmt: skip
    joined = join(read_studies([(name, write(folder / name, tables)) for name, tables in studies.items()]))
    return page(render_markdown(many_document(replace(joined, sweep=sweep) if sweep else joined)))


def missing(study: Study) -> Study:
    frames = ("mcnemar", "spectra", "training", "samples", "connectivity", "barriers", "cka", "lens", "divergence",
              "retention")  # fmt: skip
    return replace(study, **{name: getattr(study, name).clear() for name in frames})


CASES: dict[str, Callable[[Path], str]] = {
    "report.md of a study": lambda _: page(render_markdown(build_document(make_study()))),
    "the terminal after a study": lambda _: terminal(headline_renderable(make_study())),
    "the description of its MLflow run": lambda _: study_note(
        make_study(), findings(make_study()).lead, findings(make_study()).warnings, {RUNS[1]: "#/runs/abc"}
    ),
    "without a repeat run": lambda _: sentences(replace(make_study(), runs=RUNS[:-1])),
    "two initialisations": lambda _: sentences(make_study(INITIALISATIONS)),
    "nobody solves a problem": lambda _: sentences(make_study(solve=0.0)),
    "the base does not end its answers": lambda _: sentences(cut(make_study(), "base", 0.5).judged()),
    "a method is no nearer to itself than chance": lambda _: sentences(of(make_study(), "cosine", 0.06)),
    "little was measured": lambda _: page(render_markdown(build_document(missing(make_study())))),
    "report.md of a comparison": lambda _: page(
        render_markdown(comparison_document(comparison(make_comparison(TWINS, base=True), TWINS), ("a note",)))
    ),
    "the terminal after a comparison": lambda _: terminal(comparison_renderable(make_comparison(TWINS), "sft")),
    "a comparison of what is unlike": lambda _: page(
        render_markdown(comparison_document(comparison(unlike(make_comparison(TWINS[:4])), TWINS[:4]), ()))
    ),
    "report.md of many studies": many,
    "report.md of a sweep": lambda folder: many(
        folder, Sweep("tiny", CELLS, paths_frame([(A, B)], *path(A, B, (1.0, 1.5, 1.2))))
    ),
}


def approved() -> dict[str, str]:
    parts = re.split(r"^<!-- case: (.*) -->\n", APPROVED.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], (text.strip("\n") for text in parts[2::2]), strict=True))


@pytest.mark.skipif("COLINEAR_APPROVE" in os.environ, reason="the words are being written down")
@pytest.mark.parametrize("case", CASES)
def test_the_words_are_those_that_were_approved(case: str, tmp_path: Path) -> None:
    before, now = approved().get(case, "").splitlines(), CASES[case](tmp_path).strip("\n").splitlines()
    difference = "\n".join(difflib.unified_diff(before, now, "approved.md", "now", n=0, lineterm=""))
    assert not difference, f"{difference}\n\nIf that is meant: make approve"


@pytest.mark.skipif("COLINEAR_APPROVE" not in os.environ, reason="make approve asks for it")
def test_the_words_are_written_down(tmp_path: Path) -> None:
    texts = {case: build(tmp_path / str(place)) for place, (case, build) in enumerate(CASES.items())}
    told = "".join(f"\n<!-- case: {case} -->\n{text.strip(chr(10))}\n" for case, text in texts.items())
    APPROVED.write_text(f"Written by `make approve`; what is in here is said by `test_approved.py`.\n{told}")
    assert approved() == {case: text.strip("\n") for case, text in texts.items()}  # no text reads as another's mark


def test_every_approved_text_has_its_case() -> None:
    assert list(approved()) == list(CASES)
