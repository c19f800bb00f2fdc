"""The page of `colinear compare`: its warnings, its numbers, its size, and nothing from adapters is markup."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal
from rich.console import Console

from tasks.core.errors import InputError
from tasks.core.results import RunInfo
from tasks.reporting.findings.comparison import comparison_findings
from tasks.reporting.publish.write import write_comparison
from tasks.reporting.render.comparison_document import comparison_document
from tasks.reporting.render.terminal import comparison_renderable
from tasks.reporting.views.pairs import geometry_of
from tasks.reporting.views.study import Comparison

Frames = dict[str, pl.DataFrame]
Build = Callable[..., Frames]

FRAMES = ("pair_metrics", "spectra", "adapters", "unshared")
HOSTILE = 'x<script>alert("1")</script>&|`b`$a_{1}$[red]'


def stranger(name: str, method: str | None = None) -> RunInfo:
    """An adapter of which nothing is known but its name."""
    return RunInfo(name, method or name, None, None, None)


RUNS = [stranger(name) for name in ("sft", "rft", "dft", "dpo")]
TWINS = [*RUNS, stranger("sft-order1", "sft")]


@pytest.fixture(scope="module")
def frames(build_comparison: Build) -> Frames:
    return build_comparison(RUNS)


def warnings_of(runs: list[RunInfo], frames: Frames) -> tuple[str, ...]:
    return comparison_findings(Comparison(runs=runs, reference=runs[0], **frames)).warnings


def changed(frames: Frames, name: str, **columns: pl.Expr) -> Frames:
    return {**frames, name: frames[name].with_columns(**columns)}


def metric(name: str, value: float | None, *runs: str) -> pl.Expr:
    """The value column with one metric set, for the pairs within ``runs`` or for all."""
    chosen = pl.col("metric") == name
    if runs:
        chosen &= pl.col("run_a").is_in(runs) & pl.col("run_b").is_in(runs)
    return pl.when(chosen).then(value).otherwise("value")


def test_every_file_is_there_and_equal_input_gives_equal_bytes(frames: Frames, tmp_path: Path) -> None:
    first, second = (write_comparison(RUNS, frames, ["one note"], "sft", tmp_path / name) for name in "ab")
    assert [path.name for path in first] == [
        "report.html",
        "report.md",
        "compare.json",
        *(f"{name}.parquet" for name in FRAMES),
        *(f"{name}.{kind}" for name in ("cosines", "angles", "layers", "spectra") for kind in ("svg", "png")),
    ]
    assert sorted(path for path in (tmp_path / "a").rglob("*") if path.is_file()) == sorted(first)
    for a, b in zip(first, second, strict=True):
        assert a.read_bytes() == b.read_bytes(), a.name
    for name in FRAMES:
        assert_frame_equal(pl.read_parquet(tmp_path / "a" / f"{name}.parquet"), frames[name])
    record = json.loads(first[2].read_text())
    assert (record["reference"], record["notes"]) == ("sft", ["one note"])
    assert [row["run"] for row in record["adapters"]] == ["sft", "rft", "dft", "dpo"]
    assert record["noise_floor"]["initialisation"] is None


def test_what_cannot_be_written_is_refused_before_a_folder_is_made(frames: Frames, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(InputError, match="reference: nobody is none of the adapters; choose one of sft, rft"):
        write_comparison(RUNS, frames, [], "nobody", out)
    with pytest.raises(InputError, match="two adapters have one name"):
        write_comparison([*RUNS, RUNS[0]], frames, [], "sft", out)
    with pytest.raises(InputError, match="frames missing: spectra"):
        write_comparison(RUNS, {name: frame for name, frame in frames.items() if name != "spectra"}, [], "sft", out)
    with pytest.raises(InputError, match=r"adapters: missing columns \['kind'\]"):
        write_comparison(RUNS, {**frames, "adapters": frames["adapters"].drop("kind")}, [], "sft", out)
    assert not out.exists()


def test_a_shared_initialisation_is_the_first_warning(frames: Frames) -> None:
    first, floor = warnings_of(RUNS, frames)
    assert first.startswith("Shared initialisation: sft, rft, dft and dpo began from one lora_A (6 pairs, ")
    assert "--replicate A=B" in floor


def test_two_groups_of_initialisations_are_told_apart(frames: Frames) -> None:
    apart = changed(frames, "pair_metrics", value=metric("lora_a_cosine", 0.02))
    assert not any("Shared initialisation" in warning for warning in warnings_of(RUNS, apart))
    groups = changed(apart, "pair_metrics", value=metric("lora_a_cosine", 0.99, "sft", "dpo"))
    groups = changed(groups, "pair_metrics", value=metric("lora_a_cosine", 0.98, "rft", "dft"))
    (warning,) = (text for text in warnings_of(RUNS, groups) if "Shared" in text)
    assert (
        "sft and dpo; rft and dft began from one lora_A (2 pairs, cosines of their lora_A from 0.980 to 0.990)"
        in warning
    )


def without_update(frames: Frames, run: str) -> Frames:
    """The frames as they are where ``run`` has not been trained: what needs its direction is null."""
    keeps = pl.col("metric") == "lora_a_cosine"
    first, second, ratio = pl.col("run_a") == run, pl.col("run_b") == run, pl.col("metric") == "norm_ratio"
    theirs = first & (pl.col("metric") == "orthogonal_fraction_reverse")
    theirs |= second & (pl.col("metric") == "orthogonal_fraction")
    theirs &= pl.col("value").is_not_null()  # null where the other one is zero too
    value = (
        pl.when(keeps | ~(first | second)).then("value").when(theirs).then(1.0).when(ratio & first).then(0.0)
    )  # fmt: skip
    sizes = pl.when(pl.col("run") != run).then("value").when(pl.col("metric") == "norm").then(0.0)
    return changed(changed(frames, "pair_metrics", value=value), "spectra", value=sizes)


def test_a_zero_update_is_named_and_its_measures_are_undefined(frames: Frames, tmp_path: Path) -> None:
    nothing = without_update(frames, "dpo")
    warnings = warnings_of(RUNS, nothing)
    (said,) = (one for one in warnings if one.startswith("Zero update"))
    assert said.startswith("Zero update: dpo changes no weight")
    assert not any("Identical" in warning for warning in warnings)
    both = warnings_of(RUNS, without_update(nothing, "rft"))
    assert any(one.startswith("Zero update: rft and dpo change no weight") for one in both)
    page, text = (path.read_text() for path in write_comparison(RUNS, nothing, [], "sft", tmp_path)[:2])
    undefined = "undefined (zero update)"

    def cells(title: str, row: str) -> list[str]:
        part = text.split(f"### {title}")[1].split("###")[0]
        return [cell.strip() for cell in next(x for x in part.splitlines() if x.startswith(f"| {row} ")).split("|")]

    pair = cells("Against sft", "dpo")
    assert pair[1:3] == ["dpo", "sft"]
    assert pair[3:-3] == [undefined] * (len(pair) - 6)
    assert pair[-3:-1] == ["0.00", undefined]  # against sft its norm is 0, and the norm ratio with it
    assert cells("Cosine between updates", "dpo")[2:-1] == [undefined] * 4
    assert cells("Cosine between updates", "rft")[2:-1][1] == "1.000"
    assert cells("Size and rank of the updates", "dpo")[2:-1] == ["0.000", *[undefined] * 3]
    assert undefined not in cells("Size and rank of the updates", "rft")
    drawing = page.split('<figure id="figure-cosines"')[1].split("</figure>")[0]
    assert ">zero</text>" in drawing
    assert ">n/m<" not in drawing
    assert "zero: an update of zero, which has no direction." in drawing


def test_a_measure_nobody_took_is_not_undefined(frames: Frames) -> None:
    view = geometry_of(RUNS, without_update(frames, "dpo")["pair_metrics"], RUNS[0])
    assert view.zero == {"dpo"}
    assert view.missing("sft", "rft", "angle_left", 99) == "not measured"
    above = changed(frames, "pair_metrics", value=metric("phi_left", None, "sft", "rft"))
    view = geometry_of(RUNS, above["pair_metrics"], RUNS[0])
    assert not view.zero
    for a, b in (("sft", "rft"), ("rft", "sft")):
        assert view.missing(a, b, "phi_left", 5) == "undefined"  # above the rank, say; the updates have a direction
    empty = geometry_of(RUNS, frames["pair_metrics"].clear(), RUNS[0])
    assert not empty.zero
    assert empty.missing("sft", "rft", "cosine") == "not measured"
    assert empty.cosine("sft", "sft") == 1.0


def test_identical_adapters_are_named_and_near_ones_are_not(frames: Frames) -> None:
    same = changed(frames, "pair_metrics", value=metric("cosine", 1 - 1e-12, "sft", "rft"))
    assert not any("Identical" in warning for warning in warnings_of(RUNS, same))  # the norm ratio is 1.25
    same = changed(same, "pair_metrics", value=metric("norm_ratio", 1.0, "sft", "rft"))
    (warning,) = (text for text in warnings_of(RUNS, same) if "Identical" in text)
    assert warning.startswith("Identical adapters: sft and rft have the same update.")
    near = changed(same, "pair_metrics", value=metric("cosine", 0.99999, "sft", "rft"))
    assert not any("Identical" in warning for warning in warnings_of(RUNS, near))


def test_bases_missing_modules_and_merged_updates_are_said(frames: Frames) -> None:
    of_dpo = pl.col("run") == "dpo"
    other = changed(
        frames,
        "adapters",
        base=pl.when(of_dpo).then(pl.lit("org/other")).otherwise("base"),
        update=pl.when(of_dpo).then(pl.lit("merged - base")).otherwise("update"),
        kind=pl.when(of_dpo).then(pl.lit("DoRA")).otherwise("kind"),
    )
    missing = [("dpo", "sft", f"layers.{i}.mlp.up_proj") for i in range(5)] + [("rft", "sft", "lm_head")]
    other["unshared"] = pl.DataFrame(missing, schema=frames["unshared"].schema, orient="row")
    _, bases, unshared, merged, _ = warnings_of(RUNS, other)
    assert bases.startswith("Different bases: org/base-1B (sft, rft and dft) and org/other (dpo).")
    assert (
        "5 modules of dpo are not in sft (layers.0.mlp.up_proj, layers.1.mlp.up_proj, layers.2.mlp.up_proj and 2 more)"
    ) in unshared
    assert "1 module of rft is not in sft (lm_head)" in unshared
    assert "dpo (DoRA)" in merged


def test_the_extremes_come_with_interval_floor_and_null(build_comparison: Build) -> None:
    frames = build_comparison(TWINS)
    found = comparison_findings(Comparison(runs=TWINS, reference=TWINS[0], **frames))
    assert not any("--replicate" in warning for warning in found.warnings)
    # Spread .01 * (.958 + .1) and .01 * (.021 + .1); sft~sft-order1 (.975) is the floor itself.
    nearest, farthest = found.sentences
    assert "sft and rft, cosine 0.958 [0.947, 0.969], across data orders 0.934, below the noise floor" in nearest
    assert "sft and dpo, cosine -0.021 [-0.022, -0.020], across data orders -0.021" in farthest


def test_one_pair_is_told_once(build_comparison: Build) -> None:
    frames = build_comparison(RUNS[:2])
    found = comparison_findings(Comparison(runs=RUNS[:2], reference=RUNS[0], **frames))
    (first,) = found.sentences
    assert first.startswith("The one pair: sft and rft, cosine 0.958 [0.947, 0.969], no noise floor measured,")
    assert found.lead[0] == "Cosine to sft: near-copies: rft 0.958."


def test_the_page_shows_the_pairs_the_updates_and_the_adapters(build_comparison: Build, tmp_path: Path) -> None:
    frames = build_comparison(TWINS, base=True)
    page, text, *_ = (path.read_text() for path in write_comparison(TWINS, frames, ["a note"], "sft", tmp_path)[:3])
    assert [title for title in re.findall(r"<h2>(.*?)</h2>", page.split("<script")[0])] == [
        "Every adapter at a glance",
        "Notes (1)",
        "Explore",
        "Pairs",
        "The updates",
        "The adapters",
    ]
    assert re.findall(r'<figure id="figure-(\w+)"', page) == ["cosines", "angles", "layers", "spectra"]
    assert "<summary>All other pairs</summary>" in page
    rows = {
        line.split(" | ")[0].strip("| "): line for line in text.split("### Against sft")[1].split("###")[0].splitlines()
    }
    assert (
        "| 0.765 (\\[0.756, 0.774\\], percentile 100, across data orders 0.746, below the noise floor) |" in rows["dft"]
    )
    assert rows["noise floor: data order"].startswith("| noise floor: data order | 1 pair | 0.975 |")
    assert rows["random subspaces (null)"].startswith("| random subspaces (null) | same shape | 0.000 | 84.7 |")
    base = text.split("### What the updates do to the base's weights")[1]
    assert "| dft | 1.50 | 1.50 | 4.25 | 4.25 | 3.75 | 3.75 | 0.00123 | 0.8125 |" in base
    assert "| dft | adapters/dft | org/base-1B | LoRA | scale \\* B A | 8 | 16 | 65,536 | 262.4 kB |" in text
    assert 'href="compare.json"' in page
    assert "study.json" not in page


def test_pairs_of_other_ranks_have_their_own_largest_angle(frames: Frames, tmp_path: Path) -> None:
    of_dpo = (pl.col("run_a") == "dpo") | (pl.col("run_b") == "dpo")
    small = {**frames, "pair_metrics": frames["pair_metrics"].filter(~(of_dpo & (pl.col("k") > 5).fill_null(False)))}
    text = write_comparison(RUNS, small, [], "sft", tmp_path)[1].read_text().split("### Against sft")[1]
    assert "| Worst of top-5 angles, deg | Worst at the largest k, deg | Smallest of top-5 angles, deg |" in text
    dpo, dft = (next(line for line in text.splitlines() if line.startswith(f"| {run} |")) for run in ("dpo", "dft"))
    assert "top-5, null 87.5" in dpo
    assert "top-8, null 89.6" in dft
    null = next(line for line in text.splitlines() if line.startswith("| random subspaces"))
    # 84 + .7 * 8 = 89.6 for two pairs and 84 + .7 * 5 = 87.5 for one: mean 88.9
    assert "| 88.9 (87.5 to 89.6) |" in null


def test_a_page_of_28_adapters_is_capped_and_small(build_comparison: Build, tmp_path: Path) -> None:
    runs = [RUNS[0], *(stranger(f"organisation/an-adapter-with-a-long-name-{i:02d}") for i in range(27))]
    frames = build_comparison(runs, layers=3)
    page, text = (path.read_text() for path in write_comparison(runs, frames, [], "sft", tmp_path)[:2])
    assert len(page.encode()) < 2_500_000  # 0.9 MB of it the charts' code
    assert "All other pairs: the 60 nearest of 351" in page
    assert "pair_metrics.parquet has all" in text
    others = text.split("### All other pairs")[1].split("###")[0]
    assert others.count("\n| organisation/") == 60
    assert "In colour: the nearest and the farthest; the other 19 in grey." in page
    # The ends of these names differ, so none is numbered before its name; after it is the number of its column.
    assert ">organisati…ong-name-20 22<" in page


def test_names_that_are_shortened_alike_are_numbered(build_comparison: Build, tmp_path: Path) -> None:
    runs = [stranger("organisation/" + "x" * i + "/adapter-of-long-name") for i in (1, 2)]
    page = write_comparison(runs, build_comparison(runs), [], runs[0].run, tmp_path)[0].read_text()
    assert ">1: organisati…f-long-name<" in page
    assert ">2: organisati…f-long-name<" in page


def test_nothing_from_adapters_is_markup(build_comparison: Build, tmp_path: Path) -> None:
    runs = [stranger(HOSTILE), stranger(f"{HOSTILE}2")]
    frames = changed(
        build_comparison(runs), "adapters", **{name: pl.lit(HOSTILE) for name in ("source", "base", "kind", "note")}
    )
    frames["unshared"] = pl.DataFrame([[HOSTILE] * 3], schema=frames["unshared"].schema, orient="row")
    page, text = (path.read_text() for path in write_comparison(runs, frames, [HOSTILE], HOSTILE, tmp_path)[:2])
    assert "x<script" not in page
    assert page.count("</script>") == 5  # our own: two of data, three of code
    assert "<script" not in text
    assert "&lt;script&gt;" in page
    for block in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
        assert len({line.replace(r"\|", "").count("|") for line in block.splitlines()}) == 1
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(comparison_renderable(frames, HOSTILE))
    assert "[red]" in console.export_text()


def test_what_was_not_measured_is_said(frames: Frames, tmp_path: Path) -> None:
    empty = {name: frame.clear() for name, frame in frames.items()}
    page, text = (path.read_text() for path in write_comparison(RUNS, empty, [], "sft", tmp_path)[:2])
    assert "<svg" not in page
    for table in ("### Against sft", "### Size and rank of the updates"):
        assert "ot measured" in text.split(table)[1].split("###")[0]
    assert "rft and sft" in text.split("### Against sft")[1].split("Not measured: ")[1].split(".")[0]


def test_the_terminal_has_a_row_an_adapter_in_80_columns(build_comparison: Build) -> None:
    frames = build_comparison(TWINS)
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(comparison_renderable(frames, "sft"))
    text = console.export_text()
    lines = {line.split()[0]: line.split() for line in text.splitlines() if line.strip()}
    assert " ".join(lines["adapter"]) == "adapter cosine reads as top angle norm shared note"
    # arccos .765 = 40.09 degrees, half of it for the first angle; 4 layers of 4 modules
    assert lines["dft"][1:] == ["0.765", "≠", "farther", "20.0°", "2.800", "16", "of", "16", "same", "lora_A"]
    assert " ".join(lines["sft-order1"]).startswith("sft-order1 0.975 ≈ as a repeat run")
    assert lines["sft"][1:] == ["–", "the", "reference", "–", "2.800", "–"]
    assert "near-copies: sft-order1 0.975 and rft 0.958; alike: dft 0.765; near zero: dpo -0.021." in " ".join(
        text.split()
    )
    assert max(len(line) for line in text.splitlines()) <= 80


def test_seeds_that_are_known_survive_the_frame(build_comparison: Build) -> None:
    runs = [RunInfo("sft", "sft", 0, 0, 1e-3), RunInfo("dft", "sft", 1, 0, 1e-3), stranger("rft")]
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(comparison_renderable(build_comparison(runs), "sft"))
    assert "0.765 from another initialisation" in " ".join(console.export_text().split())


def test_copies_of_a_base_are_one_and_another_is_singled_out(frames: Frames) -> None:
    copies = ["google/gemma-3-270m-it", "unsloth/gemma-3-270m-it", "/models/gemma-3-270m-it", "google/gemma-3-270m-it"]
    same = {**frames, "adapters": frames["adapters"].with_columns(base=pl.Series(copies))}
    told = warnings_of(RUNS, same)
    assert not any("Different bases" in warning for warning in told)
    (spelt,) = (warning for warning in told if "spelt" in warning)
    assert spelt.startswith("One base, spelt in 3 ways: google/gemma-3-270m-it, unsloth/gemma-3-270m-it and /models/")
    other = {
        **frames,
        "adapters": frames["adapters"].with_columns(base=pl.Series([*copies[:3], "google/gemma-3-1b-it"])),
    }
    (different,) = (warning for warning in warnings_of(RUNS, other) if "Different" in warning)
    assert different.endswith("so the cosines and angles of dpo mean little.")
    facts = dict(comparison_document(Comparison(runs=RUNS, reference=RUNS[0], **same), ()).facts)
    assert facts["Base"] == "gemma-3-270m-it (3 spellings)"
    table = comparison_document(Comparison(runs=RUNS, reference=RUNS[0], **other), ()).headline
    assert table is not None
    assert [row[-1].text for row in table.rows] == ["", "same lora_A", "same lora_A", "same lora_A, other base"]


def test_an_adapter_that_was_hardly_trained_is_said_first(frames: Frames) -> None:
    of_dpo = (pl.col("run") == "dpo") & (pl.col("metric") == "norm")
    small = changed(frames, "spectra", value=pl.when(of_dpo).then(0.007).otherwise("value"))
    document = comparison_document(Comparison(runs=RUNS, reference=RUNS[0], **small), ())
    assert document.findings.lead[-1] == "Hardly trained: dpo (norm 0.00700 against 2.80)."
    assert document.headline is not None
    assert {row[0].text: row[-1].text for row in document.headline.rows}["dpo"] == "hardly trained, same lora_A"


def test_a_slightly_negative_cosine_is_near_zero_and_not_opposite() -> None:
    from tasks.reporting.tables.adapters import kind_of_cosine

    found = [kind_of_cosine(value) for value in (0.95, 0.6, 0.06, 0.04, -0.097, -0.2)]
    assert found == ["near-copy", "alike", "weakly alike", "near zero", "near zero", "opposite"]
