"""What a row of somebody's rollouts may look like, and how it becomes completions.

Which column has which role is data: `LAYOUTS`, the named ones (told apart by the columns in ``marks``) before `PLAIN`,
which has the usual names. A user names the columns of anything else in ``rollouts.fields`` (`FIELDS`). Where two
columns could have one role and differ the row is refused; what was read and what was not is kept in a `Reading`.

Every completion needs a reward or a reference answer. An answer that is a worked solution ending in a line
``#### 1,234`` or ``A: 18`` is reduced to that, without thousands separators; any other stays as it is.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tasks.core.errors import InputError
from tasks.core.rows import Row, number_text, question_id, show
from tasks.models.prompts import MARKS
from tasks.problems.files import worked
from tasks.rollouts.turns import Told, conversation, is_messages, marked

FIELDS = {
    "prompt": "the question",
    "completion": "the completion",
    "completions": "the list of completions",
    "messages": "a conversation of one question and one answer",
    "chosen": "the preferred completion",
    "rejected": "the other completion",
    "reward": "the reward",
    "answer": "the reference answer",
    "id": "the problem's id",
    "finish_reason": "why the completion ended",
    "logprobs": "the log-probabilities of its tokens",
    "seed": "the seed",
}
"""Role -> what it is: the keys of ``rollouts.fields`` for a file of rollouts."""
SOURCES = ("completion", "completions", "messages", "chosen", "models")
"""Roles that hold completions; a row has one of them. ``models``: objects ``{solution, ...}`` under any names."""
LISTED = {"rewards": "reward", "finish_reasons": "finish_reason"}
"""Roles of columns with one value a completion, beside a list of completions."""


@dataclass(frozen=True)
class Layout:
    """Columns of one source of rollouts. A dotted name is a path into objects."""

    name: str
    about: str
    marks: tuple[str, ...]
    """A row that has them all is of this layout."""
    roles: Mapping[str, tuple[str, ...]]
    """Role -> columns that have it. Two that are both there and differ are refused, but for ``ordered``."""
    ordered: Collection[str] = ()
    """Roles of which the first column that has a value counts."""
    constant: str = ""
    """A column with one value in the whole file: with another the same completions come again."""
    ended: Mapping[bool, str] = field(default_factory=dict)
    """What true and false mean as a finish reason."""

    def has(self, row: Row) -> bool:
        """Whether ``row`` is of this layout: its marks are there, and lists where they hold one value a completion."""
        if any(value(row, name) is None for name in self.marks):
            return False
        lists = [name for role in ("completions", *LISTED) for name in self.roles.get(role, ()) if name in self.marks]
        return all(isinstance(value(row, name), list) for name in lists)


_OWN = {"id": ("problem_id",), "logprobs": ("logprobs",), "finish_reason": ("finish_reason",), "seed": ("seed",)}
_QUESTION = ("prompt", "question", "problem")

PLAIN = Layout(
    "columns",
    "One row a completion, a prompt with a list of completions, or a conversation; `id` is not read (often a row's).",
    (),
    {
        "prompt": (*_QUESTION, "query", "instruction", "input"),
        "completion": ("completion", "response", "solution", "output", "generation"),
        "completions": ("completions", "responses", "outputs", "generations"),
        "messages": ("messages", "conversations", "conversation"),
        "models": ("*.solution",),
        "reward": ("reward", "is_correct", "score", "given_reward", "correct"),
        "rewards": ("rewards", "scores"),
        "answer": (
            "answer", "gold", "ground_truth", "expected_answer", "reference_answer", "gt", "gts", "target",
        ),
        **_OWN,
        "finish_reason": ("finish_reason", "stop_reason"),
        "finish_reasons": ("finish_reasons",),
    },
)  # fmt: skip
"""The usual names, for whatever is of no named layout."""

LAYOUTS = (
    Layout(
        "colinear", "`rollouts.parquet` of any study.",
        ("problem_id", "rollout_id", "prompt", "completion"),
        {
            "prompt": ("prompt",), "completion": ("completion",), "answer": ("answer",),
            "reward": ("reward", "given_reward"), **_OWN,
        },
        ordered=("reward",),
    ),
    Layout(
        "Qwen2.5-Math", "Output of QwenLM/Qwen2.5-Math's evaluation: `code` are the completions, not `response`.",
        ("code", "score"),
        {
            "prompt": _QUESTION, "completions": ("code",), "rewards": ("score",), "answer": ("gt",),
            "id": ("problem_id",),
        },
    ),
    Layout(
        "OpenR1-Math", "open-r1/OpenR1-Math-220k: `solution` is the reference text, no rollout.",
        ("problem", "generations"),
        {
            "prompt": _QUESTION, "completions": ("generations",), "answer": PLAIN.roles["answer"],
            "rewards": ("correctness_math_verify", "correctness_llama", *PLAIN.roles["rewards"]),
            "finish_reasons": ("finish_reasons", "is_reasoning_complete"), "id": ("problem_id",),
        },
        ordered=("rewards", "finish_reasons"),
        ended={True: "stop", False: "length"},
    ),
    Layout(
        "OpenMathInstruct", "nvidia/OpenMathInstruct-1 and -2, OpenMathReasoning: `generated_solution`, no `solution`.",
        ("generated_solution",),
        {
            "prompt": _QUESTION, "completion": ("generated_solution",), "answer": PLAIN.roles["answer"],
            "reward": PLAIN.roles["reward"], **_OWN,
        },
    ),
    Layout(
        "OpenAI batch", "Output of OpenAI's batch endpoint, joined with its questions by `custom_id`.",
        ("custom_id", "response.body"),
        {
            "prompt": (*_QUESTION, "messages", "body.messages"), "completions": ("response.body.choices",),
            "answer": PLAIN.roles["answer"], "id": ("problem_id",),
            "rewards": (*PLAIN.roles["rewards"], *PLAIN.roles["reward"]),
        },
    ),
    Layout(
        "Anthropic batch", "Output of Anthropic's batch endpoint, joined with its questions by `custom_id`.",
        ("custom_id", "result.message"),
        {
            "prompt": (*_QUESTION, "messages", "params.messages"), "completion": ("result.message",),
            "answer": PLAIN.roles["answer"], "reward": PLAIN.roles["reward"], "id": ("problem_id",),
            "finish_reason": ("result.message.stop_reason",),
        },
    ),
    Layout(
        "lm-eval", "`samples_*.jsonl` of lm-evaluation-harness: `resps`, not what a filter took out of them.",
        ("doc", "resps"),
        {
            "prompt": ("doc.question", "doc.problem", "doc.prompt", "doc.query"), "completions": ("resps",),
            "rewards": ("exact_match", "acc"), "answer": ("target", "doc.answer"), "id": ("problem_id",),
        },
        ordered=("rewards", "answer"),
        constant="filter",
    ),
    Layout(
        "verl", "Dumps of verl's rollouts and validation; `input` is often a rendered template, which is refused.",
        ("input", "output", "score", "step"),
        {
            "prompt": ("input",), "completion": ("output",), "reward": ("score",), "id": ("problem_id",),
            "answer": PLAIN.roles["answer"],
        },
    ),
    Layout(
        "preference pairs", "TRL's: two completions of a problem, `chosen` with reward 1 and `rejected` with reward 0.",
        ("chosen", "rejected"),
        {
            "prompt": _QUESTION, "chosen": ("chosen",), "rejected": ("rejected",), "answer": PLAIN.roles["answer"],
            "id": ("problem_id",),
        },
    ),
    PLAIN,
)  # fmt: skip
"""Every layout, in the order in which they are tried."""

FINISHED = {
    "stop": (
        "stop", "eos", "eos_token", "stop_sequence", "stop_token", "stop_string", "end_turn", "end_of_turn", "complete",
        "completed", "finish", "finished",
    ),
    "length": (
        "length", "max_tokens", "max_new_tokens", "max_length", "max_output_tokens", "model_length", "token_limit",
        "truncated", "incomplete",
    ),
}  # fmt: skip
"""Finish reason -> what engines and endpoints call it, in any case."""
_FINISHED = {name: ours for ours, names in FINISHED.items() for name in names}

_OPENED = re.compile(r"(assistant\n+)(?:<think>\n*)?\Z|\n(?:### )?(?:assistant|response):?\s*\Z", re.IGNORECASE)
_TURN = re.compile(r"(?:\A|\n)(?:system|user)\n")
"""The end of a rendered prompt whose tokens were left out when it was decoded, and how a turn of it begins; or the end
of one that has words in their place."""

_INT64 = 2**63
_LOGPROB_SLACK = 1e-3  # a log-probability is <= 0; bfloat16 rounding may lift a certain token a little above
MOST_NAMED = 12
"""Columns that a sentence names."""


def value(row: Row, column: str) -> Any:
    """What ``row`` has under that name, else at that path; None where there is nothing."""
    if column in row.values or "." not in column:
        return row.values.get(column)
    place: Any = row.values
    for part in column.split("."):
        place = place.get(part) if isinstance(place, Mapping) else None
    return place


class Reading:
    """One file of rollouts on its way in: what decides how a row is read, and what was read so far.

    Args:
        fields: role of `FIELDS` -> the column that has it (empty: none has).
        control: tokens that no prompt may hold, for it would be rendered twice; none where it will not be rendered.
    """

    def __init__(self, fields: Mapping[str, str] | None = None, control: Collection[str] = MARKS) -> None:
        self.fields = dict(fields or {})
        named = {role: (column,) if column else () for role, column in self.fields.items()}
        self.named = named | {many: named[one] for many, one in LISTED.items() if one in named}
        inner = {role: names for role, names in PLAIN.roles.items() if role not in (*LISTED, "completions", "messages")}
        inner["completion"] += ("text", "message", "generated_text")
        inner |= {role: named[role] for role in ("reward", "finish_reason", "logprobs", "seed") if role in named}
        self.inner = inner
        """The roles of an object that holds one completion."""
        self.layouts: Counter[str] = Counter()
        self.read: dict[str, dict[str, None]] = {}
        self.columns: dict[str, None] = {}
        self.used: set[str] = set()
        self.left_out: Counter[str] = Counter()
        self.constants: dict[str, Any] = {}
        self.control = re.compile("|".join(map(re.escape, control))) if control else None

    def layout_of(self, row: Row) -> Layout:
        """The layout of ``row``, with the columns that the user named in place of its own."""
        if not self.fields.keys() & {*SOURCES, "rejected"}:
            layout = next(one for one in LAYOUTS if one.has(row))
            return replace(layout, roles={**layout.roles, **self.named}) if self.named else layout
        others = {role: columns for role, columns in PLAIN.roles.items() if role not in SOURCES}
        return Layout("rollouts.fields", "", (), {**others, "chosen": (), "rejected": ("rejected",), **self.named})

    def note(self, row: Row, role: str, column: str, inside: str = "") -> None:
        """``column`` (of an object in the column ``inside``) was read as ``role``."""
        self.read.setdefault(LISTED.get(role, role), {})[f"{inside}[].{column}" if inside else column] = None
        top = inside or column
        self.used.add(top if top in row.values else top.split(".")[0])

    def unread(self) -> list[str]:
        """Columns that nothing was read from."""
        return [name for name in self.columns if name not in self.used]

    def summary(self) -> dict[str, str]:
        """What was read as what, as strings; ``nothing`` where a role had no column."""
        roles = ["prompt", "completion", "reward", "answer"]
        return {
            "layout": listed(self.layouts),
            **{f"read_{role}": listed(self.read.get(role, {})) for role in roles},
            "not_read": listed(self.unread()),
            "not_read_inside": listed([f"{what} ({n})" for what, n in sorted(self.left_out.items())]),
        }

    def check(self, source: str) -> None:
        """Raise `InputError` where a column that the user named has no value in the whole file."""
        had = {column for columns in self.read.values() for column in columns}
        for role, column in self.fields.items():
            if column and not any(one == column or one.endswith(f"[].{column}") for one in had):
                raise InputError(
                    f"rollouts.fields.{role}: no row of {source} has a value to read in {show(column)}; its columns: "
                    f"{listed(self.columns)}"
                )


def listed(names: Collection[str]) -> str:
    """Some of ``names`` in a sentence; "nothing" for none."""
    some = ", ".join(list(names)[:MOST_NAMED])
    return (f"{some} and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else some) or "nothing"


def completions(row: Row, reading: Reading | None = None) -> Iterator[dict[str, Any]]:
    """The completions of one row: dicts with the columns of `tasks.rollouts.files.ROLLOUT_FILE` but for rollout_id.

    Raises `InputError` for anything that does not fit the layout the row's columns point to.
    """
    reading = Reading() if reading is None else reading
    layout = reading.layout_of(row)
    reading.layouts[layout.name] += 1
    if len(reading.columns) < 1000:
        reading.columns |= dict.fromkeys(row.values)
    _check_constant(row, layout, reading)
    yield from _Part(row, layout.roles, layout, reading).completions()


def _check_constant(row: Row, layout: Layout, reading: Reading) -> None:
    name = layout.constant
    if name and (given := value(row, name)) != (first := reading.constants.setdefault(name, given)):
        raise row.refuse(
            name, f"{show(first)} as in the rows before, got {show(given)}", f"keep the rows of one `{name}`: another "
            "has the same completions again"
        )  # fmt: skip


@dataclass(frozen=True)
class _Part:
    """A row that is being read, or a completion in it: ``prefix`` names its place in errors, ``inside`` the column
    whose object ``row.values`` is, and ``given`` has what is known of it already (role -> value)."""

    row: Row
    roles: Mapping[str, tuple[str, ...]]
    layout: Layout
    reading: Reading
    prefix: str = ""
    inside: str = ""
    given: Mapping[str, Any] = field(default_factory=dict)

    def completions(self) -> Iterator[dict[str, Any]]:
        """All completions of the row."""
        found = [(role, name) for role in SOURCES[:-1] for name in self._there(role)]
        for role, name in found[1:]:
            if self._said(*found[0]) != self._said(role, name):
                raise self._two("completion", found[0][1], name)
        if not found:
            yield from self._models()
            return
        role, name = found[0]
        self.reading.note(self.row, "completion", name)
        told = value(self.row, name)
        if role == "chosen":
            yield from self._pair(name)
        elif role == "completions" or (isinstance(told, list) and not is_messages(told)):
            yield from self._list(name, told)
        elif role == "messages" or is_messages(told):
            if not is_messages(told):
                raise self.row.refuse(name, f"messages, objects with `role` and `content`, got {show(told)}", _NAME_IT)
            asked, answered = self._conversation(name, told)
            if answered is None:
                raise self.row.refuse(name, "an answer in the conversation, got none", "leave the row out")
            yield replace(self, given={"completion": answered}).one(self._shared(name, asked))
        else:
            yield replace(self, roles={**self.roles, "completion": (name,)}).one(self._shared())

    def _there(self, role: str) -> list[str]:
        """The columns of a role that have a value; of ``chosen`` only with a rejected completion."""
        names = [name for name in self.roles.get(role, ()) if value(self.row, name) is not None]
        return names if role != "chosen" or not names or self._there("rejected") else []

    def _said(self, role: str, name: str) -> Any:
        """What a column of completions says, to be compared with another."""
        told = value(self.row, name)
        return _turn(self.row, name, told, 1) if role != "chosen" else told

    def _models(self) -> Iterator[dict[str, Any]]:
        """Objects with a ``solution`` under any names, each one completion."""
        names = [key for key, one in self.row.values.items() if isinstance(one, Mapping) and "solution" in one]
        if "models" not in self.roles or not names:
            name = next((self.roles[role][0] for role in SOURCES if self.roles.get(role)), "completion")
            raise self.row.refuse(
                name,
                "the completion as a string (it may be empty), got nothing",
                f"{_NAME_IT} (columns: {listed(self.row.values)})",
            )
        shared = self._shared()
        for name in names:
            yield self._object(name, f"{name}.", self.row.values[name]).one(shared)

    def _object(self, column: str, prefix: str, values: Mapping[str, Any]) -> _Part:
        """An object in ``column`` that holds one completion."""
        return _Part(Row(self.row.where, values), self.reading.inner, self.layout, self.reading, prefix, column)

    def _pair(self, chosen: str) -> Iterator[dict[str, Any]]:
        """A preference pair: rewards 1 and 0. Without a prompt of its own, the question that both texts begin with."""
        rejected = self._there("rejected")[0]
        self.reading.note(self.row, "completion", rejected)
        for name, reward in ((chosen, 1), (rejected, 0)):
            self.reading.read.setdefault("reward", {})[f"{reward} for {name}"] = None
        told = [self._side(name, asked=self._there("prompt") != []) for name in (chosen, rejected)]
        if told[0][0] != told[1][0]:
            raise self.row.refuse(rejected, f"the question of `{chosen}`, got another", "leave the pair out")
        shared = self._shared(chosen, told[0][0])
        for name, (_, text), reward in zip((chosen, rejected), told, (1, 0), strict=True):
            part = replace(self, roles={}, prefix=f"{name}.", given={"completion": text, "reward": reward})
            yield part.one(shared)

    def _side(self, name: str, *, asked: bool) -> Told:
        told = value(self.row, name)
        if is_messages(told):
            return self._conversation(name, told)
        split = None if asked else marked(told)
        return split or (None, told)

    def _list(self, name: str, items: Any) -> Iterator[dict[str, Any]]:
        """One row a prompt: the list ``items`` and, where there are some, parallel lists of rewards and the like."""
        if not isinstance(items, list) or not items:
            raise self.row.refuse(name, f"a list of at least one completion, got {show(items)}", "leave the row out")
        if all(isinstance(item, list) and all(isinstance(one, str) for one in item) for item in items):
            items = [one for item in items for one in item]  # lm-eval's: repeats of each request
        labels = {one: self._parallel(many, len(items)) for many, one in LISTED.items()}
        shared = self._shared()
        for i, item in enumerate(items):
            prefix = f"{name}[{i}]."
            if isinstance(item, Mapping) and not is_messages(item):
                part = self._object(name, prefix, item)
            else:
                part = replace(self, roles={}, prefix=prefix, given={"completion": item})
            for role, (column, values) in labels.items():
                if values is None or values[i] is None:
                    continue
                if part._there(role):
                    raise self.row.refuse(
                        column, f"{column} in one place, but `{name}[{i}]` has its own", "remove one of them"
                    )
                part = replace(part, given={**part.given, role: values[i]})
            yield part.one(shared)

    def _parallel(self, many: str, n: int) -> tuple[str, list[Any] | None]:
        """The column of a role in `LISTED`, and its ``n`` values; None where there is none."""
        names = self.roles.get(many, ())
        names += tuple(one for one in self.roles.get(LISTED[many], ()) if isinstance(value(self.row, one), list))
        name, labels = self._pick(many, tuple(dict.fromkeys(names)))
        if labels is None:
            return name, None
        if n == 1 and not isinstance(labels, list) and name not in PLAIN.roles[many]:
            labels = [labels]
        if not isinstance(labels, list) or len(labels) != n:
            what = many.replace("_", " ")
            raise self.row.refuse(name, f"{n} {what}, one a completion, got {show(labels)}", "complete the list")
        self.reading.note(self.row, many, name)
        return name, labels

    def _pick(self, role: str, names: tuple[str, ...] | None = None) -> tuple[str, Any]:
        """The column that has ``role``, and its value; (the first name, None) where none has one.

        Raises `InputError` where two have different values and the layout does not say which counts.
        """
        names = self.roles.get(role, ()) if names is None else names
        there = [(name, told) for name in names if (told := value(self.row, name)) is not None]
        if role == "prompt":
            there = [(name, told) for name, told in there if told != ""] or there
        if not there:
            return (names[0] if names else role), None
        for name, told in there[1:] if role not in self.layout.ordered else ():
            if self._plain(role, name, told) != self._plain(role, *there[0]):
                if role == "prompt":
                    self._check_bare(*there[0], f"={name}")
                    self._check_bare(name, told, f"={there[0][0]}")
                raise self._two(LISTED.get(role, role), there[0][0], name)
        return there[0]

    def _plain(self, role: str, name: str, told: Any) -> Any:
        """A value as it is compared with that of another column."""
        if role == "prompt":
            return _turn(self.row, name, told, 0)
        text = _answer_text(told) if role == "answer" else None
        return told if text is None else bare_gold(text)

    def _two(self, role: str, first: str, second: str) -> InputError:
        return InputError(
            f"{self.row.where}: {self.prefix}`{first}` and `{second}` differ and either could be {FIELDS[role]}; say "
            f"which it is, for example --set rollouts.fields.{role}={first}"
        )

    def _value(self, role: str) -> tuple[str, Any]:
        """The column of a role and its value, which is noted as read."""
        if role in self.given:
            return role, self.given[role]
        name, told = self._pick(role)
        if told is not None:
            self.reading.note(self.row, role, name, self.inside)
        return name, told

    def _refuse(self, name: str, expected: str, way_out: str) -> InputError:
        return self.row.refuse(self.prefix + name, expected, way_out)

    def _conversation(self, name: str, told: Any) -> Told:
        return conversation(self.row, self.prefix + name, told, self.reading.left_out)

    def _shared(self, source: str = "", asked: str | None = None) -> dict[str, Any]:
        """What the completions of a row have in common: the problem, the question and the reference answer.

        ``asked``: the question, where the column ``source`` of completions has it as well.
        """
        name, prompt = self._pick("prompt")
        if is_messages(prompt):
            prompt, answered = self._conversation(name, prompt)
            if answered is not None:
                raise self.row.refuse(name, "one question, got an answer as well", "leave the answer out of it")
        if asked is not None and prompt is None:
            name, prompt = source, asked
        elif asked is not None and prompt != asked and "prompt" not in self.reading.fields:
            raise self._two("prompt", name, source)
        if not isinstance(prompt, str) or not prompt.strip():
            raise self.row.refuse(
                name,
                f"the question as a non-empty string, got {show(prompt)}",
                "give it as `prompt`, `question` or `problem`, or name its column in rollouts.fields.prompt (columns: "
                f"{listed(self.row.values)}){self._about()}",
            )
        prompt = self.row.text(name, prompt)
        self._check_bare(name, prompt)
        self.reading.note(self.row, "prompt", name)
        return {"problem_id": self._problem_id(prompt), "prompt": prompt, "answer": self._answer()}

    def _about(self) -> str:
        """What a named layout is, for an error."""
        return f"; {self.layout.name}: {self.layout.about}" if self.layout.marks else ""

    def _check_bare(self, name: str, prompt: Any, column: str = "") -> None:
        """Refuse a prompt that is a rendered chat template already; ``column`` may have the bare question."""
        if self.reading.control is None or not isinstance(prompt, str):
            return
        match = self.reading.control.search(prompt) or _OPENED.search(prompt[-64:])
        if match and match.re is _OPENED and match[1] and not _TURN.search(prompt):
            return  # a question that ends in that word
        if match:
            raise self.row.refuse(
                name,
                f"the bare question, got a rendered chat template (with {show(match[0].strip()[-24:])}), which would "
                "be rendered again",
                f"give the question alone, name its column (rollouts.fields.prompt{column}), or set "
                "model.prompt_template={question} to take every prompt as it is",
            )

    def _problem_id(self, prompt: str) -> str:
        name, given = self._value("id")
        if given is None:
            return question_id(prompt)
        if isinstance(given, bool) or not isinstance(given, str | int) or given == "":
            raise self.row.refuse(
                name,
                f"a non-empty string or an integer, got {show(given)}",
                "leave the field out to have it derived from the question",
            )
        return self.row.text(name, str(given))

    def _answer(self) -> str | None:
        name, given = self._value("answer")
        if given is None:
            return None
        text = _answer_text(given)
        if text is None:
            raise self.row.refuse(
                name,
                f"the reference answer as a non-empty string or a number, got {show(given)}",
                "use null where it is unknown",
            )
        return bare_gold(self.row.text(name, text))

    def one(self, shared: dict[str, Any]) -> dict[str, Any]:
        """The one completion of this part."""
        name, completion = self._value("completion")
        if is_messages(completion):
            completion = self._conversation(name, completion)[1]
        if not isinstance(completion, str):
            raise self._refuse(name, f"the completion as a string (it may be empty), got {show(completion)}", _NAME_IT)
        reward = self._reward()
        if reward is None and shared["answer"] is None:
            raise self._refuse(
                "reward",
                "a reward or a reference answer, got neither",
                "give one of them, as `reward` or `answer`, or name its column in rollouts.fields.reward or "
                "rollouts.fields.answer",
            )
        return {
            **shared,
            "completion": self.row.text(self.prefix + name, completion),
            "reward": reward,
            "logprobs": self._logprobs(),
            "finish_reason": self._finish_reason(),
            "seed": self._seed(),
        }

    def _reward(self) -> float | None:
        name, reward = self._value("reward")
        if reward is None:
            return None
        if not isinstance(reward, bool | int | float) or reward not in (0, 1):
            raise self._refuse(
                name,
                f"0, 1, true or false, got {show(reward)}",
                "give a verdict, not a score, name its column in rollouts.fields.reward, or leave it out (an empty "
                "rollouts.fields.reward) to have the answer graded",
            )
        return float(reward)

    def _logprobs(self) -> list[float] | None:
        name, given = self._value("logprobs")
        if given is None:
            return None
        if isinstance(given, Mapping) and isinstance(given.get("content"), list):  # as OpenAI's endpoint says it
            given = [one.get("logprob") if isinstance(one, Mapping) else one for one in given["content"]]
        if not isinstance(given, list):
            raise self._refuse(name, f"a list of numbers, one a token, got {show(given)}", "or leave it out")
        for i, one in enumerate(given):
            number = isinstance(one, int | float) and not isinstance(one, bool)
            if not number or not -_INT64 < one <= _LOGPROB_SLACK:  # false for NaN and the infinities too
                raise self._refuse(
                    f"{name}[{i}]",
                    f"a finite log-probability (at most 0), got {show(one)}",
                    f"correct it or leave `{name}` out",
                )
        return [float(one) for one in given]

    def _finish_reason(self) -> str:
        name, given = self._value("finish_reason")
        if given is None:
            return "stop"
        if isinstance(given, bool) and given in self.layout.ended:
            return self.layout.ended[given]
        said = given.get("type") if isinstance(given, Mapping) else given  # SGLang's are objects
        ours = _FINISHED.get(said.lower().removeprefix("finish_reason_")) if isinstance(said, str) else None
        if ours is None:
            raise self._refuse(
                name,
                f"`stop`, `length` or what engines call them ({', '.join(_FINISHED)}), got {show(given)}",
                'leave it out for "stop"',
            )
        return ours

    def _seed(self) -> int:
        name, given = self._value("seed")
        if given is None:
            return 0
        if isinstance(given, bool) or not isinstance(given, int) or not -_INT64 <= given < _INT64:
            raise self._refuse(name, f"a 64-bit integer, got {show(given)}", "or leave it out")
        return given


_NAME_IT = "give it as `completion`, a list as `completions`, or name its column in rollouts.fields.completion"


def _turn(row: Row, name: str, told: Any, place: int) -> Any:
    """The question (0) or the answer (1) where ``told`` is a conversation of the two; else ``told``."""
    try:
        return conversation(row, name, told, Counter())[place] if is_messages(told) else told
    except InputError:
        return told


def _answer_text(given: Any) -> str | None:
    """A reference answer as text; None for what is none."""
    if type(given) is int or (isinstance(given, float) and math.isfinite(given)):
        return number_text(given)
    return given if isinstance(given, str) and given.strip() else None


def bare_gold(gold: str) -> str:
    """``"... so 9 * 2 = 18\\n#### 1,234" -> "1234"``; a gold that is no worked solution stays as it is."""
    return worked(gold)[0]
