"""A study's whole settings: the sections of `tasks.core.sections` and the methods' own, and how a person gives them.

Settings come from a preset or a TOML file, then ``--set section.key=value``. Anything unknown or out of bounds is
refused in one line that names the field.
"""

from __future__ import annotations

import copy
import json
import math
import re
import reprlib
import tomllib
import typing
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from tasks.core.errors import InputError, nearest
from tasks.core.frames import LEADING, REST
from tasks.core.results import Kept, RunInfo, Soup, Truncated, short_rate
from tasks.core.sections import (
    LARGEST_NUMBER,
    LARGEST_SEED,
    EvaluationSpec,
    FunctionSpec,
    GeometrySpec,
    GradientSpec,
    LoraSpec,
    ModelSpec,
    PathSpec,
    RolloutSpec,
    TinySpec,
    TrainSpec,
)
from tasks.core.small_files import depth, read_text
from tasks.core.visible import visible
from tasks.methods import METHOD_NAMES, THE_SIX, Method, Methods

ALL = "all"
"""Of replicates: every method of the study."""

MOST_ORDERS = 20


def _methods_last(schema: dict[str, Any]) -> None:
    """Prefect's form shows fields in the schema's order, which begins with those that are inherited."""
    fields = schema["properties"]
    schema["properties"] = {name: fields[name] for name in sorted(fields, key=METHOD_NAMES.__contains__)}


class StudySpec(Methods):
    """Everything that decides a study. Each method has a section of its own beside the common ones."""

    model_config = ConfigDict(json_schema_extra=_methods_last)

    name: str = Field(
        "tiny", title="Name", description="Shown in Prefect, MLflow and the report.", min_length=1, max_length=1000
    )
    methods: tuple[str, ...] = Field(
        THE_SIX,
        title="Methods",
        description="Which methods to train, of: " + ", ".join(METHOD_NAMES),
        min_length=1,
        json_schema_extra={"items": {"type": "string", "enum": list(METHOD_NAMES)}},
    )
    seed: int = Field(
        0, title="Seed", description="Draws the LoRA initialisation that all methods share.", ge=0, le=LARGEST_SEED
    )
    data_seed: int | None = Field(
        None, title="Data seed", description="Draws the order of the data. Default: the seed.", ge=0, le=LARGEST_SEED
    )
    replicates: tuple[str, ...] = Field(
        ("sft",),
        title="Replicates in another data order",
        description="Methods trained again with the same initialisation and another order of the data: the noise floor "
        "of their cosines with the others. 'all': every method.",
        json_schema_extra={"items": {"type": "string", "enum": [*METHOD_NAMES, ALL]}},
    )
    replicate_orders: int = Field(
        1,
        title="Further data orders of a replicate",
        description="How many more times each of `replicates` is trained; with 2 or more the spread has an interval.",
        ge=1,
        le=MOST_ORDERS,
    )
    init_replicates: tuple[str, ...] = Field(
        ("sft",),
        title="Replicates from another initialisation",
        description="Methods trained again with another LoRA initialisation and the same data order. 'all': every one.",
        json_schema_extra={"items": {"type": "string", "enum": [*METHOD_NAMES, ALL]}},
    )
    matched: tuple[str, ...] = Field(
        (),
        title="Also at the common learning rate",
        description="Methods whose lr_ratio is not 1, trained once more at train.lr itself.",
        json_schema_extra={"items": {"type": "string", "enum": list(METHOD_NAMES)}},
    )
    soups: tuple[str, ...] = Field(
        (),
        title="Sums and means of updates",
        description="Such as sft+dpo or mean(sft+dpo), of this study's runs: the base with the sum or the mean of "
        "their updates is asked as they are, and held against what their single effects predict. Empty leaves it out.",
        max_length=64,
    )
    model: ModelSpec = Field(ModelSpec(), title="Base model")
    tiny: TinySpec = Field(TinySpec(), title="Embedded world")
    rollouts: RolloutSpec = Field(RolloutSpec(), title="Rollouts")
    lora: LoraSpec = Field(LoraSpec(), title="LoRA")
    train: TrainSpec = Field(TrainSpec(), title="Training")
    evaluation: EvaluationSpec = Field(EvaluationSpec(), title="Evaluation")
    geometry: GeometrySpec = Field(GeometrySpec(), title="Geometry")
    paths: PathSpec = Field(PathSpec(), title="Paths between solutions")
    gradients: GradientSpec = Field(GradientSpec(), title="Gradients before training")
    functions: FunctionSpec = Field(FunctionSpec(), title="Representations and distributions")

    @field_validator("name")
    @classmethod
    def _printable(cls, name: str) -> str:
        if not name.isprintable():
            raise ValueError("expected characters that print, on one line")
        return name

    @model_validator(mode="before")
    @classmethod
    def _renamed(cls, values: Any) -> Any:
        for old, new in (("twins", "replicates"), ("init_twins", "init_replicates")):
            if isinstance(values, Mapping) and old in values:
                raise ValueError(f"{old}: this setting is called {new} now")
        return values

    @field_validator("methods", "replicates", "init_replicates", "matched")
    @classmethod
    def _known_methods(cls, names: tuple[str, ...], asked: ValidationInfo) -> tuple[str, ...]:
        if names == (ALL,) and asked.field_name in ("replicates", "init_replicates"):
            return names
        for name in names:
            if name not in METHOD_NAMES:
                raise ValueError(f"unknown method {name!r}; known: {', '.join(METHOD_NAMES)}")
        if len(set(names)) != len(names):
            raise ValueError("a method is listed twice")
        return names

    @field_validator("soups")
    @classmethod
    def _each_once(cls, soups: tuple[str, ...]) -> tuple[str, ...]:
        names = tuple("".join(soup.split()) for soup in soups)
        for i, name in enumerate(names):
            if not _SOUP.fullmatch(name):
                raise ValueError(f"expected runs joined by +, such as sft+dpo or mean(sft+dpo), got {name[:80]!r}")
            if name in names[:i]:
                raise ValueError(f"{name} is listed twice")
        return names

    @model_validator(mode="after")
    def _coherent(self) -> StudySpec:
        own = self.model.base != "tiny"
        if own and self.rollouts.file is None and self.rollouts.problems is None:
            raise ValueError(
                "rollouts.file: a base of one's own needs rollouts: --rollouts FILE, or rollouts.problems and "
                "rollouts.teacher to sample them"
            )
        if not own and self.rollouts.file is not None:
            raise ValueError(
                "model.base: own rollouts need the model that they are for: --set model.base=DIR_OR_HUB_ID"
            )
        check_sources(self.rollouts)
        self._check_teacher(own)
        if not self.geometry.ks or min(self.geometry.ks) < 1:
            raise ValueError(f"geometry.ks: expected dimensions of at least 1, got {list(self.geometry.ks)}")
        for name in self.matched:
            if self.method(name).lr_ratio == 1.0:
                raise ValueError(f"matched: {name} is trained at train.lr as it is ({name}.lr_ratio = 1); leave it out")
        if self.paths.reference is not None and self.paths.reference not in self.methods:
            raise ValueError(
                f"paths.reference: {self.paths.reference!r} is not among the methods ({', '.join(self.methods)})"
            )
        if self.train.schedule_steps is not None and self.train.schedule_steps < self.train.steps:
            raise ValueError(
                f"train.schedule_steps: {self.train.schedule_steps} is below train.steps {self.train.steps}; the "
                "schedule cannot end before the training"
            )
        if (last := max(self.train.keep_steps, default=0)) > self.train.steps:
            raise ValueError(
                f"train.keep_steps: {last} is beyond train.steps {self.train.steps}; name steps that are taken"
            )
        if self.evaluation.kept_steps and not self.train.keep_steps:
            raise ValueError("evaluation.kept_steps: no step is kept; name some in train.keep_steps")
        if self.train.micro_batch_size and self.train.batch_size % self.train.micro_batch_size:
            raise ValueError(
                f"train.micro_batch_size: {self.train.micro_batch_size} does not divide train.batch_size "
                f"{self.train.batch_size}"
            )
        known = [info.run for info in self.runs()]
        for name in self.soups:
            parts = _parts(name)
            for i, run in enumerate(parts):
                if run not in known:
                    raise ValueError(
                        f"soups: {name}: this study has no run {run!r}{nearest(run, known)}; name others, or none: "
                        "soups="
                    )
                if run in parts[:i]:
                    raise ValueError(f"soups: {name} has {run} twice; give each run once")
        if self.functions.texts is not None and not self.functions.n:
            raise ValueError(
                "functions.texts: functions.n is 0, so nothing is read on them; raise it, or leave them out"
            )
        for name in self.methods:
            self.method(name).phases(self.train)
        return self

    def _check_teacher(self, own: bool) -> None:
        """Raise `ValueError` where distillation has no teacher, or one that is not asked."""
        given = self.distillation.teacher is not None
        if given and not own:
            raise ValueError("distillation.teacher: the synthetic task has its own teacher; leave it out")
        if own and not given and "distillation" in self.methods:
            raise ValueError(
                "distillation.teacher: whose distribution is the student to follow? Give a Hugging Face directory or "
                "Hub id with the base's own tokenizer"
            )

    @property
    def own(self) -> bool:
        """Whether base and rollouts are the user's, not the synthetic task's."""
        return self.model.base != "tiny"

    def method(self, name: str) -> Method:
        """The section of one method."""
        section = getattr(self, name)
        assert isinstance(section, Method)
        return section

    def runs(self) -> list[RunInfo]:
        """The adapters to train: the methods, then of those that are among them the matched ones and replicates."""
        data_seed = self.seed if self.data_seed is None else self.data_seed
        seed = self.seed
        runs = [self._run(name, name, seed, data_seed) for name in self.methods]
        again = [
            self._run(f"{name}-order{order}", name, seed, order)
            for order in range(data_seed + 1, data_seed + 1 + self.replicate_orders)
            for name in self.asked(self.replicates)
        ]
        again += [
            self._run(f"{name}-init{seed + 1}", name, seed + 1, data_seed) for name in self.asked(self.init_replicates)
        ]
        lr = self.train.lr
        rate = short_rate(lr).replace(".", "_")  # PEFT takes a run's name for its adapter, but no name with a dot
        matched = [RunInfo(f"{name}-lr{rate}", name, seed, data_seed, lr) for name in self.matched]
        return runs + [info for info in [*matched, *again] if info.method in self.methods]

    def truncated(self, runs: Sequence[RunInfo]) -> list[Truncated]:
        """The parts of updates to ask on their own: of the first run of every method that is among ``runs``."""
        return [
            Truncated(info, part, k)
            for info in runs
            if info.run in self.methods
            for k in sorted(self.geometry.truncations)
            if k < self.lora.r
            for part in (LEADING, REST)
        ]

    def kept(self, runs: Sequence[RunInfo]) -> list[Kept]:
        """The adapters of ``runs`` on the way: of the steps before a training's last, whose adapter is its own."""
        return [Kept(info, step) for info in runs for step in self.method(info.method).kept(self.train)]

    def souped(self, runs: Sequence[RunInfo]) -> list[Soup]:
        """The sums and means to ask: those whose runs are all among ``runs``."""
        known = {info.run: info for info in runs}
        return [
            Soup(name, tuple(known[run] for run in parts), 1 / len(parts) if name.startswith("mean(") else 1.0)
            for name in self.soups
            if set(parts := _parts(name)) <= known.keys()
        ]

    def asked(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """The methods that ``replicates`` or ``init_replicates`` name."""
        return self.methods if names == (ALL,) else names

    def path_pairs(self, runs: Sequence[RunInfo]) -> list[tuple[RunInfo, RunInfo]]:
        """The pairs among ``runs`` with a path between them: runs of one method, or of one initialisation and order.

        With ``paths.reference`` only those with a run of that method.
        """
        return [
            (a, b)
            for a, b in combinations(runs, 2)
            if (a.method == b.method or (a.seed, a.data_seed) == (b.seed, b.data_seed))
            and self.paths.reference in (None, a.method, b.method)
        ]

    def _run(self, run: str, method: str, seed: int, data_seed: int) -> RunInfo:
        return RunInfo(run, method, seed, data_seed, self.train.lr * self.method(method).lr_ratio)


_SOUP = re.compile(r"mean\([^()+]+(\+[^()+]+)+\)|[^()+]+(\+[^()+]+)+")


def _parts(soup: str) -> list[str]:
    """The runs that a sum or a mean is of."""
    return soup.removeprefix("mean(").removesuffix(")").split("+")


def check_sources(rollouts: RolloutSpec) -> None:
    """Raise `ValueError`, naming the field, where the sources of rollouts contradict each other or lack a part."""
    openai = rollouts.engine == "openai"
    if rollouts.file is not None and rollouts.problems is not None:
        raise ValueError("rollouts.problems: rollouts.file has rollouts already; give one of the two")
    _check_fields(rollouts)
    if rollouts.problems is not None and rollouts.teacher is None:
        raise ValueError(
            "rollouts.teacher: who is to solve rollouts.problems? Give "
            + ("the model's name at the endpoint" if openai else "a Hugging Face directory or Hub id")
        )
    if rollouts.problems is None:
        for field in ("teacher", "teacher_template", "teacher_tokenizer", "endpoint"):
            if getattr(rollouts, field) is not None:
                raise ValueError(f"rollouts.{field}: nothing is sampled without rollouts.problems; name them as well")
    if rollouts.endpoint is not None:
        check_url(rollouts.endpoint)
    _check_extra(rollouts.extra)
    if rollouts.key_env is not None and not re.fullmatch("[A-Z_][A-Z0-9_]*", rollouts.key_env):
        raise ValueError(  # what was given may be the key itself: it is not repeated
            "rollouts.key_env: expected the name of an environment variable, in capitals, such as OPENAI_API_KEY; the "
            "key itself belongs into that variable"
        )
    if openai and rollouts.problems is not None and rollouts.endpoint is None:
        raise ValueError("rollouts.endpoint: the openai engine needs one, like https://api.example.com/v1")
    for field in ("endpoint", "teacher_tokenizer"):
        if not openai and getattr(rollouts, field) is not None:
            raise ValueError(f"rollouts.{field}: it is for rollouts.engine=openai, not {rollouts.engine}")
    if openai and rollouts.teacher_template is not None and rollouts.teacher_tokenizer is None:
        raise ValueError(
            "rollouts.teacher_template: the endpoint renders its own chat template; to render prompts here, name "
            "rollouts.teacher_tokenizer"
        )


_OF_PROBLEMS = ("question", "answer", "id", "solution")
_COMPLETIONS = ("completion", "completions", "messages")


def _check_fields(rollouts: RolloutSpec) -> None:
    """Raise `ValueError` for a role that the source of rollouts has not, and for completions in two columns."""
    if not rollouts.fields or (rollouts.file is None and rollouts.problems is None):
        return
    instead = {"question": "prompt", "prompt": "question"}
    for role in rollouts.fields:
        if (role in _OF_PROBLEMS) if rollouts.problems is not None else (role not in ("question", "solution")):
            continue
        source = "rollouts.problems" if rollouts.problems is not None else "rollouts.file"
        other = f"; its questions are {instead[role]!r}" if role in instead else "; leave it out"
        raise ValueError(f"rollouts.fields.{role}: {source} has no such role{other}")
    for last in ("chosen", "rejected"):
        if len(both := [role for role in (*_COMPLETIONS, last) if rollouts.columns.get(role)]) > 1:
            raise ValueError(f"rollouts.fields.{both[0]}: {both[1]!r} names the completions as well; give one of them")


_CREDENTIAL = re.compile(
    r"(api|access|secret|private|auth)[-_]?key|authorization|password|passwd|secret|bearer|credential"
    r"|(api|auth|access|refresh|id|bearer)[-_]?token$",
    re.IGNORECASE,
)


def _check_extra(extra: dict[str, Any]) -> None:
    """Raise `ValueError`, which repeats no value, for what is no JSON, and for a key or password: it is recorded."""
    if depth(extra) > DEEPEST:
        raise ValueError(f"rollouts.extra: nested deeper than {DEEPEST}")
    level: list[Any] = [extra]
    while level:
        for one in level:
            if isinstance(one, float) and not math.isfinite(one):
                raise ValueError("rollouts.extra: a number in it is not finite, which no request can hold")
            if isinstance(one, int) and abs(one) > LARGEST_NUMBER:
                raise ValueError("rollouts.extra: a number in it is beyond all measure")
            if isinstance(one, dict) and (found := next(filter(_CREDENTIAL.search, map(str, one)), None)):
                raise ValueError(
                    f"rollouts.extra: {found[:40]!r} looks like a key or password, and settings are recorded; export "
                    "it in the environment variable that rollouts.key_env names"
                )
            if isinstance(one, str) and not _writable(one):
                raise ValueError("rollouts.extra: a text in it has half a surrogate pair, which no request can hold")
            if not isinstance(one, dict | list | tuple | str | int | float | None):
                raise ValueError(f"rollouts.extra: JSON has no {type(one).__name__}")
        level = [inner for one in level if isinstance(one, dict) for inner in one.values()] + [
            inner for one in level if isinstance(one, list | tuple) for inner in one
        ]


def _writable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_url(url: str) -> None:
    """Raise `ValueError`, which does not repeat the URL, unless it is http(s) without credentials or a query."""
    way_out = "give it like https://api.example.com/v1"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError(f"rollouts.endpoint: not a URL; {way_out}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise ValueError(f"rollouts.endpoint: not an http or https URL; {way_out}")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError(
            "rollouts.endpoint: a URL with credentials, a query or a fragment in it would end up in the study's "
            "record; give the bare URL, and the key in the environment variable that rollouts.key_env names"
        )


def build(values: Mapping[str, Any]) -> StudySpec:
    """A validated study from nested values. Raises `InputError`: one line naming the field and the way out."""
    try:
        return StudySpec.model_validate(dict(values))
    except ValidationError as error:
        raise InputError(one_line(error)) from None


def load_toml(path: Path) -> dict[str, Any]:
    """A study's values from a TOML file; its ``preset`` key, if any, is left in. Raises `InputError`."""
    try:
        text = read_text(path)
        if _DOTTED.search(text):
            raise ValueError("a key of more than 32 parts")
        values = tomllib.loads(text)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except RecursionError:
        raise InputError(f"{path}: not a TOML file that can be read: values nested too deep") from None
    except (ValueError, OSError) as error:  # no TOML, no UTF-8, a number of thousands of digits
        raise InputError(f"{path}: not a TOML file that can be read: {error}") from None
    if depth(values) > DEEPEST:
        raise InputError(f"{path}: values nested deeper than {DEEPEST}; no setting takes that")
    return values


DEEPEST = 16
"""Lists and tables within each other; a setting has four at most."""

_DOTTED = re.compile(r"""^[ \t]*(?:(?:[\w-]+|"[^"\n]*"|'[^'\n]*')[ \t]*\.[ \t]*){32}""", re.MULTILINE)
"""Such a key takes tomllib a time that grows with the square of its parts."""


def override(values: Mapping[str, Any], assignments: Iterable[str]) -> dict[str, Any]:
    """``values`` with ``section.key=value`` assignments put in.

    A value is read as JSON where it is JSON (numbers, true, null, lists), else as text; a comma-separated text becomes
    a list where the field is one. Unknown keys are refused with the nearest known one.
    """
    result = copy.deepcopy(dict(values))
    for assignment in assignments:
        key, separator, text = assignment.partition("=")
        if not separator or not key:
            raise InputError(f"--set {assignment}: expected section.key=value")
        _put(result, key.strip(), text)
    return result


def _put(values: dict[str, Any], key: str, text: str) -> None:
    model: type[BaseModel] = StudySpec
    place = values
    *sections, last = key.split(".")
    for i, section in enumerate(sections):
        field = model.model_fields.get(section)
        if field is not None and typing.get_origin(field.annotation) is dict and i == len(sections) - 1:
            column = typing.get_args(field.annotation)[1] is str
            table = place.setdefault(section, {})
            if not isinstance(table, dict):
                raise InputError(f"{'.'.join(sections)}: expected a table of names, got {_SHORT.repr(table)}")
            table[last] = text if column else _parse(text, many=False, text_only=False)
            return
        kind = field.annotation if field is not None else None
        if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
            raise InputError(f"--set {key}: no section {section!r}{nearest(section, _sections(model))}")
        place, model = place.setdefault(section, {}), kind
        if not isinstance(place, dict):
            raise InputError(f"{section}: expected a section with keys, got {_SHORT.repr(place)}")
    if last not in model.model_fields:
        raise InputError(f"--set {key}: unknown setting {last!r}{nearest(last, model.model_fields)}")
    annotation = model.model_fields[last].annotation
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        keys = ", ".join(annotation.model_fields)
        raise InputError(f"--set {key}: {last!r} is a section; set one of its keys: {keys}")
    place[last] = _parse(text, many="tuple" in str(annotation), text_only=annotation in (str, str | None))


def _parse(text: str, *, many: bool, text_only: bool) -> Any:
    if text_only and text != "null":
        # Typed in a shell, \n is two characters; a template or token means the line break.
        return text.replace("\\n", "\n")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):  # no JSON, or a number or nesting beyond what is read
        value = text
    if many and not isinstance(value, list):
        parts = text.strip().removeprefix("[").removesuffix("]").split(",")
        return [_parse(part.strip(), many=False, text_only=False) for part in parts if part.strip()]
    return value


def _sections(model: type[BaseModel]) -> list[str]:
    return [
        name
        for name, field in model.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
    ]


SECRETS = ("rollouts.endpoint", "rollouts.extra", "rollouts.key_env")
"""Settings in which somebody may have put a key or a password: what was given is not repeated."""

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80


def one_line(error: ValidationError, whole: type[BaseModel] = StudySpec) -> str:
    """The first of the errors in values of ``whole``: its field, what is wrong, what was given."""
    first = error.errors()[0]
    where = ".".join(visible(str(part), 60) for part in first["loc"] if not isinstance(part, int))
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        *path, last = [str(part) for part in first["loc"]]
        model = whole
        for part in path:
            annotation = model.model_fields[part].annotation
            assert isinstance(annotation, type)
            model = annotation
        return f"{where}: unknown setting{nearest(last, model.model_fields)}"
    if first["type"] == "missing" and isinstance(first["loc"][-1], int):
        message = f"Value {first['loc'][-1] + 1} is missing"
    hidden = isinstance(first["input"], dict) or not where or where.startswith(SECRETS)
    got = "" if hidden else f", got {_SHORT.repr(first['input'])}"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{where}: {message}{got}{more}" if where else f"{message}{more}"
