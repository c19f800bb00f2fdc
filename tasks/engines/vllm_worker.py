"""vLLM's own process: run by path, by vLLM's interpreter, with ``-I``; imports the standard library and vLLM only.

(``-I`` also keeps this folder, which has files called vllm.py and openai.py, off the import path.) JSON lines in and
out. The first line in is the settings; ``{"ready": ...}`` answers it. Then come requests, one a line, and
``{"run": sampling}`` runs those since the last one: each is answered as soon as it is finished, ``{"done": n}`` ends
the run, and between them ``{"beat": n}`` says every few seconds that the engine still steps. ``{"input": text}`` and
``{"failed": text}`` say why this process ends. It also ends, with everything it started, when its input closes.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

BEAT_SECONDS = 2.0
AHEAD = 2
"""Requests in the engine, in units of those that it decodes at once: enough that none of its rows waits."""


class Unusable(Exception):
    """What the user must mend."""


def main() -> None:
    out = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)  # vLLM writes to standard output as well: that goes to the log
    lines: queue.Queue[Any] = queue.Queue()
    threading.Thread(target=_read, args=(lines,), daemon=True).start()

    def say(**message: Any) -> None:
        out.write(json.dumps(message) + "\n")

    try:
        _serve(lines, say)
    except Unusable as error:
        say(input=str(error))
    except BaseException as error:
        traceback.print_exc()
        say(failed=f"{type(error).__name__}: {_first_line(error)}")
    out.flush()
    sys.stderr.flush()
    _end()


def _read(lines: queue.Queue[Any]) -> None:
    for line in sys.stdin:
        lines.put(json.loads(line))
    _end()


def _end() -> None:
    """End this process and its children at once: whoever asked is gone or has been told all there is to tell."""
    os.killpg(os.getpgid(0), signal.SIGKILL)


def _serve(lines: queue.Queue[Any], say: Callable[..., None]) -> None:
    settings = lines.get()
    llm, loras, device = _load(settings)
    say(ready=device)
    requests: list[dict[str, Any]] = []
    while True:
        message = lines.get()
        if "run" not in message:
            requests.append(message)
            continue
        _run(llm.llm_engine, loras, requests, message["run"], settings["batch_size"] * AHEAD, say)
        say(done=len(requests))
        requests = []


def _load(settings: Mapping[str, Any]) -> tuple[Any, dict[str | None, Any], str]:
    try:
        from vllm import LLM
        from vllm.lora.request import LoRARequest
        from vllm.platforms import current_platform
    except ImportError as error:
        raise Unusable(f"{sys.executable} cannot import vLLM ({_first_line(error)})") from error
    cpu = current_platform.is_cpu()
    if cpu and settings["gpu"]:
        raise Unusable(f"{sys.executable} has a CPU build of vLLM, but the model is to run on a GPU")
    precision = settings["precision"]
    if precision == "auto":
        precision = "float32" if cpu else "bfloat16"
    adapters = settings["adapters"]
    several: dict[str, Any] = {}
    if adapters:
        # On a CPU vLLM 0.30 gives rows without an adapter the last slot's (vllm-project/vllm pull request 48421): that
        # slot stays empty.
        count = len(adapters) + cpu
        rank = settings["max_rank"]
        several = {"enable_lora": True, "max_loras": count, "max_cpu_loras": count, "max_lora_rank": rank}
    llm = LLM(
        model=settings["model"],
        skip_tokenizer_init=True,
        trust_remote_code=False,
        generation_config="vllm",  # none of the model's own sampling defaults
        logprobs_mode="processed_logprobs",  # at the sampling temperature
        dtype=precision,
        enforce_eager=cpu,
        max_model_len=settings["max_length"],
        max_num_seqs=settings["batch_size"],
        gpu_memory_utilization=settings["memory_share"],
        seed=0,
        **several,
    )
    loras: dict[str | None, Any] = {None: None}
    for number, (name, folder) in enumerate(adapters.items(), start=1):
        loras[name] = LoRARequest(name, number, folder)
        try:
            llm.llm_engine.add_lora(loras[name])
        except Exception as error:
            traceback.print_exc()
            raise Unusable(f"adapter {name} ({folder}) is nothing that vLLM can serve: {_first_line(error)}") from error
    return llm, loras, "cpu" if cpu else "gpu"


def _run(
    engine: Any,
    loras: Mapping[str | None, Any],
    requests: Sequence[Mapping[str, Any]],
    sampling: Mapping[str, Any],
    most: int,
    say: Callable[..., None],
) -> None:
    """Keep up to ``most`` requests in the engine until all are answered."""
    from vllm import SamplingParams
    from vllm.inputs import tokens_input
    from vllm.sampling_params import RequestOutputKind

    told = time.monotonic()
    running, waiting, finished = 0, enumerate(requests), 0
    while finished < len(requests):
        while running < most and (entry := next(waiting, None)) is not None:
            place, request = entry
            parameters = SamplingParams(
                temperature=sampling["temperature"],
                top_p=1.0,
                seed=request["seed"],
                max_tokens=sampling["max_new_tokens"],
                logprobs=0 if sampling["logprobs"] else None,  # 0: of the chosen token alone
                ignore_eos=True,  # one rule for every engine: the end tokens that it is told, no other
                stop_token_ids=sampling["end_ids"],
                detokenize=False,
                output_kind=RequestOutputKind.FINAL_ONLY,
            )
            prompt = tokens_input(request["prompt_ids"])
            engine.add_request(str(place), prompt, parameters, lora_request=loras[request["adapter"]])
            running += 1
        for output in engine.step():
            if not output.finished:
                continue
            answer = output.outputs[0]
            if answer.finish_reason not in ("stop", "length"):
                raise RuntimeError(f"a request ended with finish reason {answer.finish_reason!r}")
            ids = list(answer.token_ids)
            logprobs = None
            if answer.logprobs is not None:
                logprobs = [step[token].logprob for token, step in zip(ids, answer.logprobs, strict=True)]
            say(place=int(output.request_id), ids=ids, logprobs=logprobs, finish_reason=answer.finish_reason)
            running, finished = running - 1, finished + 1
        if time.monotonic() - told > BEAT_SECONDS:
            told = time.monotonic()
            say(beat=finished)


def _first_line(error: BaseException) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]


if __name__ == "__main__":
    main()
