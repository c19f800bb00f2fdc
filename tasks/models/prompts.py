"""How a question becomes the prompt's tokens: one rule for rollouts, training and evaluation."""

from __future__ import annotations

from typing import Any

from tasks.contracts import InputError
from tasks.models.limits import OverLimit, limited

RENDER_SECONDS, RENDER_MEMORY = 10.0, 2**31
"""For one question; what models bring takes a tenth of a millisecond."""


def check_template(template: str | None, setting: str = "model.prompt_template") -> None:
    """Raise `InputError`, naming ``setting``, unless ``template`` is None or has ``{question}`` in it, once.

    Other braces are plain text.
    """
    if template is not None and template.count("{question}") != 1:
        raise InputError(f"{setting}: expected {{question}} exactly once, got {template!r}")


def prompt_ids(tokenizer: Any, question: str, template: str | None = None) -> list[int]:
    """The prompt's token ids.

    With ``template`` the text is ``template`` with the question in it, and the beginning-of-sequence token is put in
    front where the tokenizer has one and did not add it. Without, the tokenizer's chat template renders one user turn
    and opens the assistant's: a program of whoever made the model, in Jinja's sandbox and within `RENDER_SECONDS` and
    `RENDER_MEMORY`. Raises `InputError` where there is neither, and for a chat template that fails.
    """
    if template is not None:
        check_template(template)
        ids = list(tokenizer(template.replace("{question}", question))["input_ids"])
        if ids and ids[-1] == tokenizer.eos_token_id:  # some tokenizers close every text
            ids.pop()
        if tokenizer.bos_token_id is not None and ids[:1] != [tokenizer.bos_token_id]:
            ids.insert(0, tokenizer.bos_token_id)
        return ids
    if not tokenizer.chat_template:
        raise InputError(
            "model.prompt_template: the base has no chat template; give one, for example "
            "--set model.prompt_template='Question: {question}\\nAnswer: '"
        )
    turn = [{"role": "user", "content": question}]
    try:
        with limited(RENDER_SECONDS, RENDER_MEMORY):
            return list(
                tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=True, return_dict=False)
            )
    except Exception as error:  # Jinja's own, and whatever else a program can raise
        said = {OverLimit: f"it takes more than {RENDER_SECONDS:.0f} s", MemoryError: "it takes too much memory"}
        reason = said.get(type(error)) or " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(
            f"model.prompt_template: the chat template of {tokenizer.name_or_path or 'the base'} cannot render a "
            f"question ({reason}); give one: --set model.prompt_template='Question: {{question}}\\nAnswer: '"
        ) from error


def completion_ids(tokenizer: Any, completion: str, *, closed: bool = True) -> list[int]:
    """The completion's token ids, ended by the end-of-sequence token unless it was cut (``closed=False``).

    A text that spells that token at its end, as some engines return it, does not get it twice.
    """
    ids = list(tokenizer(completion, add_special_tokens=False)["input_ids"])
    return [*ids, tokenizer.eos_token_id] if closed and ids[-1:] != [tokenizer.eos_token_id] else ids


def boxed_ids(tokenizer: Any, gold: str, *, closed: bool = True) -> list[int]:
    r"""``\boxed{gold}`` in tokens: the target of a problem without a known solution, and (not closed) the paper's.

    A word-level tokenizer may know the command only with a space in front; then it gets one.
    """
    plain, spaced = (completion_ids(tokenizer, rf"{space}\boxed{{{gold}}}", closed=closed) for space in ("", " "))
    return spaced if tokenizer.unk_token_id in plain and tokenizer.unk_token_id not in spaced else plain
