"""Logs by the tools themselves, of a mock model that solves the problems it is told to: run by the tools' own Python.

    python write_logs.py harness|inspect FOLDER NAME RIGHT     RIGHT: 0 and 1 a problem, 2: only found by looking hard

The problems are ``i + 2`` for i = 0, 1, ...; their answers stand after ``####``, or for 2 in a sentence.
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

TASK = """
task: sums
dataset_path: json
dataset_kwargs:
  data_files:
    test: {file}
test_split: test
output_type: generate_until
doc_to_text: "Question: {{{{question}}}}\\nAnswer:"
doc_to_target: "{{{{answer}}}}"
generation_kwargs:
  until: ["Question:"]
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
filter_list:
  - name: strict-match
    filter:
      - function: regex
        regex_pattern: "#### (-?[0-9]+)"
      - function: take_first
  - name: flexible-extract
    filter:
      - function: regex
        group_select: -1
        regex_pattern: "(-?[0-9]+)"
      - function: take_first
"""


def said(prompt: str, right: str) -> str:
    """The mock model's answer."""
    i = int(re.findall(r"(\d+) \+ 2", prompt)[-1])
    return {"1": f"#### {i + 2}", "2": f"It is {i + 2}", "0": "#### -1"}[right[i]]


def harness(folder: Path, name: str, right: str) -> None:
    """Through lm-evaluation-harness' command line: ``folder/NAME/samples_sums_*.jsonl``."""
    from lm_eval.__main__ import cli_evaluate
    from lm_eval.api.model import LM
    from lm_eval.api.registry import register_model

    @register_model(name)
    class Mock(LM):  # type: ignore[misc]
        def __init__(self, **_):  # type: ignore[no-untyped-def]
            super().__init__()

        def generate_until(self, requests, disable_tqdm=False):  # type: ignore[no-untyped-def]
            return [said(request.args[0], right) for request in requests]

        def loglikelihood(self, requests, disable_tqdm=False):  # type: ignore[no-untyped-def]
            raise NotImplementedError

        loglikelihood_rolling = loglikelihood

    problems = folder / "problems.jsonl"
    rows = [{"question": f"{i} + 2?", "answer": str(i + 2)} for i in range(len(right))]
    problems.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tasks = folder / "tasks"
    tasks.mkdir(exist_ok=True)
    (tasks / "sums.yaml").write_text(TASK.format(file=problems))
    sys.argv = ["lm_eval", "run", "--model", name, "--model_args", f"pretrained=org/{name}", "--tasks", "sums",
                "--include_path", str(tasks), "--log_samples", "--output_path", str(folder / name)]  # fmt: skip
    cli_evaluate()


def inspect(folder: Path, name: str, right: str) -> None:
    """Through inspect's ``eval``, two epochs: ``folder/NAME/*.eval`` and the same as JSON."""
    import tiktoken
    from inspect_ai import Task, eval
    from inspect_ai.dataset import Sample
    from inspect_ai.model import ModelOutput, get_model
    from inspect_ai.scorer import includes
    from inspect_ai.solver import generate

    letters = {bytes([i]): i for i in range(256)}  # inspect counts tokens by a vocabulary that it would download
    encoding = tiktoken.Encoding("bytes", pat_str=r"[\s\S]", mergeable_ranks=letters, special_tokens={})
    tiktoken.get_encoding = lambda _: encoding

    def answer(messages, tools, tool_choice, config):  # type: ignore[no-untyped-def]
        return ModelOutput.from_content("mock", said(messages[-1].text, right))

    samples = [Sample(id=f"sum-{i}", input=f"{i} + 2?", target=f"#### {i + 2}") for i in range(len(right))]
    task = Task(name="sums", dataset=samples, solver=generate(), scorer=includes(), epochs=2)
    for kind in ("eval", "json"):
        model = get_model("mockllm/model", custom_outputs=answer)
        (log,) = eval(task, model=model, log_dir=str(folder / name), log_format=kind, display="none")
        assert log.status == "success", log.error


if __name__ == "__main__":
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(Path(sys.argv[2]) / "hf")}
    tool, folder, name, right = sys.argv[1:]
    {"harness": harness, "inspect": inspect}[tool](Path(folder), name, right)
