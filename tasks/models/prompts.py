"""How a question becomes the prompt's tokens: one rule for rollouts, training and evaluation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

from tasks.core.errors import InputError
from tasks.core.results import TEMPLATE_DATE
from tasks.models.limits import OverLimit, limited
from tasks.problems.files import QUESTION_ALONE

RENDER_SECONDS, RENDER_MEMORY = 10.0, 2**31
"""For one question; what models bring takes a tenth of a millisecond."""

_DIRECTIVES = ("%-d", "%-m", "%-I", "%-H", *(f"%{letter}" for letter in "aAwdbBmyYHIMpSfjUWxXcD"))

MARKS = (
    "<|im_start|>", "<|im_end|>", "<|im_sep|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
    "<|begin_of_text|>", "<|endoftext|>", "<|end_of_text|>", "<|startoftext|>", "<|system|>", "<|user|>",
    "<|assistant|>", "<|end|>", "<|start|>", "<|message|>", "<|channel|>", "<|turn>", "<turn|>", "[INST]", "[/INST]",
    "<<SYS>>", "<</SYS>>", "<start_of_turn>", "<end_of_turn>", "<|start_of_role|>", "<|end_of_role|>", "<bos>",
    "[gMASK]",
    "<\uff5cUser\uff5c>", "<\uff5cAssistant\uff5c>", "<\uff5cbegin\u2581of\u2581sentence\uff5c>",
    "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|header_start|>", "<|header_end|>", "<|eot|>",
)  # fmt: skip
"""What chat templates put around a message, whichever model it is of: a question that holds one was rendered."""


def check_template(template: str | None, setting: str = "model.prompt_template") -> None:
    """Raise `InputError`, naming ``setting``, unless ``template`` is None or has ``{question}`` in it, once.

    Other braces are plain text.
    """
    if template is not None and template.count("{question}") != 1:
        raise InputError(f"{setting}: expected {{question}} exactly once, got {template!r}")


def adds_nothing(template: str | None) -> bool:
    """Whether every question is taken as it is, also one that was rendered already."""
    return template is not None and template.strip() == QUESTION_ALONE


def check_question(question: str, source: str, tokens: Sequence[str] = ()) -> None:
    """Raise `InputError`, naming ``source``, for a question with a chat template's marks or one of ``tokens`` in it.

    It has been through a template already, and would get a second one around it.
    """
    mark = next((mark for mark in (*MARKS, *tokens) if mark in question), None)
    if mark is not None:
        raise InputError(
            f"{source}: a question holds {mark!r}, a mark of chat templates, and would be put into a template once "
            f"more ({' '.join(question.split())[:60]!r}); give the bare questions"
        )


def prompt_ids(tokenizer: Any, question: str, template: str | None = None, date: str = TEMPLATE_DATE) -> list[int]:
    """The prompt's token ids.

    With ``template`` the text is ``template`` with the question in it, and one beginning-of-sequence token stands in
    front where the tokenizer has one, whether it, the template, both or neither put it there. Without, the tokenizer's
    chat template renders one user turn and opens the assistant's: see `render`. Raises `InputError` where there is
    neither, for a chat template that fails, and for a question that is a rendered prompt or holds one of the
    tokenizer's special tokens.
    """
    check_template(template)
    if not adds_nothing(template):
        check_question(question, "rollouts or evaluation.problems", special_marks(tokenizer))
    bos = tokenizer.bos_token_id
    if template is not None:
        ids = list(tokenizer(template.replace("{question}", question))["input_ids"])
        if ids and ids[-1] == tokenizer.eos_token_id:  # some tokenizers close every text
            ids.pop()
        if bos is not None and ids[:1] != [bos]:
            ids.insert(0, bos)
        while bos is not None and ids[:2] == [bos, bos]:  # the template spells what the tokenizer adds
            ids.pop(0)
        return ids
    return list(_rendered(tokenizer, [{"role": "user", "content": question}], date, opened=True, tokenize=True))


def render(
    tokenizer: Any, messages: Sequence[dict[str, str]], date: str = TEMPLATE_DATE, *, opened: bool = False
) -> str:
    """``messages`` as the chat template writes them, with ``opened`` the assistant's turn begun. See `prompt_ids`."""
    return str(_rendered(tokenizer, messages, date, opened=opened, tokenize=False))


def has_date(tokenizer: Any) -> bool:
    """Whether the chat template prints today's date."""
    return bool(tokenizer.chat_template) and "strftime_now" in json.dumps(tokenizer.chat_template)


def _rendered(tokenizer: Any, messages: Sequence[dict[str, str]], date: str, *, opened: bool, tokenize: bool) -> Any:
    """By a program of whoever made the model, in Jinja's sandbox and within `RENDER_SECONDS` and `RENDER_MEMORY`."""
    if not tokenizer.chat_template:
        raise InputError(
            "model.prompt_template: the base has no chat template; give one, for example "
            "--set model.prompt_template='Question: {question}\\nAnswer:\\n'"
        )
    clock = _clock(date) if has_date(tokenizer) else ""
    try:
        fixed = {"chat_template": clock + tokenizer.get_chat_template()} if clock else {}
        with limited(RENDER_SECONDS, RENDER_MEMORY):
            return tokenizer.apply_chat_template(
                list(messages), add_generation_prompt=opened, tokenize=tokenize, return_dict=False, **fixed
            )
    except Exception as error:  # Jinja's own, and whatever else a program can raise
        said = {OverLimit: f"it takes more than {RENDER_SECONDS:.0f} s", MemoryError: "it takes too much memory"}
        reason = said.get(type(error)) or " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(
            f"model.prompt_template: the chat template of {tokenizer.name_or_path or 'the base'} cannot render a "
            f"question ({reason}); give one: --set model.prompt_template='Question: {{question}}\\nAnswer:\\n'"
        ) from error


@lru_cache(maxsize=8)
def special_marks(tokenizer: Any) -> tuple[str, ...]:
    """The tokenizer's special tokens that no question spells: of three characters or more, not all letters or digits.

    The unknown token is that of nothing at all, and none of them.
    """
    known = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    tokens = (known | {*tokenizer.all_special_tokens}) - {tokenizer.unk_token}
    return tuple(sorted(token for token in tokens if len(token) > 2 and not token.isspace() and not token.isalnum()))


def _clock(date: str) -> str:
    """Jinja in which ``strftime_now`` is ``date``: transformers hands templates the clock itself, and no function."""
    try:
        day = datetime.strptime(date, "%Y-%m-%d")
    except ValueError:
        raise InputError(f"model.template_date: expected a day such as {TEMPLATE_DATE}, got {date!r}") from None
    filters = "".join(f" | replace({json.dumps(one)}, {json.dumps(day.strftime(one))})" for one in _DIRECTIVES)
    return f"{{% macro strftime_now(format) %}}{{{{ format{filters} }}}}{{% endmacro %}}{{{{ '' }}}}"
