"""A study's settings: presets, bounds that a form can draw, and one-line refusals that name the field."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from flows.cli.main import study_spec
from tasks.core import sections as specs
from tasks.core.errors import InputError, nearest
from tasks.core.results import RunInfo
from tasks.methods import METHOD_NAMES, THE_SIX
from tasks.settings.presets import PRESETS, preset, summary
from tasks.settings.study import StudySpec, build, load_toml, override
from tests.lab.refusals import refusal as refused


def spec(*assignments: str, **values: Any) -> StudySpec:
    return build(override(values, assignments))


def refusal(*assignments: str, **values: Any) -> str:
    said = refused(spec, *assignments, **values)
    assert len(said) < 400
    return said


# --- presets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_builds_and_says_what_it_is(name: str) -> None:
    values = preset(name)
    if name == "own":
        values = {**values, "model": {"base": "b"}, "rollouts": {"file": "f"}}
    if name in ("qwen-0.5b", "smollm2"):
        values = {**values, "rollouts": {**values["rollouts"], "file": "f"}}
    assert build(values).name == name
    assert summary(name).endswith(".")
    assert f"colinear study {name}" in str(PRESETS[name].__doc__) or name == "own"


def test_presets_are_fresh_each_time_and_unknown_ones_are_refused() -> None:
    preset("smoke")["tiny"]["hidden"] = 999
    assert build(preset("smoke")).tiny.hidden == 64
    with pytest.raises(InputError, match=r"^preset 'smok': unknown; did you mean 'smoke'\?; `colinear presets` lists"):
        preset("smok")


# --- what Prefect's UI draws a form from -----------------------------------------------------------------------------


def fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, dict[str, Any], str | None]]:
    """(dotted name, JSON schema, title as written) of every field of every section; sections have schema {}."""
    schema = model.model_json_schema()
    for name, field in model.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            yield prefix + name, {}, field.title
            yield from fields(section, f"{prefix}{name}.")
        else:
            yield prefix + name, schema["properties"][name], field.title


TITLES = {name: title for name, _, title in fields(StudySpec)}
FIELDS = {name: schema for name, schema, _ in fields(StudySpec) if schema}
FREE_TEXT = {"name", "model.base", "model.prompt_template", "model.pad_token", "rollouts.file"}
FREE_TEXT |= {"model.gguf_file", "model.instruction"}
FREE_TEXT |= {f"rollouts.{name}" for name in ("problems", "fields", "teacher", "teacher_template", "teacher_tokenizer")}
FREE_TEXT |= {"distillation.teacher", "rollouts.endpoint", "rollouts.extra", "rollouts.key_env"}
FREE_TEXT |= {"evaluation.problems", "evaluation.benchmarks", "evaluation.fields", "functions.texts"}
CHECKED_ELSEWHERE = {
    "paths.reference": "one of the methods",
    "lora.targets": "against the base's modules",
    "model.template_date": "a day",
    "tiny.step_mix": "must sum to 1",
    "tiny.hard_steps": "1 to 6",
    "geometry.ks": "at least 1",
    "paths.alphas": "from 0 to 1, both ends",
    "soups": "sums and means of the study's runs",
}


@pytest.mark.parametrize("name", TITLES)
def test_every_field_and_section_has_a_title(name: str) -> None:
    assert TITLES[name]  # pydantic would make one up, so this looks at what is written
    assert FIELDS.get(name, {}).get("title", TITLES[name]) == TITLES[name]


def bounded(schema: dict[str, Any]) -> bool:
    options = schema.get("anyOf", [schema])
    kinds = [option for option in options if option.get("type") != "null"]
    limits = ("minimum", "exclusiveMinimum", "enum", "const")
    return all(option["type"] == "boolean" or any(limit in option for limit in limits) for option in kinds)


@pytest.mark.parametrize("name", FIELDS)
def test_every_value_is_bounded_or_one_of_a_list(name: str) -> None:
    schema = FIELDS[name]
    if name in FREE_TEXT or name in CHECKED_ELSEWHERE:
        assert not bounded(schema)  # else it no longer belongs on these lists
    elif schema.get("type") == "array":
        assert bounded(schema["items"])
    else:
        assert bounded(schema)


def test_methods_are_a_choice_in_the_form() -> None:
    for name in ("methods", "replicates", "init_replicates", "matched"):
        every = ["all"] if name.endswith("replicates") else []
        assert FIELDS[name]["items"]["enum"] == [*METHOD_NAMES, *every]
    assert FIELDS["train.scheduler"]["enum"] == ["cosine", "linear", "constant"]
    assert FIELDS["rift.form"]["enum"] == ["linear", "stabilized", "as_printed"]


@pytest.mark.parametrize("section", [(), ("train",), ("dpo",)])
def test_settings_are_frozen(section: tuple[str, ...]) -> None:
    model: Any = build({})
    for name in section:
        model = getattr(model, name)
    field = next(iter(type(model).model_fields))
    with pytest.raises(ValidationError, match="frozen"):
        setattr(model, field, getattr(model, field))


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("trian.lr=1", "--set trian.lr: no section 'trian'; did you mean 'train'?"),
        ("train.lrr=1", "--set train.lrr: unknown setting 'lrr'; did you mean 'lr'?"),
        ("train.lr.x=1", "--set train.lr.x: no section 'lr'"),
        ("zzz=1", "--set zzz: unknown setting 'zzz'; known: sft, rft, "),
        ("train=3", "--set train: 'train' is a section; set one of its keys: lr, steps, "),
        ("train.lr", "--set train.lr: expected section.key=value"),
        ("=3", "--set =3: expected section.key=value"),
        ("train.lr=fast", "train.lr: Input should be a valid number, unable to parse string as a number, got 'fast'"),
        ("train.lr=0", "train.lr: Input should be greater than 0, got 0"),
        ("train.lr=1e3", "train.lr: Input should be less than 1, got 1000.0"),
        ("train.lr=NaN", "train.lr: Input should be a finite number, got nan"),
        ("train.lr=1e999", "train.lr: Input should be a finite number, got inf"),
        ("train.weight_decay=Infinity", "train.weight_decay: Input should be a finite number, got inf"),
        ("sft.lr_ratio=-1", "sft.lr_ratio: Input should be greater than 0, got -1"),
        ("lora.alpha=NaN", "lora.alpha: Input should be a finite number, got nan"),
        ("rollouts.k=0", "rollouts.k: Input should be greater than or equal to 1, got 0"),
        ("train.steps=1.5", "train.steps: Input should be a valid integer, got a number with a fractional part"),
        ("seed=-1", "seed: Input should be greater than or equal to 0, got -1"),
        ("seed=", "seed: Input should be a valid integer"),
        ("seed=[1]", "seed: Input should be a valid integer, got [1]"),
        ('seed={"a": 1}', "seed: Input should be a valid integer"),
        ("seed=" + "9" * 5000, "seed: "),
        ("seed=" + "[" * 50_000, "seed: "),
        ("rollouts.holdout=1", "rollouts.holdout: Input should be less than 1, got 1"),
        ("rift.form=odd", "rift.form: Input should be 'linear', 'stabilized' or 'as_printed', got 'odd'"),
        ("methods=sftt", "methods: unknown method 'sftt'; known: sft, rft, dft, rift, offline_grpo, dpo"),
        ("methods=sft,sft", "methods: a method is listed twice"),
        ("methods=", "methods: Tuple should have at least 1 item"),
        ("methods=null", "methods: Input should be a valid string, got None"),
        ("replicates=x", "replicates: unknown method 'x'"),
        ("name=", "name: String should have at least 1 character"),
        ("name=null", "name: Input should be a valid string, got None"),
        ("geometry.ks=0", "geometry.ks: expected dimensions of at least 1, got [0]"),
        ("geometry.ks=", "geometry.ks: expected dimensions of at least 1, got []"),
        ("geometry.truncations=1,0", "geometry.truncations: Input should be greater than or equal to 1, got 0"),
        ("geometry.truncations=2,2", "geometry.truncations: 2 is listed twice"),
        ("train.keep_steps=5,0", "train.keep_steps: Input should be greater than or equal to 1, got 0"),
        ("train.keep_steps=5,5", "train.keep_steps: 5 is listed twice"),
        ("train.keep_steps=5,81", "train.keep_steps: 81 is beyond train.steps 80; name steps that are taken"),
        ("evaluation.kept_steps=true", "evaluation.kept_steps: no step is kept; name some in train.keep_steps"),
        ("soups=sft", "soups: expected runs joined by +, such as sft+dpo or mean(sft+dpo), got 'sft'"),
        (
            "soups=mean(sft+dpo",
            "soups: expected runs joined by +, such as sft+dpo or mean(sft+dpo), got 'mean(sft+dpo'",
        ),
        ("soups=sft+dpo, sft + dpo", "soups: sft+dpo is listed twice"),
        (
            "soups=sft+dpoo",
            "soups: sft+dpoo: this study has no run 'dpoo'; did you mean 'dpo'?; name others, or none: soups=",
        ),
        ("soups=sft+kto", "soups: sft+kto: this study has no run 'kto'; "),
        ("soups=sft+rft+sft", "soups: sft+rft+sft has sft twice; give each run once"),
        ("functions.texts=", "functions.texts: String should have at least 1 character"),
        ("paths.alphas=0,.5", "paths.alphas: expected numbers from 0 to 1, both ends among them, got [0.0, 0.5]"),
        ("paths.alphas=0,.5,.5,1", "paths.alphas: 0.5 is listed twice"),
        ("paths.readings=boxed,boxed", "paths.readings: boxed is listed twice"),
        ("evaluation.samples=1001", "evaluation.samples: Input should be less than or equal to 1000, got 1001"),
        ("lora.targets=", "lora.targets: Tuple should have at least 1 item"),
        ("tiny.step_mix=.5,.5", "tiny.step_mix: Value 3 is missing, got ['.5', '.5']"),
        ("tiny.hard_steps=1,2,3", "tiny.hard_steps: Tuple should have at most 2 items"),
        ("model.template_date=today", "model.template_date: expected a day such as 2024-07-26, got 'today'"),
        ("model.template_date=2024-02-30", "model.template_date: expected a day such as 2024-07-26, got '2024-02-30'"),
        ("model.base=x", "rollouts.file: a base of one's own needs rollouts: --rollouts FILE"),
        ("rollouts.engine=vlm", "rollouts.engine: Input should be 'transformers', 'vllm' or 'openai', got 'vlm'"),
        ("rollouts.truncated=cut", "rollouts.truncated: Input should be 'keep' or 'drop', got 'cut'"),
        ("rollouts.teacher=x", "rollouts.teacher: nothing is sampled without rollouts.problems; name them as well"),
        ("rollouts.endpoint=http://x/v1", "rollouts.endpoint: nothing is sampled without rollouts.problems; "),
        ("rollouts.file=x", "model.base: own rollouts need the model that they are for: --set model.base="),
    ],
)
def test_a_bad_assignment_is_refused_in_one_line_that_names_the_field(assignment: str, message: str) -> None:
    assert refusal(assignment).startswith(message)


def test_soups_are_of_the_study_s_runs() -> None:
    """A replicate may be part of one; runs that are not there (their training diverged) take their soups with them."""
    spec = build(override(preset("tiny"), ["soups=sft+dpo,mean(sft+sft-order1+rft)"]))
    whole, mean = spec.souped(spec.runs())
    assert (whole.name, [info.run for info in whole.of], whole.weight) == ("sft+dpo", ["sft", "dpo"], 1.0)
    assert ([info.run for info in mean.of], mean.weight) == (["sft", "sft-order1", "rft"], pytest.approx(1 / 3))
    assert [soup.name for soup in spec.souped([info for info in spec.runs() if info.run != "rft"])] == ["sft+dpo"]
    assert build(preset("tiny")).soups == ()


def test_texts_that_nothing_reads_are_refused() -> None:
    with pytest.raises(
        InputError, match=r"functions.texts: functions.n is 0, so nothing is read on them; raise it, or"
    ):
        build(override(preset("tiny"), ["functions.texts=mine.jsonl", "functions.n=0"]))


SAMPLED = ("model.base=b", "rollouts.problems=deepscaler")


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        ((), "rollouts.teacher: who is to solve rollouts.problems? Give a Hugging Face directory or Hub id"),
        (("rollouts.engine=openai",), "rollouts.teacher: who is to solve rollouts.problems? Give the model's name at"),
        (("rollouts.teacher=t", "rollouts.file=f"), "rollouts.problems: rollouts.file has rollouts already; give one"),
        (("rollouts.teacher=t", "rollouts.engine=openai"), "rollouts.endpoint: the openai engine needs one, like http"),
        (("rollouts.teacher=t", "rollouts.endpoint=http://h/v1"), "rollouts.endpoint: it is for rollouts.engine=open"),
        (("rollouts.teacher=t", "rollouts.teacher_tokenizer=t"), "rollouts.teacher_tokenizer: it is for rollouts.e"),
        (
            ("rollouts.teacher=t", "rollouts.engine=openai", "rollouts.endpoint=http://h/v1",
             "rollouts.teacher_template={question}"),
            "rollouts.teacher_template: the endpoint renders its own chat template; to render prompts here, name ",
        ),
    ],
)  # fmt: skip
def test_sources_of_rollouts_that_contradict_each_other_are_refused(assignments: tuple[str, ...], message: str) -> None:
    assert refusal(*SAMPLED, *assignments).startswith(message)


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (
            ["rollouts.file=f", "rollouts.fields.question=q"],
            "rollouts.fields.question: rollouts.file has no such role; ",
        ),
        (
            ["rollouts.file=f", "rollouts.fields.solution=s"],
            "rollouts.fields.solution: rollouts.file has no such role; ",
        ),
        (
            ["rollouts.problems=p", "rollouts.teacher=t", "rollouts.fields.prompt=q"],
            "rollouts.fields.prompt: rollouts.problems has no such role; its questions are 'question'",
        ),
        (
            ["rollouts.file=f", "rollouts.fields.completion=a", "rollouts.fields.rejected=b"],
            "rollouts.fields.completion: 'rejected' names the completions as well; give one of them",
        ),
        (["rollouts.file=f", "rollouts.fields.nope=q"], "rollouts.fields.nope"),
    ],
)
def test_columns_are_named_by_the_roles_that_their_source_has(assignments: list[str], message: str) -> None:
    assert refusal("model.base=/b", *assignments).startswith(message)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        (
            "rollouts.endpoint=https://me:SECRET@h/v1",
            "rollouts.endpoint: a URL with credentials, a query or a fragment",
        ),
        ("rollouts.endpoint=https://SECRET@h/v1", "rollouts.endpoint: a URL with credentials"),
        ("rollouts.endpoint=https://h/v1?key=SECRET", "rollouts.endpoint: a URL with credentials"),
        ("rollouts.endpoint=ftp://SECRET/v1", "rollouts.endpoint: not an http or https URL; give it like https://api."),
        ("rollouts.endpoint=https://h:SECRET/v1", "rollouts.endpoint: not a URL; give it like https://api."),
        ("rollouts.key_env=sk-SECRET", "rollouts.key_env: expected the name of an environment variable, in capitals"),
    ],
)
def test_a_secret_in_a_setting_is_refused_without_being_repeated(assignment: str, message: str) -> None:
    given = ["rollouts.teacher=t", "rollouts.engine=openai", "rollouts.endpoint=https://h/v1", assignment]
    said = refusal(*SAMPLED, *given)
    assert said.startswith(message)
    assert "SECRET" not in said


@pytest.mark.parametrize("field", ["endpoint", "key_env", "extra"])
@pytest.mark.parametrize("value", [["https://u:SECRET@h"], 17.5, "SECRET"])
def test_a_setting_that_may_hold_a_secret_is_not_repeated(field: str, value: object) -> None:
    if field == "extra" or value != "SECRET":
        with pytest.raises(InputError, match=rf"^rollouts\.{field}: Input should be a valid (string|dictionary)$"):
            build({"rollouts": {field: value}})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"train": {"lrr": 1}}, "train.lrr: unknown setting; did you mean 'lr'?"),
        ({"sftt": {}}, "sftt: unknown setting; did you mean 'sft'?"),
        ({"train": 3}, "train: Input should be a valid dictionary or instance of TrainSpec, got 3"),
        ({"train": {"lr": 0, "steps": 0}}, "train.lr: Input should be greater than 0, got 0 (and 1 more)"),
        ({"methods": "sft"}, "methods: Input should be a valid tuple, got 'sft'"),
        ({"name": "x" * 10, "seed": "y" * 5000}, "seed: Input should be a valid integer"),
    ],
)
def test_bad_values_are_refused_alike(values: dict[str, Any], message: str) -> None:
    assert refusal(**values).startswith(message)


def test_an_assignment_into_what_is_no_section_is_refused() -> None:
    assert refusal("train.lr=1e-3", train=3) == "train: expected a section with keys, got 3"


def test_the_micro_batch_divides_the_batch() -> None:
    assert spec("train.batch_size=12", "train.micro_batch_size=4").train.micro_batch_size == 4
    message = "train.micro_batch_size: 5 does not divide train.batch_size 12"
    assert refusal("train.batch_size=12", "train.micro_batch_size=5") == message
    assert refusal("train.batch_size=12", "train.micro_batch_size=24").endswith(
        "24 does not divide train.batch_size 12"
    )


def test_what_the_stages_refuse_is_refused_before_them() -> None:
    """The bounds of settings are those of the code that would refuse them after training."""
    from tasks.evaluation import samples
    from tasks.geometry.connectivity import check_alphas

    assert spec(f"evaluation.samples={samples.MOST_SAMPLES}").evaluation.samples == samples.MOST_SAMPLES
    assert specs.MOST_SAMPLES == samples.MOST_SAMPLES
    for alphas in ((0.0, 0.5), (0.5, 1.0), (0.0, 0.5, 0.5, 1.0), (0.0, 1.0, 1.5), (0.0, -0.5, 1.0), (0.0, 0.0, 1.0)):
        with pytest.raises(InputError):
            check_alphas(alphas)
        assert refusal(paths={"alphas": alphas}).startswith("paths.alphas: ")


def test_nearest_of_nothing_says_nothing() -> None:
    assert nearest("x", []) == ""
    assert nearest("abd", ["abc", "xyz"]) == "; did you mean 'abc'?"


# --- reading values --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("assignment", "field", "value"),
    [
        ("seed=3", "seed", 3),
        ("data_seed=null", "data_seed", None),
        ("train.lr=5e-4", "train.lr", 5e-4),
        ("methods=sft, dpo", "methods", ("sft", "dpo")),
        ('methods=["dpo"]', "methods", ("dpo",)),
        ("methods=[sft,dpo]", "methods", ("sft", "dpo")),
        ("replicates=", "replicates", ()),
        ("replicates=[]", "replicates", ()),
        ("geometry.ks=1,5", "geometry.ks", (1, 5)),
        ("geometry.ks=5", "geometry.ks", (5,)),
        ("lora.targets=q_proj", "lora.targets", ("q_proj",)),
        ("tiny.step_mix=[.5,.25,.25]", "tiny.step_mix", (0.5, 0.25, 0.25)),
        ("tiny.hard_steps=[3, 4]", "tiny.hard_steps", (3, 4)),
        ("rft.distinct=true", "rft.distinct", True),
        ("offline_grpo.clip=0.2", "offline_grpo.clip", 0.2),
        ("offline_grpo.clip=null", "offline_grpo.clip", None),
        ("train.micro_batch_size=null", "train.micro_batch_size", None),
        ("model.prompt_template=null", "model.prompt_template", None),
        (r"model.prompt_template=Q: {question}\nA: ", "model.prompt_template", "Q: {question}\nA: "),
        ("model.prompt_template={question} = ", "model.prompt_template", "{question} = "),
        ("model.pad_token=12", "model.pad_token", "12"),
        ("name=true", "name", "true"),
        ("rollouts.fields.reward=acc", "rollouts.fields", {"reward": "acc"}),
        ("rollouts.fields.id=7", "rollouts.fields", {"id": "7"}),
        ("evaluation.fields.answer=", "evaluation.fields", {"answer": ""}),
        (" seed =4", "seed", 4),
    ],
)
def test_values_as_people_type_them(assignment: str, field: str, value: Any) -> None:
    found: Any = spec(assignment)
    for part in field.split("."):
        found = getattr(found, part)
    assert found == value
    assert type(found) is type(value)


def test_the_last_assignment_counts_and_the_given_values_are_left_alone() -> None:
    values = {"train": {"lr": 0.1}}
    assert build(override(values, ["train.lr=0.2", "train.lr=0.3"])).train.lr == 0.3
    assert values == {"train": {"lr": 0.1}}


def test_resolved_settings_survive_json() -> None:
    original = spec("methods=sft,dpo", "geometry.ks=2", "offline_grpo.clip=0.2")
    assert build(json.loads(original.model_dump_json())) == original


# --- TOML and the command line's precedence --------------------------------------------------------------------------


def test_a_toml_file_goes_on_top_of_its_preset_and_under_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('preset = "smoke"\nname = "mine"\nseed = 5\n[train]\nlr = 0.01\nsteps = 3\n[geometry]\nks = [2]\n')
    found = study_spec(str(path), ["train.steps=4"], None)
    assert (found.name, found.seed, found.train.lr, found.train.steps, found.geometry.ks) == ("mine", 5, 0.01, 4, (2,))
    assert (found.tiny.hidden, found.train.batch_size) == (64, 16)  # of the preset, also within a section


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"seed = ", "mine.toml: not a TOML file that can be read: Invalid value (at end of document)"),
        (b"\xff\xfe", "mine.toml: not a TOML file that can be read: 'utf-8' codec"),
        (b"seed = -2", "seed: Input should be greater than or equal to 0, got -2"),
        (b"[train]\nlrr = 1", "train.lrr: unknown setting; did you mean 'lr'?"),
        (b'preset = "nope"', "preset 'nope': unknown; known: "),
        (b"preset = 3", "preset '3': unknown; known: "),
        (b"name = 2024-01-01", "name: Input should be a valid string, got datetime.date(2024, 1, 1)"),
        (b"train = 3", "train: "),
    ],
)
def test_a_bad_toml_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    assert refused(study_spec, str(path), [], None).removeprefix(f"{tmp_path}/").startswith(message)


def test_a_missing_toml_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.toml: no such file$"):
        load_toml(tmp_path / "none.toml")
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(InputError, match=r"folder\.toml: not a TOML file that can be read"):
        load_toml(tmp_path / "folder.toml")


def test_rollouts_choose_the_preset_for_own_data(tmp_path: Path) -> None:
    found = study_spec(None, ["model.base=b"], str(tmp_path / "r.jsonl"))
    assert (found.name, found.own, found.rollouts.file) == ("own", True, str(tmp_path / "r.jsonl"))
    assert not study_spec(None, [], None).own


# --- runs ------------------------------------------------------------------------------------------------------------


def test_the_runs_of_the_default_study() -> None:
    runs = spec().runs()
    assert [run.run for run in runs] == [*THE_SIX, "sft-order1", "sft-init1"]
    assert [run.seed for run in runs] == [0] * 7 + [1]
    assert [run.data_seed for run in runs] == [0] * 6 + [1, 0]
    # train.lr 1e-3; DPO's ratio is 0.1 (PAPER's convention), all others 1
    assert {run.run: run.lr for run in runs} == {
        **dict.fromkeys(THE_SIX, 1e-3),
        "sft-order1": 1e-3,
        "sft-init1": 1e-3,
        "dpo": 1e-4,
    }


def test_replicates_follow_the_data_seed_and_the_methods() -> None:
    runs = spec(
        "seed=3", "data_seed=7", "methods=dpo,rft", "replicates=rft,sft,dpo", "init_replicates=rft,sft",
        "dpo.lr_ratio=0.5",
    ).runs()  # fmt: skip
    assert runs == [
        RunInfo("dpo", "dpo", 3, 7, 5e-4),
        RunInfo("rft", "rft", 3, 7, 1e-3),
        RunInfo("rft-order8", "rft", 3, 8, 1e-3),  # none of sft, which is not trained
        RunInfo("dpo-order8", "dpo", 3, 8, 5e-4),
        RunInfo("rft-init4", "rft", 4, 7, 1e-3),
    ]
    assert [run.data_seed for run in spec("seed=3").runs()] == [3] * 6 + [4, 3]
    assert len({run.run for run in runs}) == 5
    assert spec("replicates=", "init_replicates=").runs()[-1].run == "dpo"


def test_all_replicates_in_several_orders() -> None:
    runs = spec("methods=sft,dpo", "replicates=all", "replicate_orders=2", "init_replicates=all").runs()
    assert [(run.run, run.seed, run.data_seed) for run in runs[2:]] == [
        ("sft-order1", 0, 1), ("dpo-order1", 0, 1), ("sft-order2", 0, 2), ("dpo-order2", 0, 2),
        ("sft-init1", 1, 0), ("dpo-init1", 1, 0),
    ]  # fmt: skip
    with pytest.raises(InputError, match="replicates: unknown method 'all'"):
        spec("replicates=all,sft")
    with pytest.raises(InputError, match="matched: unknown method 'all'"):
        spec("matched=all")
    with pytest.raises(InputError, match="twins: this setting is called replicates now"):
        build({"twins": ["sft"]})


def test_paths_from_one_method_alone() -> None:
    """Six methods and SFT in another order: 15 pairs of one order and SFT with itself; 6 of these 16 have an SFT."""
    spec = build(override({}, ["replicates=sft", "init_replicates="]))
    assert len(spec.path_pairs(spec.runs())) == 16
    from_sft = build(override({}, ["replicates=sft", "init_replicates=", "paths.reference=sft"]))
    pairs = from_sft.path_pairs(from_sft.runs())
    assert [(a.run, b.run) for a, b in pairs] == [
        ("sft", "rft"), ("sft", "dft"), ("sft", "rift"), ("sft", "offline_grpo"), ("sft", "dpo"), ("sft", "sft-order1")
    ]  # fmt: skip
    with pytest.raises(InputError, match=r"^paths\.reference: 'kto' is not among the methods \(sft, rft, dft, rift, "):
        build(override({}, ["paths.reference=kto"]))
