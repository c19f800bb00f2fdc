"""docs/field.md names the test of each kind of input: every one of them is there."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "field.md"


def test_every_test_that_the_page_names_is_there() -> None:
    file, missing, names = TESTS, [], 0
    for word in re.findall(r"`((?!tasks\.py)[\w/]+\.py(?:::test_\w+)?|test_\w+)`", PAGE.read_text()):
        path, _, test = word.partition("::") if ".py" in word else ("", "", word)
        file = TESTS / path if path else file
        names += 1
        if not file.is_file() or (test and f"def {test}(" not in file.read_text()):
            missing.append(word)
    assert missing == []
    assert names > 40
