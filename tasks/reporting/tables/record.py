"""The study itself as rows of strings and as facts: rollouts, training, benchmarks, checks, stages, settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import polars as pl

from tasks.reporting.estimates import Estimate
from tasks.reporting.formats import (
    NOT_MEASURED,
    benchmark_name,
    in_sentence,
    learning_rate,
    listed,
    number,
    percent,
    seconds,
    significant,
)
from tasks.reporting.metrics import SURPRISE
from tasks.reporting.notes import count
from tasks.reporting.tables.views import Cell, Cells, Table, said
from tasks.reporting.views.study import Study

MOST_EXAMPLES = 3
"""Problems that are shown, each with up to two of its answers."""

MOST_CHARACTERS = 1200
"""Of one text of an example; the artifact of the stage "grade" has all."""

ODD = {
    "repeated": "Completions equal to an earlier one of their problem",
    "contradictory": "Completions labelled right and wrong for one problem",
    "one_token": "Completions of one token",
    "control_characters": "Completions with control characters",
}
"""What of the rollouts is counted because a reader would not expect it."""

_CONTROL = r"[\p{Cc}&&[^\n\r\t]]"
_VISIBLE = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\r\t"} | {0x7F: 0x2421}
_VISIBLE |= dict.fromkeys(range(0x80, 0xA0), 0xFFFD)
"""Control characters, which a page cannot show, as their pictures: NUL is U+2400."""

_QUANTILES = (("Shortest", 0.0), ("Median", 0.5), ("90 % up to", 0.9), ("Longest", 1.0))

_SHARE_OF = {
    "correct": ("rows",),
    "truncated": ("rows",),
    "unparsed": ("rows",),
    "unparsed_gold": ("rows",),
    "disagreements": ("rows",),
    "dropped": ("rows",),
    "mixed_groups": ("groups", "prompts"),
}

_GRADES = {1.0: "right", 0.0: "wrong"}


def rollout_record(graded: pl.DataFrame) -> dict[str, Any]:
    """What a study's record keeps of its rollouts (GRADED): ``lengths``, ``examples``, ``right_of_group`` and ``odd``,
    as JSON can hold them.

    ``lengths``: rows, mean and quantiles of the completions' lengths in tokens, of all, of the right and of the wrong.
    ``right_of_group``: a count of right answers -> problems that have so many. ``examples``: of the first problems by
    id of which some answers are right and some wrong (of the first ones where there are none such) one of each.
    ``odd``: how many completions are what `ODD` says.
    """
    rows = graded.with_columns(tokens=pl.col("completion_ids").list.len())
    parts = {"all": rows, "right": rows.filter(reward=1.0), "wrong": rows.filter(reward=0.0)}
    right = rows.group_by("problem_id").agg(right=(pl.col("reward") == 1.0).sum())["right"]
    counts = right.value_counts().sort("right").rows()
    return {
        "lengths": {name: _lengths(part["tokens"]) for name, part in parts.items() if part.height},
        "right_of_group": {str(n): problems for n, problems in counts},
        "examples": list(_examples(rows)),
        "odd": {
            "repeated": rows.height - rows.select("problem_id", "completion").n_unique(),
            "contradictory": rows.filter(pl.col("reward").n_unique().over("problem_id", "completion") > 1).height,
            "one_token": rows.filter(tokens=1).height,
            "control_characters": rows.filter(pl.col("completion").str.contains(_CONTROL)).height,
        },
    }


def _lengths(tokens: pl.Series) -> dict[str, float]:
    quantiles = {name: tokens.quantile(q, "nearest") for name, q in _QUANTILES}
    return {"rows": tokens.len(), "mean": float(tokens.mean()), **quantiles}  # type: ignore[arg-type, dict-item]


def _examples(rows: pl.DataFrame) -> Iterator[dict[str, Any]]:
    mixed = pl.col("reward").n_unique().over("problem_id") > 1
    chosen = rows.filter(mixed) if rows.select(mixed.any()).item() else rows
    kept = chosen["problem_id"].unique().sort().head(MOST_EXAMPLES).to_list()
    own = chosen.filter(pl.col("problem_id").is_in(kept)).unique(["problem_id", "reward"], keep="first")
    for row in own.sort("problem_id", "reward", descending=[False, True]).iter_rows(named=True):
        yield {
            "prompt": _cut(row["prompt"]),
            "completion": _cut(row["completion"]),
            "extracted": _cut(row["extracted"]),
            "gold": _cut(row["answer"]),
            "reward": row["reward"],
            "tokens": row["tokens"],
        }


def _cut(text: str | None) -> str | None:
    if text is None:
        return None
    text = text.translate(_VISIBLE)
    if len(text) <= MOST_CHARACTERS:
        return text
    return f"{text[:MOST_CHARACTERS]} [and {len(text) - MOST_CHARACTERS} more characters]"


def rollout_tables(study: Study) -> tuple[list[Table], list[Table]]:
    """Counts and lengths, for everybody, and the examples, for who wants to read them."""
    record = study.record.get("rollouts_seen") or {}
    counts, lengths = _counts_table(study.rollouts, record), _lengths_table(record)
    return [counts, *lengths, *_policy_table(study.on_policy)], _examples_table(record)


def _counts_table(rollouts: Mapping[str, Any], record: Mapping[str, Any]) -> Table:
    """Counts of the one set of rollouts that every method was given, what was dropped included."""
    rows = [Cells(name, text) for name, text in _counts(rollouts)]
    odd: Mapping[str, int] = record.get("odd") or {}
    rows += [Cells(ODD[name], _count(n, rollouts.get("rows"))) for name, n in odd.items() if n]
    note = "One set of rollouts for every method; each method selects from it by its own rule."
    groups = record.get("right_of_group")
    if groups:
        spread = ", ".join(f"{n} right: {problems}" for n, problems in groups.items())
        note += f" Problems by how many of their answers are right: {spread}. A mixed group has right and wrong ones."
    return Table("rollouts", "Rollouts", ("What", "Count"), rows, note)


def _counts(rollouts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    read = {"read": rollouts["read"]} if "read" in rollouts else {}
    for name, value in {**read, **rollouts}.items():  # how a file was read, before what was in it
        if isinstance(value, Mapping):
            for inner, count in value.items():
                yield f"{_spaced(name)}: {inner}", _count(count, _total(name, rollouts))
        else:
            yield _spaced(name), _count(value, _total(name, rollouts))


def _total(name: str, rollouts: Mapping[str, Any]) -> int | None:
    return next((rollouts[total] for total in _SHARE_OF.get(name, ()) if rollouts.get(total)), None)


def _count(value: Any, total: int | None) -> str:
    if value is None:
        return NOT_MEASURED
    if isinstance(value, float):
        return number(value, 3)
    return f"{value} ({percent(value / total)} %)" if total and isinstance(value, int) else str(value)


def _spaced(name: str) -> str:
    text = name.replace("_", " ")
    return text[:1].upper() + text[1:]


def _lengths_table(record: Mapping[str, Any]) -> list[Table]:
    lengths: Mapping[str, Mapping[str, float]] = record.get("lengths") or {}
    names = [name for name, _ in _QUANTILES]
    rows = [
        Cells(part.capitalize(), str(own["rows"]), number(own["mean"], 1), *(f"{own[q]:g}" for q in names))
        for part, own in lengths.items()
    ]
    header = ("Answers", "Rows", "Mean", *names)
    note = "Tokens of the completions, the end of the sequence included; right and wrong by the grade."
    return [Table("lengths", "Lengths of the rollouts, tokens", header, rows, note)] if rows else []


def _policy_table(on_policy: pl.DataFrame) -> list[Table]:
    if on_policy.is_empty():
        return []
    rows = []
    for one in on_policy.iter_rows(named=True):
        nll, unlikely = (Estimate(one[name], one[f"{name}_low"], one[f"{name}_high"]) for name in ("nll", "unlikely"))
        rows.append(
            Cells(
                one["answers"].capitalize(),
                one["rows"],
                one["tokens"],
                Cell(SURPRISE.text(nll.value), said(nll.interval(SURPRISE.text))),
                Cell(percent(unlikely.value), said(unlikely.interval(percent))),
            )
        )
    header = ("Answers", "Rows", "Tokens", "NLL under the base, nats/token", "Tokens with p < 0.1, %")
    note = (
        "How near the rollouts are to what the base would write itself: the negative log-likelihood of their tokens "
        "under it, on the rows that gradients were taken on; below it the 95 % interval, problems being the sample. "
        "DFT weighs each token by its probability, so it hardly learns from those with p < 0.1, and SFT most."
    )
    return [Table("on-policy", "How likely the rollouts are to the base", header, rows, note)]


def _examples_table(record: Mapping[str, Any]) -> list[Table]:
    examples: Sequence[Mapping[str, Any]] = record.get("examples") or []
    if not examples:
        return []
    rows = tuple(
        Cells(
            one["prompt"],
            one["completion"],
            _GRADES.get(one["reward"], "no grade"),
            one["extracted"] if one["extracted"] is not None else "nothing",
            one["gold"] if one["gold"] is not None else "not given",
            one["tokens"],
        )
        for one in examples
    )
    note = (
        "The first problems in the order of their ids that have right and wrong answers, one of each; of a study "
        "without such problems the first ones. Not chosen by what they say."
    )
    header = ("Problem", "Answer", "Grade", "Read as", "Gold", "Tokens")
    return [Table("examples", "Rollouts to read", header, rows, note, words=5)]


LOSS = "loss"
"""The training metric that every method has."""

_BENCHMARK_COUNTS = ("n", "shared_with_rollouts_dropped")


def losses(study: Study, run: str) -> tuple[list[int], list[float]]:
    """Steps and training losses of one run, in the order of the steps; values that are not finite are left out."""
    own = study.training.filter(pl.col("run") == run, pl.col("metric") == LOSS, pl.col("value").is_finite())
    own = own.sort("step")
    return own["step"].to_list(), own["value"].to_list()


def training_table(study: Study) -> Table:
    """How often every run read its examples, and its first and last loss."""
    rows = [Cells("base", *["not trained"] * 6, mark="base")]
    read = study.record.get("training") or {}
    for info in study.trained:
        steps, values = losses(study, info.run)
        found = (str(steps[-1]), number(values[0], 4), number(values[-1], 4)) if steps else (NOT_MEASURED,) * 3
        known = read.get(info.run)
        often = (str(known["examples"]), significant(known["epochs"])) if known else (NOT_MEASURED,) * 2
        rows.append(Cells(info.run, learning_rate(info.lr), *often, *found))
    return Table(
        "training",
        "Training",
        ("Run", "Peak learning rate", "Examples", "Epochs", "Last logged step", "First loss", "Last loss"),
        rows,
        "Epochs: examples that the steps read over those that the method selected; a pair is one example. Each method "
        "minimises its own loss, so heights compare within a row, never between rows.",
    )


def benchmarks_tables(study: Study) -> list[Table]:
    """What the models are judged by, where it comes from and how it is asked; empty where that was not recorded."""
    order = {name: place for place, name in enumerate(study.benchmarks)}
    known = sorted(study.record.get("benchmarks") or [], key=lambda one: order.get(one["name"], len(order)))
    rows = [
        Cells(benchmark_name(one["name"]), one["source"], one["template"].replace("\n", "\\n"),
              *(NOT_MEASURED if one[key] is None else one[key] for key in _BENCHMARK_COUNTS))
        for one in known
    ]  # fmt: skip
    note = (
        "Template: what is asked for a problem; the base's chat template, or model.prompt_template, goes around it. "
        "Seen in training: problems that are among the rollouts, which are left out."
    )
    header = ("Benchmark", "Source", "Template", "Problems", "Seen in training")
    return [Table("benchmarks", "Benchmarks", header, rows, note, words=3)] if rows else []


def turn_tables(study: Study) -> list[Table]:
    """How the base is asked and what ends its answers; empty for the synthetic task and where it was not recorded."""
    turn = study.record.get("turn")
    if not turn:
        return []
    ends = [f"{text} ({one}): {said}" for one, text, said in turn["ends"]]
    closing = next((text for one, text, _ in turn["ends"] if one == turn["closing"]), str(turn["closing"]))
    rows = [
        ("The prompt of a question", turn["prompt"]),
        ("What it has begun of the answer", turn["opens"] or "nothing"),
        ("What training teaches for it", turn["answer"]),
        ("The token that training ends an answer with", f"{closing} ({turn['closing']})"),
        *(("A token that ends an answer", end) for end in ends),
        ("The date in the chat template", turn["date"] or "none"),
    ]
    note = "One example, decoded from the tokens; every question is asked so, in sampling, training and evaluation."
    cells = [Cells(name, str(text).replace("\n", "\\n")) for name, text in rows]
    return [Table("turn", "How the base is asked, and what ends its answers", ("What", "Text"), cells, note, words=2)]


def checks_table(study: Study) -> Table:
    """What the study checked about itself."""
    checks = study.record.get("checks") or []
    rows = [Cells(check["name"], "holds" if check["ok"] else "FAILED", check["detail"]) for check in checks]
    return Table("checks", "Checks", ("Check", "Result", "Detail"), rows, "", words=3)


def stage_tables(study: Study) -> tuple[Table, Table]:
    """Seconds and cache hits by kind of stage, and the same stage by stage."""
    stages = sorted(study.record.get("stages") or [], key=lambda stage: stage["started"])
    first = min((stage["started"] for stage in stages), default=0.0)
    kinds = dict.fromkeys(stage["stage"] for stage in stages)
    totals = []
    for kind in kinds:
        own = [stage for stage in stages if stage["stage"] == kind]
        spent = [seconds(sum(map(_spent, own))), seconds(max(map(_spent, own)))]
        totals.append(Cells(kind, len(own), sum(bool(stage["hit"]) for stage in own), *spent))
    told = any(stage.get("peak_bytes") for stage in stages)  # older studies have none
    rows = [
        Cells(stage["stage"], stage["name"], "from the cache" if stage["hit"] else "computed", seconds(_spent(stage)),
              seconds(stage["started"] - first), *([_gigabytes(stage.get("peak_bytes"))] if told else []))
        for stage in stages
    ]  # fmt: skip
    work = sum(stage["seconds"] for stage in stages if not stage["hit"])
    hits = sum(bool(stage["hit"]) for stage in stages)
    note = (
        f"{hits} of {len(stages)} stages came from the cache (their seconds are those of the first computation). Work "
        f"in this run: {seconds(work)} summed over stages, some of them at the same time; wall time "
        f"{seconds(study.record.get('wall_seconds'))}."
    )
    header = ("Stage", "Number", "From the cache", "Work, all together", "The longest")
    each = ("Stage", "Name", "Source", "Work", "Begun after", *(["Memory of a worker at most"] if told else []))
    return (
        Table("stage-totals", "Seconds by kind of stage", header, totals, note),
        Table("stages", "Stage by stage", each, rows, "", words=3),
    )


def _gigabytes(peak: float | None) -> str:
    """Of this machine, not of a GPU; a stage without a worker process has none."""
    return f"{peak / 1e9:.1f} GB" if peak else NOT_MEASURED


def _spent(stage: Mapping[str, Any]) -> float:
    return float(stage["cached_seconds"] if stage["hit"] else stage["seconds"])


def settings_table(study: Study) -> Table:
    """Every resolved setting, as ``--set`` takes it."""
    rows = [Cells(key, value) for key, value in _flat(study.record.get("settings") or {})]
    return Table("settings", "Settings", ("Setting", "Value"), rows, "", words=2)


def versions_table(study: Study) -> Table:
    """What it ran on: commit, machine, libraries, MLflow runs; those of a server lead to its pages."""
    record = study.record
    origin = {"commit": record.get("commit") or "not recorded", "machine": record.get("machine") or "not recorded"}
    known = {**origin, **(record.get("versions") or {})}
    rows = [Cells(key, value) for key, value in known.items()]
    mlflow = dict(_flat(record.get("mlflow") or {}))
    server = mlflow.get("uri", "")
    for key, value in mlflow.items():
        served = key != "uri" and server.startswith(("http://", "https://"))
        href = f"{server.rstrip('/')}/#/runs/{quote(value, safe='')}" if served else ""
        rows.append(Cells(f"mlflow {key}", Cell(value, href=href)))
    return Table("versions", "Versions and records", ("What", "Value"), rows, "", words=2)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        elif isinstance(value, list | tuple):
            yield f"{prefix}{key}", ", ".join(str(item) for item in value)
        else:
            yield f"{prefix}{key}", "not set" if value is None else str(value)


TINY = "tiny"
"""``model.base`` of the small model that a study trains for itself."""

MADE = "made by the study"
"""Source of a benchmark of synthetic problems."""

_LONGEST_SAMPLE = 200


def study_facts(study: Study) -> tuple[tuple[str, str], ...]:
    """Label and value; without those that the study's record has not."""
    runs, settings = study.trained, study.record.get("settings") or {}
    methods = list(dict.fromkeys(info.method for info in runs))
    facts = {
        "Methods": ", ".join(methods),
        "Model": _model(study.record, settings),
        "LoRA": _lora(settings),
        "Training": _training(study, settings),
        "Rollouts": _rollouts(study),
        "Judged by": _benchmarks(study),
        "Seeds": _seeds(study),
    }
    return tuple((label, value) for label, value in facts.items() if value)


def sample_problem(study: Study) -> str:
    """One problem that the rollouts answer, on one line; empty where the study kept none."""
    examples = (study.record.get("rollouts_seen") or {}).get("examples") or []
    text = " ".join(str(examples[0]["prompt"]).split()) if examples else ""
    return text if len(text) <= _LONGEST_SAMPLE else f"{text[: _LONGEST_SAMPLE - 1]}…"


def _model(record: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    name, parameters = str((settings.get("model") or {}).get("base") or ""), record.get("parameters")
    if name == TINY:
        layers = (settings.get("tiny") or {}).get("layers")
        name = f"{f'{layers}-layer ' if layers else ''}Qwen3 made for this study"
    millions = (parameters or 0) / 1e6
    size = f"{millions:.2g}" if millions < 10 else f"{millions:,.0f}"
    return f"{name}, {size} M parameters" if parameters else name


def _lora(settings: Mapping[str, Any]) -> str:
    lora = settings.get("lora") or {}
    if "r" not in lora:
        return ""
    targets = [str(target).removesuffix("_proj") for target in lora.get("targets") or []]
    where = f" on {', '.join(targets)}" if 0 < len(targets) <= 7 else ""
    return f"rank {lora['r']}{where}"


def _training(study: Study, settings: Mapping[str, Any]) -> str:
    train = settings.get("train") or {}
    if "steps" not in train:
        return ""
    rates = sorted({info.lr for info in study.trained if info.lr}, reverse=True)
    batch = f" of {train['batch_size']}" if "batch_size" in train else ""
    return f"{train['steps']} steps{batch}, lr {listed([learning_rate(rate) for rate in rates])}"


def _rollouts(study: Study) -> str:
    found = study.rollouts
    rows, prompts, correct = (found.get(name) for name in ("rows", "prompts", "correct"))
    if not rows:
        return ""
    share = f", {100 * correct / rows:.0f} % right" if correct is not None else ""
    return f"{rows:,} on {prompts:,} problems{share}" if prompts else f"{rows:,}{share}"


def _benchmarks(study: Study) -> str:
    sources = {str(one["name"]): str(one["source"]) for one in study.record.get("benchmarks") or []}
    asked = study.accuracy.select("benchmark", "n").unique("benchmark", maintain_order=True).rows()
    parts = [f"{n:,} {in_sentence(name)}" for name, n in asked]
    made = "synthetic " if asked and all(sources.get(name) == MADE for name, _ in asked) else ""
    return f"{listed(parts)} {made}problems" if parts else ""


def _seeds(study: Study) -> str:
    runs = study.trained
    main = {(info.method, info.lr): info for info in reversed(runs)}
    repeats = [info for info in runs if info not in main.values()]
    seeds = count(len({info.seed for info in main.values()}), "seed")
    methods = list(dict.fromkeys(info.method for info in repeats))
    again = f", {count(len(repeats), 'repeat run')} of {listed(methods)}" if repeats else ""
    return f"{seeds}{again}" if runs else ""
