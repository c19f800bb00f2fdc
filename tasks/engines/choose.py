"""The one place that knows all engines: a teacher's engine by its name."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from tasks.core.errors import InputError
from tasks.core.sections import RolloutSpec
from tasks.engines import named
from tasks.engines.endpoint import Endpoint, read_key
from tasks.engines.interface import Engine
from tasks.engines.openai import OpenAIEngine


def open_engine(spec: RolloutSpec, teacher: Path | None, longest: int | None = None) -> Engine:
    """The engine that ``rollouts`` names, over the model in ``teacher``; an endpoint has its model itself.

    ``longest``: tokens of the longest prompt and its answer; default: the model's context. Nothing is loaded or
    connected before the engine is entered.
    """
    if spec.engine == "openai":
        return open_endpoint(spec)
    assert teacher is not None
    if spec.engine == "vllm":
        from tasks.engines.vllm import VllmEngine

        return VllmEngine(teacher, batch_size=spec.batch_size, longest=longest)
    from tasks.engines.transformers import TransformersEngine

    return TransformersEngine(teacher, batch_size=spec.batch_size)


_answered: set[str] = set()
"""Digests of the endpoints, models and keys that have answered this process."""


def probe_endpoint(spec: RolloutSpec) -> None:
    """`tasks.engines.openai.OpenAIEngine.probe`, once a process for one endpoint, model and key."""
    parts = [spec.endpoint, spec.teacher, spec.extra, spec.teacher_tokenizer, read_key(spec.key_env)]
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    if digest not in _answered:
        with open_endpoint(spec) as engine:
            engine.probe()
        _answered.add(digest)


def open_endpoint(spec: RolloutSpec) -> OpenAIEngine:
    """The endpoint that ``rollouts`` names. Raises `InputError` for a key that is not there, or not for it."""
    if spec.endpoint is None or spec.teacher is None:
        raise InputError("rollouts.endpoint: the openai engine needs it, and rollouts.teacher, the model's name there")
    named.check(spec)
    endpoint = Endpoint(
        url=spec.endpoint,
        model=spec.teacher,
        key_env=spec.key_env,
        timeout=spec.timeout,
        retries=spec.retries,
        extra=spec.extra,
    )
    return OpenAIEngine(endpoint, concurrency=spec.concurrency, tokens=spec.teacher_tokenizer is not None)
