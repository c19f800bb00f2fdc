"""Logs by the tools themselves, of a model behind a server in OpenAI's form: run by the tools' own Python.

    python write_logs.py harness|inspect FOLDER MODEL ADDRESS PROBLEMS

The problems are ``i + 2`` for i = 0, 1, ..., PROBLEMS - 1; the reference answers stand after ``####``.
"""

from __future__ import annotations

import json
import os
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


def harness(folder: Path, name: str, address: str, problems: int) -> None:
    """Through lm-evaluation-harness' command line: ``folder/NAME/samples_sums_*.jsonl``."""
    from lm_eval.__main__ import cli_evaluate

    file = folder / "problems.jsonl"
    rows = [{"question": f"{i} + 2?", "answer": str(i + 2)} for i in range(problems)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tasks = folder / "tasks"
    tasks.mkdir(exist_ok=True)
    (tasks / "sums.yaml").write_text(TASK.format(file=file))
    model = f"model={name},base_url={address}/completions,tokenizer_backend=None,tokenized_requests=False"
    sys.argv = ["lm_eval", "run", "--model", "local-completions", "--model_args", model, "--tasks", "sums",
                "--include_path", str(tasks), "--log_samples", "--output_path", str(folder / name)]  # fmt: skip
    cli_evaluate()


def inspect(folder: Path, name: str, address: str, problems: int) -> None:
    """Through inspect's ``eval``, two epochs: ``folder/NAME/*.eval`` and the same as JSON."""
    import tiktoken
    from inspect_ai import Task, eval
    from inspect_ai.dataset import Sample
    from inspect_ai.model import get_model
    from inspect_ai.scorer import includes
    from inspect_ai.solver import generate

    letters = {bytes([i]): i for i in range(256)}  # inspect counts tokens by a vocabulary that it would download
    encoding = tiktoken.Encoding("bytes", pat_str=r"[\s\S]", mergeable_ranks=letters, special_tokens={})
    tiktoken.get_encoding = lambda _: encoding

    samples = [Sample(id=f"sum-{i}", input=f"{i} + 2?", target=f"#### {i + 2}") for i in range(problems)]
    task = Task(name="sums", dataset=samples, solver=generate(), scorer=includes(), epochs=2)
    for kind in ("eval", "json"):
        model = get_model(f"openai-api/local/{name}", base_url=address, api_key="none")
        (log,) = eval(task, model=model, log_dir=str(folder / name), log_format=kind, display="none")
        assert log.status == "success", log.error


if __name__ == "__main__":
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(Path(sys.argv[2]) / "hf")}
    tool, folder, name, address, problems = sys.argv[1:]
    {"harness": harness, "inspect": inspect}[tool](Path(folder), name, address, int(problems))
