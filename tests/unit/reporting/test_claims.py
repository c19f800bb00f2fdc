"""Verdicts of claims: the rules on hand-made numbers, the parts of a claim, and every entry on the made-up study."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace

import polars as pl
import pytest

from tasks.core.results import RunInfo
from tasks.reporting.claims.claim import Claim, ClaimResult, Part, check
from tasks.reporting.claims.measured import Measured, Missing, Noise
from tasks.reporting.claims.output import claims_json, claims_sentence, claims_tables, paper_text
from tasks.reporting.claims.paper import CLAIMS, claims_table
from tasks.reporting.claims.rules import (
    FAILS,
    HOLDS,
    NO_POWER,
    Rule,
    above,
    apart,
    at_floor,
    at_least,
    at_most,
    higher,
    lower,
    near,
    same,
    within,
)
from tasks.reporting.formats import NOT_MEASURED
from tasks.reporting.views.study import SCHEMAS, Study

FLOOR = Noise("data order", 0.8, 0.9, 3)


def measured(low: float | None, high: float | None, value: float = 0.5, noise: Noise | None = None) -> Measured:
    return Measured("a ~ b", value, low, high, noise, 12, "modules")


@pytest.mark.parametrize(
    ("rule", "low", "high", "noise", "verdict"),
    [
        (within(0.4, 0.6), 0.4, 0.6, None, HOLDS),  # both ends belong to the range
        (within(0.4, 0.6), 0.39, 0.6, None, NO_POWER),
        (within(0.4, 0.6), 0.61, 0.7, None, FAILS),
        (within(0.4, 0.6), 0.0, 1.0, None, NO_POWER),
        (at_least(0.4), 0.4, 9.0, None, HOLDS),
        (at_least(0.4), 0.3, 0.39, None, FAILS),
        (at_most(0.1), 0.0, 0.1, None, HOLDS),
        (at_most(0.1), 0.0, 0.2, None, NO_POWER),
        (above(), 0.0, 1.0, None, NO_POWER),  # an interval that begins at 0 shows no difference
        (above(), 1e-9, 1.0, None, HOLDS),
        (above(), -1.0, 0.0, None, FAILS),
        (near(0.95), 0.85, 0.9, None, FAILS),
        (near(0.95), 0.85, 0.9, FLOOR, NO_POWER),  # noise takes the method itself to .8: it excuses anything
        (near(0.7), 0.75, 0.9, FLOOR, HOLDS),
        (near(10.0, distance=True), 11.0, 20.0, Noise("data order", 15.0, 25.0, 2), NO_POWER),
        (near(10.0, distance=True), 11.0, 20.0, None, FAILS),
        (apart(0.6, 0.9), 0.7, 0.79, FLOOR, HOLDS),
        (apart(0.6, 0.9), 0.7, 0.8, FLOOR, NO_POWER),  # in the range, but not clear of the floor
        (apart(0.6, 0.9), 0.3, 0.5, FLOOR, FAILS),
        (apart(70.0, 90.0, distance=True), 75.0, 80.0, Noise("data order", 30.0, 40.0, 1), HOLDS),
        (apart(70.0, 90.0, distance=True), 75.0, 80.0, Noise("data order", 30.0, 75.0, 1), NO_POWER),
        (apart(0.6, 0.9), 0.7, 0.79, None, NO_POWER),
        (at_floor(), 0.8, 0.95, FLOOR, NO_POWER),  # in one data order no floor judges
    ],
)
def test_a_rule_reads_the_whole_interval(
    rule: Rule, low: float, high: float, noise: Noise | None, verdict: str
) -> None:
    assert rule.judge(measured(low, high, (low + high) / 2, noise)).verdict == verdict


@pytest.mark.parametrize("rule", [within(0.4, 0.6), at_least(0.1), above(), near(0.1), apart(0.4, 0.6)])
def test_without_an_interval_no_number_confirms_or_refutes(rule: Rule) -> None:
    assert rule.judge(measured(None, None, 0.5)).verdict == NO_POWER
    assert rule.judge(measured(None, None, -7.0)).verdict == NO_POWER


@pytest.mark.parametrize(
    ("low", "high", "p", "parts", "verdicts"),
    [  # of same, higher, lower; the first four are those of tests/unit/evaluation/test_power.py
        (0.0015, 0.0197, 0.029, 1, (HOLDS, HOLDS, FAILS)),  # within two points, and not 0
        (0.0028, 0.0215, 0.014, 1, (FAILS, HOLDS, FAILS)),
        (-0.0158, 0.0097, 0.72, 1, (HOLDS, FAILS, FAILS)),
        (0.0064, 0.0254, 0.0011, 1, (FAILS, HOLDS, FAILS)),
        (-0.0254, -0.0064, 0.0011, 1, (FAILS, FAILS, HOLDS)),
        (-0.02, 0.02, 1.0, 1, (HOLDS, NO_POWER, NO_POWER)),  # the ends belong to the margin
        (-0.03, 0.06, 0.5, 1, (NO_POWER, NO_POWER, NO_POWER)),
        (-0.03, 0.019, 0.5, 1, (NO_POWER, FAILS, NO_POWER)),  # not higher by two points, perhaps lower by them
        (0.021, 0.06, None, 1, (FAILS, NO_POWER, FAILS)),  # no test: nothing is higher by the interval alone
        (None, None, 0.001, 1, (NO_POWER, NO_POWER, NO_POWER)),
        # The test rejects for these two models, and with the spread of repeats 0 is within the interval.
        (-0.01, 0.05, 0.001, 1, (NO_POWER, NO_POWER, FAILS)),
        # One of ten parts: the least p of ten refutes no ten equalities; that ten are higher needs no correction.
        (0.0028, 0.0215, 0.014, 10, (NO_POWER, HOLDS, FAILS)),
        (0.0028, 0.0215, 0.005, 10, (FAILS, HOLDS, FAILS)),
    ],
)
def test_accuracy_is_judged_by_the_interval_and_the_test(
    low: float | None, high: float | None, p: float | None, parts: int, verdicts: tuple[str, ...]
) -> None:
    found = replace(measured(low, high, 0.03 if low is None else (low + (high or 0)) / 2), p=p, parts=parts)
    assert tuple(rule.judge(found).verdict for rule in (same(), higher(), lower())) == verdicts


def test_the_margin_of_accuracy_is_the_rules_to_set() -> None:
    found = replace(measured(0.0015, 0.0197, 0.0106), p=0.029)
    assert [same(effect).judge(found).verdict for effect in (0.01, 0.02, 0.04)] == [FAILS, HOLDS, HOLDS]
    found = replace(measured(-0.0158, 0.0097, -0.003), p=0.72)
    assert [higher(effect).judge(found).verdict for effect in (0.005, 0.01)] == [NO_POWER, FAILS]
    assert same().words == "95 % interval within -2 to 2 points"
    assert same(0.01).words == "95 % interval within -1 to 1 points"


@pytest.fixture(scope="module")
def results(study: Study) -> dict[str, ClaimResult]:
    return {result.claim.id: result for result in claims_table(study)}


def claim_of(parts: Sequence[Part]) -> Claim:
    return Claim("one", "somewhere", "It is.", (1.0,), lambda _: parts, within(0.4, 0.6))


IN, OUT, ACROSS = measured(0.45, 0.5), measured(0.7, 0.8, 0.75), measured(0.5, 0.7, 0.6)
FARTHER, NARROW = measured(0.9, 1.0, 0.95), measured(0.41, 0.6, 0.55)
GONE = Missing("no run of x")


@pytest.mark.parametrize(
    ("parts", "verdict", "decides"),
    [
        ([IN, IN], HOLDS, IN),
        ([IN, NARROW], HOLDS, NARROW),  # nearest to the edge
        ([IN, OUT, ACROSS], FAILS, OUT),
        ([OUT, FARTHER], FAILS, FARTHER),
        ([IN, ACROSS], NO_POWER, ACROSS),
        ([IN, GONE], NOT_MEASURED, None),
        ([ACROSS, GONE], NOT_MEASURED, None),
        ([OUT, GONE], FAILS, OUT),  # one part is enough to refute
        ([GONE], NOT_MEASURED, None),
        ([], NOT_MEASURED, None),
    ],
)
def test_a_claim_holds_where_every_part_does(
    study: Study, parts: list[Part], verdict: str, decides: Measured | None
) -> None:
    found = check(claim_of(parts), study)
    assert (found.verdict, found.measured) == (verdict, decides)
    assert ("no run of x" in found.detail) == (GONE in parts)


def test_every_entry_has_its_own_id_and_a_rule_in_words() -> None:
    ids = [claim.id for claim in CLAIMS]
    assert len(set(ids)) == len(ids) == 63
    assert all(claim.rule.words and claim.statement.endswith(".") and paper_text(claim) for claim in CLAIMS)


def test_no_verdict_without_a_number(study: Study, build_study: Callable[..., Study]) -> None:
    bare = build_study(runs=[RunInfo("base", "base", 0, 0, 0.0), RunInfo("sft", "sft", 0, 0, 1e-3)])
    for tables in (study, bare, replace(study, runs=[])):
        for result in claims_table(tables):
            assert (result.measured is None) == (result.verdict == NOT_MEASURED), result
            assert result.detail
            if result.measured:
                assert result.measured.value == result.measured.value
                assert result.measured.n > 0
    assert {result.verdict for result in claims_table(replace(study, runs=[]))} == {NOT_MEASURED}


def test_cosines_of_the_made_up_study(results: dict[str, ClaimResult]) -> None:
    # .958 with .01 (.958 + .1) to either side; the floor is .975.
    found = results["cosine-sft-rft"]
    assert found.verdict == HOLDS
    assert found.measured is not None
    assert (found.measured.value, found.measured.n, found.measured.of) == (0.958, 16, "modules, 4 layers")
    assert found.measured.low == pytest.approx(0.958 - 0.01058, rel=1e-12)
    assert found.measured.noise == Noise("data order", 0.975, 0.975, 1)
    # .765, not .472 to .672; .804, half a hundredth on either side of it, within .64 to .84; -.021 within -.043 to .165
    verdicts = [results[f"cosine-{name}"].verdict for name in ("sft-dft", "sft-offline-grpo", "sft-dpo", "order")]
    assert verdicts == [FAILS, HOLDS, HOLDS, HOLDS]
    # What it is across data orders is one number without an interval, and of rft and rift there is none.
    assert results["open-noise-floor"].verdict == NO_POWER
    assert "replicates=all" in results["open-noise-floor"].needs


def test_a_flipped_number_flips_the_verdict(study: Study) -> None:
    def verdict(id: str, tables: Study) -> str:
        return next(result.verdict for result in claims_table(tables) if result.claim.id == id)

    def shifted(run: str, other: str, metric: str, by: float) -> Study:
        own = (pl.col("run_a") == run) & (pl.col("run_b") == other) & (pl.col("metric") == metric)
        moved = [
            pl.when(own).then(pl.col(name) + by).otherwise(pl.col(name)).alias(name)
            for name in ("value", "low", "high")
        ]
        return replace(study, pair_metrics=study.pair_metrics.with_columns(moved))

    assert verdict("cosine-sft-rft", shifted("sft", "rft", "cosine", -0.5)) == FAILS
    assert verdict("cosine-sft-dft", shifted("sft", "dft", "cosine", -0.2)) == HOLDS
    assert verdict("cosine-order", shifted("sft", "dft", "cosine", 0.2)) == FAILS
    # Up to a likeness that noise leaves: near the floor nothing is shown to be apart.
    assert verdict("cosine-sft-offline-grpo", shifted("sft", "offline_grpo", "cosine", 0.03)) == NO_POWER
    equal = judged(study.mcnemar, -0.01, 0.01, 1.0)
    assert verdict("accuracy-five-equal", replace(study, mcnemar=equal)) == HOLDS
    one = (pl.col("run_a") == "sft") & (pl.col("run_b") == "rft") & (pl.col("benchmark") == "heldout")
    for p, said in ((1e-4, FAILS), (0.04, NO_POWER)):  # one of ten pairs: .04 is no surprise
        unlike = pl.concat([equal.filter(~one), judged(equal.filter(one), 0.01, 0.03, p)])
        assert verdict("accuracy-five-equal", replace(study, mcnemar=unlike)) == said
    assert verdict("open-base-dpo", replace(study, mcnemar=equal)) == HOLDS
    slight = replace(study, mcnemar=judged(study.mcnemar, -0.0197, -0.0015, 0.029))
    assert verdict("open-base-dpo", slight) == HOLDS
    assert verdict("cosine-sft-rft", replace(study, pair_metrics=study.pair_metrics.clear())) == NOT_MEASURED


def test_every_verdict_is_reached_on_the_made_up_study(results: dict[str, ClaimResult]) -> None:
    assert {result.verdict for result in results.values()} == {HOLDS, FAILS, NO_POWER, NOT_MEASURED}
    assert results["norm-dpo"].verdict == FAILS  # 1.25, not 6.5 to 26
    assert results["open-base-five"].verdict in (FAILS, NO_POWER)  # they gain in the made-up study
    assert "differ by ten" in results["lr-rotates"].detail


def test_nobody_solving_is_no_equality(build_study: Callable[..., Study]) -> None:
    found = {result.claim.id: result for result in claims_table(build_study(solve=0.0))}
    assert found["accuracy-five-equal"].verdict == NOT_MEASURED
    assert "no model solves" in found["accuracy-five-equal"].detail


def test_the_run_that_stands_for_a_method() -> None:
    sft = RunInfo("sft", "sft", 0, 0, 1e-3)
    matched, tenth = RunInfo("dpo-matched", "dpo", 0, 0, 1e-3), RunInfo("dpo", "dpo", 0, 0, 1e-4)
    other = RunInfo("sft-1", "sft", 1, 1, 1e-3)
    # The reference is the first SFT; DPO is that of a tenth of its rate, whichever comes first.
    assert _tables([other, sft, matched, tenth]).geometry.main["sft"] == other
    assert _tables([sft, matched, tenth]).geometry.main["dpo"] == tenth
    assert _tables([sft, matched]).geometry.main["dpo"] == matched


def test_the_record_is_json_in_the_claims_unit(study: Study, results: dict[str, ClaimResult]) -> None:
    rows = {row["id"]: row for row in json.loads(claims_json(list(results.values())))}
    assert set(rows) == {claim.id for claim in CLAIMS}
    found = results["accuracy-dpo-higher"].measured
    assert found is not None
    row = rows["accuracy-dpo-higher"]
    assert (row["unit"], row["measured"], row["n"]) == ("points", 100 * found.value, 400)
    assert row["interval"][0] < row["measured"] < row["interval"][1]
    row = rows["cosine-sft-rft"]
    assert (row["paper"], row["measured"], row["noise_floor"]["low"], row["rule"]) == (
        [0.977],
        0.958,
        0.975,
        "at least 0.88, and nearer than chance",
    )
    gone = rows["online-cosine"]
    assert (gone["measured"], gone["interval"], gone["verdict"]) == (None, None, NOT_MEASURED)
    assert gone["detail"] == "no run of online_grpo"


def test_the_sentence_counts_every_verdict_once(results: dict[str, ClaimResult]) -> None:
    kinds = [("rules", HOLDS), ("rules", HOLDS), ("rules", FAILS), ("open", NO_POWER)]
    some = [ClaimResult(replace(CLAIMS[0], open=kind == "open"), verdict, IN, "detail") for kind, verdict in kinds]
    assert claims_sentence(some) == (
        "Of 3 claims of the paper (arXiv 2606.23740) 2 hold in this study, 1 does not, 0 are without power and 0 not "
        "measured. Of 1 question that the paper leaves open 0 hold in this study, 0 do not, 1 is without power and 0 "
        "not measured."
    )
    assert claims_sentence([]) == ""
    assert "Of 55 claims" in claims_sentence(list(results.values()))


def test_tables_show_every_claim_once(results: dict[str, ClaimResult]) -> None:
    tables = claims_tables(list(results.values()))
    assert [table.key for table in tables] == ["claims", "open-questions", "claims-not-measured"]
    statements = [row[0].text for table in tables for row in table.rows]
    assert sorted(statements) == sorted(claim.statement for claim in CLAIMS)
    assert all(len(row) == len(table.header) for table in tables for row in table.rows)
    first = tables[0].rows[0]
    assert [cell.text for cell in first] == [
        "SFT and RFT move the weights the same way (cosine about 0.977).",
        f"✓ {HOLDS}",
        "0.958",
        "[0.947, 0.969]",
        "0.977",
        "at least 0.88, and nearer than chance",
        "at least 0.88, and nearer than chance",
        "0.934",
        "0.975",
        "16",
    ]
    assert first[2].subs == ("sft ~ rft", "n = 16 modules, 4 layers")
    assert first[7].subs == ("n = 1",)  # .958 x .975


def judged(frame: pl.DataFrame, low: float, high: float, p: float) -> pl.DataFrame:
    """MCNEMAR with one interval and one p for every pair."""
    both = {f"{of}{end}": pl.lit(value) for of in ("", "method_") for end, value in (("low", low), ("high", high))}
    return frame.with_columns(difference=pl.lit((low + high) / 2), p_value=pl.lit(p), **both)


def _tables(runs: list[RunInfo]) -> Study:
    frames = {name: pl.DataFrame(schema=schema) for name, schema in SCHEMAS.items()}
    return Study(runs=runs, rollouts={}, record={}, **frames)
