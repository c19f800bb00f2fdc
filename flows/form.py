"""How a flow's parameters are called in Prefect's form."""

from __future__ import annotations

from typing import Any

from pydantic import Field


def titled(title: str) -> Any:
    """For ``Annotated``: the form's heading of a parameter, where Prefect would put its bare name."""
    return Field(json_schema_extra={"title": title})
