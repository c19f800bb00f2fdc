"""What bad input is told: one line that prints."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tasks.core.errors import InputError


def refusal(function: Callable[..., object], *arguments: Any, **named: Any) -> str:
    """The message of the `InputError` that the call must end in."""
    with pytest.raises(InputError) as error:
        function(*arguments, **named)
    assert str(error.value).isprintable()
    return str(error.value)
