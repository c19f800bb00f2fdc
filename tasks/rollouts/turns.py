"""Conversations as chat data sets write them: one question and one answer are read out of them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from tasks.core.rows import Row, show

SPEAKERS = {
    "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant",
    "model": "assistant", "bot": "assistant", "system": "system", "developer": "system",
}  # fmt: skip
"""What ``role`` (OpenAI, TRL) and ``from`` (ShareGPT) say -> who speaks."""
_MARKED = re.compile(r"\s*Human: ?(.*?)\n\nAssistant: ?(.*)", re.DOTALL)

Told = tuple[str | None, str | None]
"""A question and its answer; None where there is none."""


def is_messages(given: Any) -> bool:
    """Whether ``given`` is a message, or a list of them: objects with ``role`` and ``content``, or ``from`` and
    ``value``."""
    if isinstance(given, Mapping):
        return any(isinstance(given.get(who), str) and what in given for who, what in _KEYS)
    return (
        isinstance(given, list) and bool(given) and all(isinstance(one, Mapping) and is_messages(one) for one in given)
    )


_KEYS = (("role", "content"), ("from", "value"))


def conversation(row: Row, name: str, given: Any, left_out: Counter[str]) -> Told:
    """The question and the answer in the messages (or message) of column ``name``.

    A system message, and reasoning apart from the answer, are left out and counted. Raises `InputError` for more than
    one question or answer, for who is none of `SPEAKERS`, and for content that is no text.
    """
    told: dict[str, str] = {}
    said: list[str] = []
    system = False
    for message in given if isinstance(given, list) else [given]:
        who, what = next((who, what) for who, what in _KEYS if isinstance(message.get(who), str) and what in message)
        speaker = SPEAKERS.get(message[who].lower())
        if speaker is None:
            raise row.refuse(name, f"messages of user, assistant and system, got {show(message[who])}", "leave it out")
        text = _text(row, name, message[what])
        if speaker == "system":
            system = True
            continue
        if message.get("reasoning_content") or message.get("reasoning"):
            left_out["reasoning apart from the answer"] += 1
        said.append(speaker)
        told[speaker] = text
    if said not in (["user"], ["assistant"], ["user", "assistant"]):
        raise row.refuse(
            name,
            f"one question and one answer, got {', '.join(said[:6]) or 'neither'}",
            "leave the row out, or give its turns as `prompt` and `completion`",
        )
    if system:
        left_out["system messages"] += 1
    return told.get("user"), told.get("assistant")


def marked(text: Any) -> tuple[str, str] | None:
    """The question and the answer of ``"\\n\\nHuman: ...\\n\\nAssistant: ..."``; None for anything else."""
    match = _MARKED.fullmatch(text) if isinstance(text, str) else None
    if match is None or any(f"\n\n{who}:" in part for who in ("Human", "Assistant") for part in match.groups()):
        return None
    return match[1], match[2]


def _text(row: Row, name: str, content: Any) -> str:
    """A message's content: a text, or the texts of its parts."""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and content:
        texts = [one.get("text") if isinstance(one, Mapping) else None for one in content]
        if all(isinstance(text, str) for text in texts):
            return "".join(map(str, texts))
    raise row.refuse(name, f"messages with text as content, got {show(content)}", "leave the row out")
