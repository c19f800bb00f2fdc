"""Several studies joined: one training counted once, spreads by hand, bases and settings told apart."""

from __future__ import annotations

import csv
import math
import shutil
import statistics
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tasks.core.errors import InputError
from tasks.core.frames import ON_POLICY
from tasks.core.results import RunInfo
from tasks.reporting.estimates import spread
from tasks.reporting.many.answers import answers_table
from tasks.reporting.many.claim_tables import claims_frame
from tasks.reporting.many.document import many_document
from tasks.reporting.many.figures import on_policy_picture
from tasks.reporting.many.frames import differences
from tasks.reporting.many.joined import Many, growth, join
from tasks.reporting.many.rows import once, spread_cell, told
from tasks.reporting.many.studies import read_studies, study_folder
from tasks.reporting.many.write import write_many
from tasks.reporting.tables.views import Table
from tests.lab.many_studies import made, runs_of, write
from tests.unit.reporting.conftest import HOSTILE, make_pairs

NORMS = (
    {"sft": 2.0, "rft": 2.2, "dpo": 0.2, "sft-order1": 2.1},
    {"sft": 2.4, "rft": 2.6, "dpo": 0.3, "sft-order2": 2.5},
)


def read(*folders: Path) -> Many:
    return join(read_studies([(folder.name, folder) for folder in folders]))


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two seeds at one learning rate; cosines of RFT to SFT .9 and .8."""
    folder = tmp_path_factory.mktemp("seeds")
    first = made("zero", norms=NORMS[0], cosines={("sft", "rft"): 0.9, ("sft", "sft-order1"): 0.95})
    second = made(
        "one", runs_of(1), norms=NORMS[1], cosines={("sft", "rft"): 0.8, ("sft", "sft-order2"): 0.97},
        settings={"seed": 1},
    )  # fmt: skip
    return write(folder / "zero", first), write(folder / "one", second)


@pytest.fixture(scope="module")
def rates(seeds: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The first of the seeds, and the same at a tenth of its learning rate, DPO at SFT's: its DPO is the first's."""
    folder = tmp_path_factory.mktemp("rates")
    low = made(
        "low", runs_of(0, 1e-4, ratio=1.0, replicate=False), norms={"sft": 0.5, "rft": 0.55, "dpo": 0.2},
        settings={"train.lr": 1e-4, "dpo.lr_ratio": 1.0},
    )  # fmt: skip
    return seeds[0], write(folder / "low", low)


def cells(table: Table) -> dict[str, tuple[str, ...]]:
    """First cell (and its lines) of a row -> what the others say."""
    return {row[0].plain: tuple(cell.plain for cell in row[1:]) for row in table.rows}


# --- spread -----------------------------------------------------------------------------------------------------------


def test_a_spread_by_hand() -> None:
    # Mean of 1, 2, 6 is 3; squares 4 + 1 + 9 = 14, over n - 1 = 2: 7.
    found = spread([1.0, None, 2.0, math.nan, 6.0])
    assert found is not None
    assert (found.n, found.mean, found.lowest, found.highest) == (3, 3.0, 1.0, 6.0)
    assert found.sd == pytest.approx(math.sqrt(7))
    assert told(found, "{:.1f}".format) == "3.0 (1.0 to 6.0, n = 3)"
    assert spread_cell(found, "{:.1f}".format, of=3).subs == ("sd 2.6", "1.0 to 6.0")
    assert spread_cell(found, "{:.1f}".format, of=5).subs == ("sd 2.6", "1.0 to 6.0", "n = 3")


def test_one_value_has_no_spread_and_none_is_not_measured() -> None:
    single = spread([4.0])
    assert single is not None
    assert single.sd is None
    assert spread_cell(single, "{:.1f}".format, of=1).subs == ("no spread",)
    assert spread([None, math.nan, math.inf]) is None
    assert spread_cell(None, "{:.1f}".format).text == told(None, "{:.1f}".format) == "not measured"


# --- joining ----------------------------------------------------------------------------------------------------------


def test_two_seeds_are_repetitions_on_one_base(seeds: tuple[Path, Path]) -> None:
    many = read(*seeds)
    assert many.bases == (0, 0)
    assert len(many.distinct) == 8
    assert many.repeated == 0
    assert [many.differing(method) for method in many.methods] == [[], [], []]
    groups = many.by_method(once(many.runs))
    assert [(method, lr, len(rows)) for (method, lr, _), rows in groups.items()] == [
        ("sft", 1e-3, 4), ("rft", 1e-3, 2), ("dpo", 1e-4, 2),
    ]  # fmt: skip


def test_a_training_that_two_studies_share_counts_once(seeds: tuple[Path, Path], tmp_path: Path) -> None:
    # The same SFT and RFT out of the cache, another DPO: only that is new.
    matched = made(
        "matched", runs_of(ratio=1.0), norms={**NORMS[0], "dpo": 1.7}, settings={"dpo.lr_ratio": 1.0},
    )  # fmt: skip
    many = read(seeds[0], write(tmp_path / "matched", matched))
    assert many.repeated == 3
    assert len(many.distinct) == 5
    runs = many.runs
    assert runs.filter(pl.col("repeated"))["run"].to_list() == ["sft", "rft", "sft-order1"]
    assert {row["run"]: row["training"] for row in once(runs)} == {"sft": 0, "rft": 1, "dpo": 4, "sft-order1": 3}
    assert many.differing("dpo") == []  # its learning rate is a column, not a condition
    # SFT ~ RFT stands in both studies and is one pair.
    pairs = many.between
    assert {key[:4]: len(rows) for key, rows in pairs.items()} == {
        ("rft", "sft", 1e-3, 1e-3): 1,
        ("dpo", "sft", 1e-4, 1e-3): 1,
        ("dpo", "sft", 1e-3, 1e-3): 1,
        ("rft", "dpo", 1e-3, 1e-4): 1,
        ("rft", "dpo", 1e-3, 1e-3): 1,
    }
    scores = many.scores.filter(pl.col("benchmark") == "heldout")
    assert [row["run"] for row in once(scores)] == ["base", "sft", "rft", "dpo", "sft-order1", "dpo"]


def test_other_settings_keep_trainings_of_that_method_apart(seeds: tuple[Path, Path], tmp_path: Path) -> None:
    other = made("beta", runs_of(1), norms=NORMS[1], settings={"seed": 1, "dpo.beta": 0.5})
    many = read(seeds[0], write(tmp_path / "beta", other))
    assert [many.differing(method) for method in many.methods] == [[], [], ["dpo.beta"]]
    groups = many.by_method(once(many.runs))
    assert [(key[0], len(rows)) for key, rows in groups.items()] == [("sft", 4), ("rft", 2), ("dpo", 1), ("dpo", 1)]
    page = many_document(many)
    assert any("dpo.beta" in warning for warning in page.findings.warnings)
    names = cells(page.sections[1].tables[0])
    assert [name for name in names if name.startswith("dpo")] == [
        "dpo (lr 1e-4, #3 dpo.beta = 0.1)",
        "dpo (lr 1e-4, #4 dpo.beta = 0.5)",
    ]


def test_of_many_settings_that_differ_the_first_few_tell_a_condition(
    seeds: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As two presets differ, in twenty: the sentences of the page stay sentences."""
    changed = {"lora.r": 4, "train.steps": 9}
    other = made("other", runs_of(1), norms=NORMS[1], settings={"seed": 1, **changed})
    many = read(*seeds, write(tmp_path / "other", other))
    assert many.condition(0) == "lora.r = 8, train.steps = 80"
    monkeypatch.setattr("tasks.reporting.many.joined.MOST_NAMED", 1)
    assert many.condition(0) == "lora.r = 8 and 1 more"


def test_other_rollouts_are_another_condition(rates: tuple[Path, Path], tmp_path: Path) -> None:
    """Of the two studies at the higher rate only the one on the same rollouts is compared with the lower one."""
    resampled = made("resampled", runs_of(), norms={**NORMS[1], "sft": 4.8}, settings={"rollouts.seed": 1})
    many = read(*rates, write(tmp_path / "resampled", resampled))
    steps = many.steps
    assert [row["growth"] for row in steps["sft", 1e-4, 1e-3, 0]] == [pytest.approx(2.0 / 0.5)]
    assert [key for key in steps if key[0] == "sft"] == [("sft", 1e-4, 1e-3, 0)]
    first, other = many.trainings[0, "sft"], many.trainings[2, "sft"]
    assert differences(first, other, many) == ["rollouts.seed"]


def test_how_the_work_was_done_is_no_condition(seeds: tuple[Path, Path], tmp_path: Path) -> None:
    execution = {"rollouts.concurrency": 4, "train.packing": "on", "train.checkpoint_steps": 7}
    other = made("elsewhere", runs_of(1), norms=NORMS[1], settings={"seed": 1, **execution})
    many = read(seeds[0], write(tmp_path / "elsewhere", other))
    assert all(not many.differing(method) for method in many.methods)


def test_a_setting_that_an_older_study_does_not_know_is_said_and_not_compared(
    seeds: tuple[Path, Path], tmp_path: Path
) -> None:
    newer = made("newer", runs_of(1), norms=NORMS[1], settings={"seed": 1, "rollouts.engine": "x"})
    many = read(seeds[0], write(tmp_path / "newer", newer))
    assert all(not many.differing(method) for method in many.methods)
    assert any("rollouts.engine" in note for note in many_document(many).notes)


def test_other_answer_losses_of_the_base_are_another_base(seeds: tuple[Path, Path], tmp_path: Path) -> None:
    other = made("other", runs_of(1), norms=NORMS[1], base_shift=3.0, settings={"seed": 1})  # losses are near 20 nats
    many = read(seeds[0], write(tmp_path / "other", other))
    assert many.bases == (0, 1)
    warnings = many_document(many).findings.warnings
    assert warnings[0].startswith("Different bases: base 1 (zero) and base 2 (other).")
    near = made("near", runs_of(1), norms=NORMS[1], base_shift=0.02, settings={"seed": 1, "tiny.seed": 5})
    assert read(seeds[0], write(tmp_path / "near", near)).bases == (0, 0)  # rounding of equal weights


def test_without_shared_problems_the_settings_tell_the_bases_apart(seeds: tuple[Path, Path], tmp_path: Path) -> None:
    def without_items(name: str, seed: int) -> Path:
        folder = write(tmp_path / name, made(name, runs_of(1), norms=NORMS[1], settings={"tiny.seed": seed}))
        path = folder / "items.parquet"
        pl.read_parquet(path).clear().write_parquet(path)
        return folder

    assert read(seeds[0], without_items("same", 0)).bases == (0, 0)
    assert read(seeds[0], without_items("seven", 7)).bases == (0, 1)


# --- what the page says -----------------------------------------------------------------------------------------------


def test_accuracy_is_over_distinct_trainings_and_the_base_is_a_row(seeds: tuple[Path, Path]) -> None:
    many = read(*seeds)
    table = many_document(many).sections[1].tables[0]
    rows = cells(table)
    assert next(iter(rows)) == "base (2 studies)"
    own = many.scores.filter(benchmark="heldout", method="sft")["accuracy"].to_list()
    assert len(own) == 4
    low, high = (f"{100 * value:.1f}" for value in (min(own), max(own)))
    expected = f"{100 * statistics.mean(own):.1f} (sd {100 * statistics.stdev(own):.1f}, {low} to {high})"
    assert rows["sft (lr 1e-3)"][:2] == ("4", expected)


def test_a_cosine_comes_with_its_spread_and_the_floor_of_its_method(seeds: tuple[Path, Path]) -> None:
    many = read(*seeds)
    between_table = many_document(many).sections[2].tables[0]
    rft = cells(between_table)["rft ~ sft (lr 1e-3)"]
    # .9 and .8: mean .85, sd .1 / sqrt 2 = .0707. Across orders .958 x .975 and .958 x 1. Floor: .95 and .97, mean .96.
    assert rft[:4] == (
        "2",
        "0.850 (sd 0.071, 0.800 to 0.900)",
        "0.946 (sd 0.017, 0.934 to 0.958)",
        "0.960 (sft, other order: 0.960 (0.950 to 0.970, n = 2))",
    )
    assert many.floors == {("sft", 1e-3, "data order"): [0.95, 0.97]}


def test_what_was_measured_across_studies_is_told_by_what_differs(seeds: tuple[Path, Path]) -> None:
    many = read(*seeds)
    sft, other = (next(one for one in many.distinct if one.info == RunInfo("sft", "sft", s, s, 1e-3)) for s in (0, 1))
    runs = [RunInfo(str(one.number), "sft", one.info.seed, one.info.data_seed, 1e-3) for one in (sft, other)]
    measured = make_pairs(np.random.default_rng(0), runs)
    frame = replace(many, measured=measured).across
    row = frame.filter(pl.col("within").is_null()).row(0, named=True)
    assert (row["a"], row["b"]) == ("zero: sft", "one: sft")
    assert row["differs"] == "data order and initialisation"
    assert row["cosine"] == 1.0
    assert row["norm_ratio"] == pytest.approx(1 / 1.25)  # the frame has a over b, the page growth from a to b
    turned = replace(many, measured=make_pairs(np.random.default_rng(0), runs[::-1])).across
    assert turned.filter(pl.col("within").is_null()).row(0, named=True)["norm_ratio"] == 1.25


def test_growth_by_hand() -> None:
    assert growth(0.5, 2.0, 1e-4, 1e-3) == pytest.approx(4.0)
    assert growth(1.0, 9.0, 1e-5, 1e-3) == pytest.approx(3.0)  # nine times over two factors of ten
    assert growth(2.0, 1.0, 1e-3, 1e-2) == pytest.approx(0.5)


def test_rates_are_compared_where_nothing_else_differs(rates: tuple[Path, Path]) -> None:
    many = read(*rates)
    steps = many.steps
    assert {key[:3]: [row["growth"] for row in rows] for key, rows in steps.items()} == {
        ("sft", 1e-4, 1e-3): [pytest.approx(2.0 / 0.5)],
        ("rft", 1e-4, 1e-3): [pytest.approx(2.2 / 0.55)],
    }
    page = many_document(many)
    assert {picture.key for picture in page.sections[3].pictures} == {
        "rate-cosine-to-sft", "rate-norm", "rate-difference",
    }  # fmt: skip
    rows = {row[0].plain: row for row in answers_table(many).rows}
    answer = rows["What does a higher rate do? (lr 1e-4 to 1e-3)"][1]
    assert answer.text == "norm x 4.00 (4.00 to 4.00) for each factor of 10"
    assert answer.subs == ("cosine of the two not measured", "|u1 u1'| not measured", "of sft, rft")


def test_dpo_matched_and_unmatched_stand_side_by_side(rates: tuple[Path, Path]) -> None:
    many = read(*rates)
    assert many.trainings[0, "dpo"].number == many.trainings[1, "dpo"].number  # one training, two SFTs beside it
    rates, _ = many_document(many).sections[3].tables
    rows = cells(rates)
    assert list(rows) == ["sft (lr 1e-4)", "sft (lr 1e-3)", "rft (lr 1e-4)", "rft (lr 1e-3)", "dpo (lr 1e-4)"]
    assert rows["sft (lr 1e-3)"][2] == "itself"
    assert rows["dpo (lr 1e-4)"][:2] == ("1", "0.200 (no spread)")
    answers = cells(answers_table(many))
    assert list(answers)[:2] == [
        "DPO at SFT's learning rate? (lr 1e-4, SFT's)",
        "DPO at another rate (lr 1e-4, 0.1 x SFT's)",
    ]


def test_no_matched_dpo_is_said_with_the_way_to_it(seeds: tuple[Path, Path]) -> None:
    answers = cells(many_document(read(*seeds)).sections[0].tables[0])
    assert answers["DPO at SFT's learning rate?"][0] == "in none of these studies (--set matched=dpo trains it)"


def test_half_way_between_twins(seeds: tuple[Path, Path]) -> None:
    replicates = read(*seeds).pairs.filter(pl.col("floor") == "order")
    # The made-up path rises 4 h a (1 - a) above its chord, h = .1 (1 - .975): its middle by h.
    assert replicates.filter(study="zero")["midpoint"].to_list() == [pytest.approx(0.1 * 0.025)]


def test_claims_are_counted_over_the_studies(seeds: tuple[Path, Path]) -> None:
    many = read(*seeds)
    page = many_document(many)
    frame = claims_frame(many)
    verdicts = frame.filter(id="cosine-sft-rft")["verdict"].to_list()
    assert len(verdicts) == 2
    shown = {row[0].text: row[1] for row in page.sections[5].tables[0].rows}
    statement = frame.filter(id="cosine-sft-rft")["statement"][0]
    counted = "; ".join(f"{verdict} in {verdicts.count(verdict)}" for verdict in dict.fromkeys(sorted(
        verdicts, key=("holds", "does not hold", "no power").index)))  # fmt: skip
    assert shown[statement].text == counted
    assert shown[statement].subs[0] == "of 2 that measured it"


def test_the_folder_has_the_page_its_twin_the_frames_and_a_csv_a_figure(
    rates: tuple[Path, Path], tmp_path: Path
) -> None:
    many = read(*rates)
    first = {path.name: path.read_bytes() for path in write_many(many, tmp_path / "page")}
    again = {path.name: path.read_bytes() for path in write_many(read(*rates), tmp_path / "again")}
    assert first == again
    assert next(iter(first)) == "report.html"
    assert len(first["report.html"]) < 1_000_000
    page = first["report.html"].decode()
    keys = {name.removeprefix("figure-").removesuffix(".csv") for name in first if name.endswith(".csv")}
    assert keys == {"accuracy", "cosines", "rate-cosine-to-sft", "rate-norm", "rate-difference"}
    for key in keys:
        assert f'id="figure-{key}"' in page
        assert f'href="figure-{key}.csv"' in page
    norms = list(csv.DictReader((tmp_path / "page" / "figure-rate-norm.csv").read_text().splitlines()))
    assert sorted((row["run"], float(row["lr"]), float(row["norm"])) for row in norms) == [
        ("dpo", 1e-4, 0.2), ("rft", 1e-4, 0.55), ("rft", 1e-3, 2.2), ("sft", 1e-4, 0.5), ("sft", 1e-3, 2.0),
        ("sft-order1", 1e-3, 2.1),
    ]  # fmt: skip
    joined = pl.read_parquet(tmp_path / "page" / "accuracy.parquet")
    assert joined.columns[0] == "study"
    assert joined["study"].unique(maintain_order=True).to_list() == ["zero", "low"]
    assert "items.parquet" not in first


def test_nothing_from_studies_is_markup(seeds: tuple[Path, Path], tmp_path: Path) -> None:
    hostile = made(
        HOSTILE, [RunInfo(HOSTILE, HOSTILE, 1, 1, 1e-3), *runs_of(1)], norms={**NORMS[1], HOSTILE: 1.5},
        settings={"seed": 1, "model.pad_token": HOSTILE},
    )  # fmt: skip
    many = read(seeds[0], write(tmp_path / "hostile", hostile))
    page, text = (path.read_text() for path in write_many(many, tmp_path / "page")[:2])
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page
    assert "<script" not in text


# --- what is refused --------------------------------------------------------------------------------------------------


def refusal(*folders: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_studies([(str(folder), study_folder(folder)) for folder in folders])
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_one_study_is_sent_to_its_own_report(seeds: tuple[Path, Path]) -> None:
    assert refusal(seeds[0]).endswith("takes two or more (one study has its own report.html)")
    assert refusal().startswith("RUN: 0 study given")


def test_what_is_no_finished_study_is_refused(seeds: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "empty: not a finished study's folder: study.json" in refusal(seeds[0], tmp_path / "empty")
    assert "no such folder" in refusal(seeds[0], tmp_path / "nowhere")
    for name, what in (("compare.json", "a comparison of adapters"), ("many.json", "a page of many studies")):
        folder = tmp_path / name.removesuffix(".json")
        folder.mkdir()
        (folder / name).write_text("{}")
        assert f"{what}, not a study" in refusal(seeds[0], folder)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("accuracy.parquet", b"not parquet", "a parquet file cannot be read"),
        ("accuracy.parquet", None, "accuracy.parquet missing: it was written by another version"),
        ("study.json", b"{", "study.json or claims.json is damaged"),
        ("study.json", b'{"name": "old"}', "study.json lacks settings, runs, rollouts: it was written by"),
        ("claims.json", b'{"holds": 1}', "claims.json: it was written by another version"),
        ("claims.json", None, "claims.json missing: it was written by another version"),
    ],
)  # fmt: skip
def test_a_damaged_or_older_study_is_refused(
    seeds: tuple[Path, Path], tmp_path: Path, name: str, content: bytes | None, says: str
) -> None:
    folder = shutil.copytree(seeds[1], tmp_path / "copy")
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    assert says in refusal(seeds[0], folder)


def test_an_older_frame_is_refused(seeds: tuple[Path, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(seeds[1], tmp_path / "copy")
    pl.read_parquet(folder / "accuracy.parquet").drop("truncated").write_parquet(folder / "accuracy.parquet")
    said = refusal(seeds[0], folder)
    assert "accuracy: missing columns ['truncated']" in said
    assert "run the study again" in said


def test_a_study_counts_once(seeds: tuple[Path, Path], tmp_path: Path) -> None:
    copy = shutil.copytree(seeds[0], tmp_path / "copy")
    assert "the same study as" in refusal(seeds[0], seeds[0] / "study.json")
    assert "the same MLflow run as" in refusal(seeds[0], copy)
    rerun = made("rerun", norms=NORMS[0], cosines={("sft", "rft"): 0.9, ("sft", "sft-order1"): 0.95})
    assert "the same results to the last digit as" in refusal(seeds[0], write(tmp_path / "rerun", rerun))


def test_studies_of_one_name_are_called_by_their_folders(seeds: tuple[Path, Path], tmp_path: Path) -> None:
    again = made(
        "zero", runs_of(2), norms={"sft": 3.0, "rft": 3.1, "dpo": 0.4, "sft-order3": 3.2}, mlflow={"study": "x"}
    )
    folder = write(tmp_path / "third", again)
    assert [study.label for study in read(seeds[0], folder).studies] == ["zero", "third"]
    same = shutil.copytree(folder, tmp_path / "elsewhere" / "zero")
    assert [study.label for study in read(seeds[0], same).studies] == ["zero #1", "zero #2"]


def test_dft_against_sft_by_how_on_policy_the_rollouts_are(tmp_path: Path) -> None:
    """Three bases: 1, 2 and 4 % of the tokens unlikely, cosines .8, .7 and .5. Both fall on one line: r = -1; with
    negative log-likelihoods of .1, .3 and .2 r = -.5 / sqrt(...): deviations (-.1, .1, 0) and (2, .5, -2.5) / 15,
    product -.01 / (.02 x .0466667) ** .5 = -.327."""
    folders = []
    for name, cosine, unlikely, nll in (("a", 0.8, 0.01, 0.1), ("b", 0.7, 0.02, 0.3), ("c", 0.5, 0.04, 0.2)):
        runs = [replace(info, run="dft", method="dft") if info.run == "rft" else info for info in runs_of()]
        base = {"settings": {"tiny.style_mass": unlikely}, "base_shift": 100 * unlikely}
        study = made(name, runs, cosines={("sft", "dft"): cosine}, **base)
        row = {name: None for name in ON_POLICY} | {"answers": "all", "rows": 8, "tokens": 80}
        frame = pl.DataFrame([row | {"unlikely": unlikely, "nll": nll}], schema=ON_POLICY)
        folders.append(write(tmp_path / name, replace(study, on_policy=frame)))
    assert on_policy_picture(read(*folders[:2])) is None  # two dots lie on a line whatever they say
    picture = on_policy_picture(read(*folders))
    assert picture is not None
    assert picture.numbers["cosine"].to_list() == [0.8, 0.7, 0.5]
    assert "r = -1.00 with that share and -0.33 with" in picture.note
    assert "n = 3 studies" in picture.note
    assert "on-policy" in {one.key for one in many_document(read(*folders)).drawn}
