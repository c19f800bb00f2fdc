"""Hostile inputs: what strangers' files are made of, and valid ones damaged."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

TRICKS = (
    "", "\x00", "\x1b[31m", "\x1b]0;owned\x07", "\r\n", "\n", "\t", "\u2028", "\u202e", "\ufeff", "\u00a0", "\u0660",
    "../../../etc/passwd", "/etc/passwd", "..", ".", "~", "~nobody-of-this-name/x", "C:\\x", "a/b", "%2e%2e/",
    "x" * 300,
    "A" * 5000, "9" * 5000, "1e999999", "-1e-999999", "NaN", "Infinity", "-0", "0x10", "1_000", "٣", "½",
    "[" * 3000, "{" * 3000, '{"a":' * 1500, "(" * 500, "<script>alert(1)</script>", "{{7*7}}", "{% raw %}", "${HOME}",
    "$(id)", "`id`", "[red]", "[/]", "=cmd|' /C calc'!A0", "'; drop table runs; --", "__proto__", "__class__", "null",
    "(a+)+$", "(.*)*x", "é", "😀", "\u0301" * 50, "#### 5", "\n#### 1,234", "A: 18", "\\boxed{", "}", "\\", '"', "'",
)  # fmt: skip
"""Texts that have broken something somewhere."""

SURROGATES = st.sampled_from(["\ud800", "\udfff", "a\ud800b"])
TEXTS = st.one_of(st.sampled_from(TRICKS), st.text(max_size=12), SURROGATES)
PLAIN = st.one_of(st.sampled_from(TRICKS), st.text(st.characters(exclude_categories=["Cs"]), max_size=12))
NUMBERS = st.one_of(
    st.integers(-3, 12), st.integers(), st.floats(),
    st.sampled_from([10**30, -(10**400), 2**63, 2**31, 1e308, 5e-324, -0.0]),
)  # fmt: skip
LEAVES = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS)


def values(names: st.SearchStrategy[str], leaves: int = 6) -> st.SearchStrategy[Any]:
    """Anything that JSON holds, with keys of ``names``."""
    return st.recursive(
        LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4), max_leaves=leaves
    )


def changed(valid: dict[str, Any], names: st.SearchStrategy[str], least: int = 0) -> st.SearchStrategy[dict[str, Any]]:
    """``valid`` with some fields replaced, added or (``...``) removed."""
    change = st.one_of(values(names, 3), st.just(...))
    keys = st.one_of(st.sampled_from(sorted(valid)), names)
    return st.dictionaries(keys, change, min_size=least, max_size=4).map(
        lambda changes: {key: value for key, value in {**valid, **changes}.items() if value is not ...}
    )


_KINDS = st.sampled_from(["flip", "put", "cut", "twice", "end", "swap"])
_EDITS = st.lists(
    st.tuples(_KINDS, st.integers(0, 2**16), st.integers(0, 255), st.sampled_from([one.encode() for one in TRICKS])),
    min_size=1, max_size=5,
)  # fmt: skip


def damaged(seeds: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """One of ``seeds`` with bytes flipped, texts of `TRICKS` put in, pieces cut out, doubled or moved, or cut."""
    return st.tuples(st.sampled_from(list(seeds)), _EDITS).map(_damage)


def _damage(drawn: tuple[bytes, list[tuple[str, int, int, bytes]]]) -> bytes:
    content, edits = drawn
    for kind, where, byte, text in edits:
        place = where * len(content) >> 16
        piece = content[place : place + 1 + byte % 32]
        rest = content[place + len(piece) :]
        content = (
            content[:place]
            + {
                "flip": bytes([byte]) + content[place + 1 :],
                "put": text + content[place:],
                "cut": rest,
                "twice": piece + piece + rest,
                "end": b"",
                "swap": rest[:8] + piece + rest[8:],
            }[kind]
        )
    return content


def lines(rows: Sequence[Any]) -> bytes:
    """JSON lines; half surrogates become escapes, as whoever writes them has them."""
    return b"\n".join(json.dumps(row).encode() for row in rows)
