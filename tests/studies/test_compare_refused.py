"""What ``colinear compare`` refuses: exit code 2, one line that names the argument, nothing written."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub.constants
import pytest

from flows.cli.main import main
from tests.lab.adapters import WIDTH, adapter, compare

REFUSED = {
    "nothing": ("", "adapters: a comparison needs two or more, got 0"),
    "one": ("sft", "adapters: a comparison needs two or more, got 1"),
    "no folder": ("sft stf", "stf: no such folder; "),
    "slip below a folder": ("sft sft/adaptor", "sft/adaptor: no such folder; "),
    "one label twice": ("a=sft a=dpo", "label 'a' is given twice; "),
    "unknown reference": ("sft dpo --reference dop", "--reference dop: no adapter of that name; did you mean 'dpo'?"),
    "unknown replicate": (
        "sft dpo --replicate sft=sft2", "--replicate sft=sft2: no adapter 'sft2'; did you mean 'sft'?",
    ),
    "dimensions": ("sft dpo --k 1,x", "--k: expected whole numbers of at least 1, such as 1,5,10; got '1,x'"),
    "other URI": ("sft s3://bucket/x", "s3://bucket/x: not a URI that is read; "),
    "unknown to the Hub": ("sft nobody/nothing", "'nobody/nothing' is neither a folder here nor to be had from the "),
    "report over a file": ("sft dpo --out sft/adapter/adapter_config.json", "--out: "),
    "base": ("sft dpo --base ./none", "--base: no folder './none'"),
    "whole model alone": ("sft whole", "whole: "),
    "truncated": ("sft short", "{folder}/short/adapter_model.safetensors: not a readable safetensors file "),
    "merge of one": ("sft --merge", "adapters: a comparison needs two or more, got 1"),
    "merge of other shapes": ("sft wide --merge", "module model.layers.0.self_attn.q_proj is (24, 24) in "),
    "one checkpoint": ("run", "run: only checkpoint-5 in it; a trajectory takes two checkpoints or more"),
    "merge of checkpoints": ("run --merge", "--reference, --replicate, --texts and --merge are for adapters; "),
    "other shapes": ("sft wide", "module model.layers.0.self_attn.q_proj is (24, 24) in "),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("refused")
    for seed, name in enumerate(("sft/adapter", "dpo", "short", "run/checkpoint-5")):
        adapter(folder / name, seed)
    adapter(folder / "wide", 7, width=2 * WIDTH)
    file = folder / "short" / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    (folder / "whole").mkdir()
    (folder / "whole" / "config.json").write_text("{}")
    return folder


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_refused_in_one_line_before_any_work(
    folder: Path, name: str, state: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    words, message = REFUSED[name]
    monkeypatch.chdir(folder)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert main(["compare", *words.split()]) == 2
    said = capfd.readouterr()
    assert said.err.startswith(f"colinear: {message.format(folder=folder)}"), said.err
    assert said.err.count("\n") == 1
    assert said.out == ""
    assert {path.name for path in folder.iterdir()} == {"sft", "dpo", "short", "wide", "whole", "run"}


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="this system has no /proc, where nobody can make a folder")
def test_a_folder_that_takes_no_file_is_refused_before_any_work(folder: Path, tmp_path: Path) -> None:
    """Permissions do not tell: to root all of /proc is writable."""
    done = compare("sft", "dpo", "--plain", "--out", "/proc/none/report", folder=folder, home=tmp_path)
    assert done.stderr.startswith("colinear: --out: /proc cannot be written to (")
    assert done.stderr.endswith("); give another folder\n")
    assert done.stderr.count("\n") == 1
    assert (done.returncode, done.stdout) == (2, "")
