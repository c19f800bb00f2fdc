"""A turn: what stands before an answer and what ends it. One definition for sampling, training, stopping and scoring.

An answer ends at any of the model's end tokens: those of its ``generation_config.json`` and ``config.json``, the
tokenizer's end-of-sequence token, and the token that ends the assistant's turn in its chat template. Training teaches
one of them, the template's: for Gemma that is ``<end_of_turn>`` and not ``<eos>``, for Llama 3 ``<|eot_id|>``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.core.errors import InputError
from tasks.core.results import TEMPLATE_DATE, LocalBase, TurnRecord
from tasks.core.small_files import read_object
from tasks.models.load import load_tokenizer
from tasks.models.prompts import has_date, prompt_ids, render

GENERATION, CONFIG = "generation_config.json", "config.json"
TOKENIZER, CHAT_TEMPLATE = "the tokenizer's end-of-sequence token", "the end of the chat template's assistant turn"

_MARK = "MARKEDANSWER"
_THOUGHT = f"<think>\nso\n</think>\n\n{_MARK}"
"""Some templates end an answer only where it was thought about."""

_OPENED = re.compile(r"(<[A-Za-z][\w-]*>|\[THINK\])\s*\Z")

QUESTION, ANSWERS = "What is 1 + 1?", (r"The answer is \boxed{2}.", "2", r"\boxed{2}")
"""What a turn is shown and checked with."""


@dataclass(frozen=True)
class End:
    """A token that ends an answer, and who says so."""

    id: int
    text: str
    sources: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Turn:
    """How one model is asked. ``template``: the user's own, used in place of the chat template."""

    tokenizer: Any
    ends: tuple[End, ...]
    closing: int
    """Id of the end token that training teaches."""
    opens: str = ""
    """What the prompt has begun of the answer, such as ``<think>\\n``: it is the prompt's and never the answer's."""
    template: str | None = None
    date: str = TEMPLATE_DATE

    @property
    def end_ids(self) -> tuple[int, ...]:
        """Every id that ends an answer, ascending."""
        return tuple(end.id for end in self.ends)

    def prompt(self, question: str) -> list[int]:
        """The prompt's token ids: see `tasks.models.prompts.prompt_ids`."""
        return prompt_ids(self.tokenizer, question, self.template, self.date)

    def answer(self, text: str, *, closed: bool = True) -> list[int]:
        """An answer's token ids, ended by the closing token unless it was cut (``closed=False``).

        What the prompt opens is left off. A text that spells an end token at its end, as some engines return it, has
        the closing one in its place.
        """
        return self._closed(list(self.tokenizer(self._once(text), add_special_tokens=False)["input_ids"]), closed)

    def taken(self, text: str, ids: Sequence[int], *, closed: bool) -> tuple[list[int], int | None]:
        """The same for an answer whose ids are known: its ids, and how many of the first were left off.

        None where the ids are others than those that were given: no log-probability of theirs is one of these.
        """
        opened = text[: len(text) - len(self._once(text))]
        begun = self.tokenizer(opened, add_special_tokens=False)["input_ids"] if opened else []
        if list(ids[: len(begun)]) != begun:
            return self.answer(text, closed=closed), None
        rest = list(ids[len(begun) :])
        found = self._closed(rest, closed)
        return found, len(begun) if found == rest else None

    def boxed(self, gold: str, *, closed: bool = True) -> list[int]:
        r"""``\boxed{gold}`` in tokens: the target of a problem without a known solution, and (not closed) the paper's.

        A word-level tokenizer may know the command only with a space in front; then it gets one.
        """
        plain, spaced = (self.answer(rf"{space}\boxed{{{gold}}}", closed=closed) for space in ("", " "))
        unknown = self.tokenizer.unk_token_id
        return spaced if unknown in plain and unknown not in spaced else plain

    def text(self, ids: Sequence[int]) -> str:
        """What a model said, without the token that ended it and without special tokens."""
        return answer_text(self.tokenizer, ids, self.end_ids)

    @property
    def record(self) -> TurnRecord:
        """What a reader and the cache must know of it."""
        prompt = self.prompt(QUESTION)
        eos = self.tokenizer.eos_token_id
        rule: dict[str, Any] = {}
        if self.end_ids != (eos,) or self.closing != eos:
            rule |= {"ends": list(self.end_ids), "closing": self.closing}
        if self.opens:
            rule["opens"] = self.opens
        if self.template is None and has_date(self.tokenizer):
            rule["date"] = self.date
        if self.template is not None and self._spells_bos():
            rule["bos"] = "once"
        return TurnRecord(
            prompt=self.tokenizer.decode(prompt),
            opens=self.opens,
            answer=self.tokenizer.decode(self.answer(ANSWERS[0])),
            ends=tuple((end.id, end.text, ", ".join(end.sources)) for end in self.ends),
            closing=self.closing,
            date=rule.get("date"),
            split=self.split(),
            rule=rule or None,
        )

    def split(self) -> str | None:
        """The token that a tokenizer makes of the prompt's end and the answer's beginning, where it joins the two.

        Then no text that the model was pretrained on has the tokens of this prompt. A user's template is asked alone:
        one that ends in a space does that with most tokenizers.
        """
        if self.template is None:
            return None
        text = self.template.replace("{question}", QUESTION)
        alone = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        for answer in ANSWERS:
            whole = self.tokenizer(text + answer, add_special_tokens=False)["input_ids"]
            if whole[: len(alone)] != alone:
                place = next(i for i, (a, b) in enumerate(zip(alone, [*whole, -1], strict=False)) if a != b)
                return str(self.tokenizer.decode(whole[place : place + 1]))
        return None

    def _once(self, text: str) -> str:
        """``text`` without what the prompt opens already."""
        tag = self.opens.strip()
        if not tag or not text.lstrip().startswith(tag):
            return text
        return text.lstrip().removeprefix(tag).removeprefix(self.opens.removeprefix(tag))

    def _closed(self, ids: list[int], closed: bool) -> list[int]:
        if not closed:
            return ids
        return [*(ids[:-1] if ids and ids[-1] in self.end_ids else ids), self.closing]

    def _spells_bos(self) -> bool:
        bos = self.tokenizer.bos_token_id
        ids = self.tokenizer((self.template or "").replace("{question}", QUESTION))["input_ids"]
        return bos is not None and ids[:2] == [bos, bos]


def open_turn(
    base: Path | str, template: str | None = None, pad_token: str | None = None, date: str = TEMPLATE_DATE
) -> Turn:
    """The turn of the model in ``base``. Raises `InputError` as `tasks.models.load.load_tokenizer` does."""
    return turn_of(load_tokenizer(base, pad_token), base, template, date)


def turn_at(base: LocalBase) -> Turn:
    """The turn of a base with its own settings. Raises as `open_turn`."""
    return open_turn(base.folder, base.prompt_template, base.pad_token, base.template_date)


def turn_of(tokenizer: Any, folder: Path | str | None, template: str | None = None, date: str = TEMPLATE_DATE) -> Turn:
    """The same with a tokenizer at hand. ``folder``: where the model's configuration is; None or a name: nowhere here.

    A template of the user's is closed by the chat template's token where it spells that, else by the tokenizer's.
    """
    if tokenizer.eos_token_id is None:
        raise InputError(f"model.base: the tokenizer of {folder} has no end-of-sequence token, which ends every answer")
    ends = model_ends(folder, tokenizer)
    closing = next((end.id for end in ends if CHAT_TEMPLATE in end.sources), tokenizer.eos_token_id)
    if template is not None and tokenizer.convert_ids_to_tokens(closing) not in template:
        closing = tokenizer.eos_token_id
    return Turn(tokenizer, ends, closing, _opens(tokenizer, template, date), template, date)


def model_ends(folder: Path | str | None, tokenizer: Any) -> tuple[End, ...]:
    """Every token that ends an answer of this model, by id, whatever the template that it is asked with.

    Of what configurations name, only special tokens count: transformers writes its default id into a configuration that
    names none, and that may be a word.
    """
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    found: dict[int, list[str]] = {}
    for name in (GENERATION, CONFIG):
        for one in _configured(Path(folder) / name) if folder is not None else ():
            if one in special:
                found.setdefault(one, []).append(name)
    found.setdefault(tokenizer.eos_token_id, []).append(TOKENIZER)
    closing = _template_end(tokenizer, special, set(found))
    if closing is not None:
        found.setdefault(closing, []).append(CHAT_TEMPLATE)
    return tuple(End(one, tokenizer.convert_ids_to_tokens(one), tuple(found[one])) for one in sorted(found))


def answer_text(tokenizer: Any, ids: Sequence[int], end_ids: Sequence[int]) -> str:
    """``ids`` decoded without special tokens and without the end token that is last, special or not."""
    said = ids[:-1] if ids and ids[-1] in end_ids else ids
    return str(tokenizer.decode(said, skip_special_tokens=True))


def _configured(file: Path) -> Iterator[int]:
    """The ids that a configuration names, also within one of a model of several parts."""
    try:
        values = read_object(file) if file.is_file() else {}
    except (OSError, ValueError) as error:
        raise InputError(f"model.base: {file} cannot be read: {error}") from error
    for part in (values, values.get("text_config")):
        named = part.get("eos_token_id") if isinstance(part, dict) else None
        yield from (one for one in (named if isinstance(named, list) else [named]) if type(one) is int)


def _template_end(tokenizer: Any, special: set[int], known: set[int]) -> int | None:
    """The token that ends the assistant's turn in the chat template; None where that is no special token.

    Some templates (GLM-4) put nothing there but what opens the next turn, and their configurations name that.
    """
    if not tokenizer.chat_template:
        return None
    asked, again = ({"role": "user", "content": text} for text in (QUESTION, "And 2 + 2?"))
    answers = [{"role": "assistant", "content": text} for text in (_MARK, _THOUGHT)]
    tries = [([asked, answer], special) for answer in answers] + [([asked, answers[0], again], special & known)]
    for messages, accepted in tries:
        try:
            _, marked, after = render(tokenizer, messages).rpartition(_MARK)
        except InputError:  # a template for questions alone, or one that fails: `Turn.prompt` says which
            continue
        ids = tokenizer(after.lstrip(), add_special_tokens=False)["input_ids"] if marked else []
        if ids and ids[0] in accepted:
            return int(ids[0])
    return None


def _opens(tokenizer: Any, template: str | None, date: str) -> str:
    """A tag at the very end of the prompt: what it has begun of the answer."""
    if template is None and not tokenizer.chat_template:
        return ""
    asked = [{"role": "user", "content": QUESTION}]
    try:
        text = render(tokenizer, asked, date, opened=True) if template is None else template
    except InputError:
        return ""
    found = _OPENED.search(text)
    return found.group() if found and found[1] not in tokenizer.all_special_tokens else ""
