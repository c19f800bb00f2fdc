"""Models and adapters of strangers: no pickle is loaded, no code of theirs runs, nothing is fetched unasked."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.core.errors import StageError
from tasks.core.results import RunInfo
from tasks.geometry.adapters.adapter import WEIGHTS, AdapterSource
from tasks.geometry.adapters.opened import Named, check
from tasks.models.external import check_base, locate
from tests.faults.confined import ROOT, confined
from tests.lab.foreign_adapters import tiny_base
from tests.lab.refusals import refusal
from tests.lab.web import Handler, listening


class Evil:
    """Unpickled, it makes a file."""

    def __init__(self, flag: Path) -> None:
        self.flag = flag

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.flag}'",)


@pytest.fixture
def flag(tmp_path: Path) -> Iterator[Path]:
    """A file that only code of a stranger's makes; it must not be there in the end."""
    yield tmp_path / "owned"
    assert not (tmp_path / "owned").exists()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("model") / "base")


@pytest.fixture(scope="module")
def plain(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.unit.geometry.test_merged import lora, train

    folder = tmp_path_factory.mktemp("adapters") / "plain"
    train(base, folder, lora())
    return folder


@pytest.fixture
def copy(plain: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of `plain` with fields of its configuration changed."""

    def make(**fields: Any) -> Path:
        folder = tmp_path / "adapter"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(plain, folder)
        file = folder / "adapter_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))
        return folder

    return make


def asked(folder: Path, base: Path | None = None) -> AdapterSource | None:
    return check(Named(RunInfo("x", "x", None, None, None), folder, str(folder)), base)


def run_quoted(said: str) -> None:
    """The command that a message names, typed into a shell of this environment."""
    command = said.partition("convert it: ")[2] or said.partition("convert them: ")[2]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env={**os.environ, "PATH": path})
    assert done.returncode == 0, done.stderr


# --- pickles ----------------------------------------------------------------------------------------------------------


def test_a_pickled_adapter_is_refused_and_converted_by_the_command_that_is_named(
    copy: Callable[..., Path], plain: Path
) -> None:
    import numpy as np
    import torch
    from safetensors.torch import load_file

    folder = copy()
    torch.save(load_file(folder / WEIGHTS), folder / "adapter_model.bin")
    (folder / WEIGHTS).unlink()
    said = refusal(AdapterSource, folder)
    assert said.startswith(f"{folder}: adapter_model.bin is a pickle, which is not read; convert it: cd ")
    run_quoted(said)
    converted, original = AdapterSource(folder), AdapterSource(plain)
    for module in original.shapes:
        np.testing.assert_array_equal(converted.read(module).B, original.read(module).B)


@pytest.mark.parametrize("dora", [False, True])
def test_an_evil_pickle_is_read_neither_by_us_nor_by_the_command(
    copy: Callable[..., Path], base: Path, flag: Path, dora: bool
) -> None:
    import torch

    folder = copy(use_dora=dora)
    (folder / WEIGHTS).unlink()
    torch.save({"x": Evil(flag)}, folder / "adapter_model.bin")
    said = refusal(asked, folder, base)
    with pytest.raises(AssertionError, match="Weights only load failed"):
        run_quoted(said)


@pytest.mark.long
def test_a_pickled_base_is_refused_and_converted_by_the_command_that_is_named(base: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    folder = tmp_path / "a base with a space"
    shutil.copytree(base, folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    said = refusal(locate, str(folder))
    assert said.startswith(f"model.base: {folder} has no model.safetensors; pickled weights are not loaded; convert th")
    run_quoted(said)
    assert locate(str(folder)) == folder


def test_a_safetensors_file_beside_a_pickle_does_not_make_the_pickle_a_model(
    base: Path, tmp_path: Path, flag: Path
) -> None:
    """transformers takes pytorch_model.bin where there is no model.safetensors, whatever else there is."""
    import torch

    from tasks.models.load import load_model

    folder = tmp_path / "decoy"
    shutil.copytree(base, folder)
    (folder / "model.safetensors").rename(folder / "decoy.safetensors")
    torch.save({"x": Evil(flag)}, folder / "pytorch_model.bin")
    assert "pickled weights are not loaded" in refusal(locate, str(folder))
    with pytest.raises(OSError, match=r"no file named model\.safetensors"):
        load_model(folder)


@pytest.mark.long
@pytest.mark.usefixtures("state")
def test_a_pickle_planted_in_a_checkpoint_of_ours_runs_nothing(tmp_path: Path, flag: Path) -> None:
    """With a manifest forged as well: only who can write the state folder can do that, and gets a failed training."""
    import torch

    from tasks.core.digests import build_manifest
    from tasks.methods.sft import Sft
    from tasks.training.train import train_adapter
    from tasks.workers.devices import WorkerDied, run_pinned
    from tests.unit.training.conftest import make_world
    from tests.unit.training.test_checkpoints import TRAIN, Killer, arguments

    world, checkpoints, log = make_world(tmp_path), tmp_path / "checkpoints", tmp_path / "worker.log"
    with pytest.raises(WorkerDied):
        run_pinned(
            train_adapter, arguments(world, Sft(), TRAIN, tmp_path / "killed", checkpoints), log=log,
            progress=Killer(5, signal.SIGKILL),
        )  # fmt: skip
    (manifest,) = checkpoints.rglob("checkpoint-4.manifest.json")
    folder = manifest.with_name("checkpoint-4")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        torch.save({"x": Evil(flag)}, folder / name)
    sealed = json.loads(manifest.read_text())
    whole = {**sealed, **build_manifest(folder)} if "optimizer.pt" in sealed else build_manifest(folder)
    manifest.write_text(json.dumps(whole))
    with pytest.raises(StageError, match="Weights only load failed"):
        run_pinned(train_adapter, arguments(world, Sft(), TRAIN, tmp_path / "on", checkpoints), log=log)


# --- code -------------------------------------------------------------------------------------------------------------


def checked_base(folder: Path, **settings: Any) -> dict[str, Any]:
    given = {"prompt_template": None, "pad_token": None, "max_length": None, "targets": ("q_proj",), **settings}
    return check_base(folder=folder, **given)


def test_code_that_comes_with_a_model_is_not_run(base_model: Path, tmp_path: Path, flag: Path) -> None:
    folder = tmp_path / "coded"
    shutil.copytree(base_model, folder)
    for name in ("configuration_x", "modeling_x", "tokenization_x"):
        (folder / f"{name}.py").write_text(f"import os\nos.system(\"touch '{flag}'\")\n")
    config = json.loads((folder / "config.json").read_text())
    maps = {"AutoConfig": "configuration_x.X", "AutoModelForCausalLM": "modeling_x.X"}
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "x", "auto_map": maps}))
    said = refusal(checked_base, folder)
    assert said.endswith("it takes code of its own, and code that comes with a model is not run")
    # A known architecture is built by transformers' own class, and the tokenizer's code is not run either.
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": maps}))
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    for name, kind in (("coded", "XTokenizer"), ("known", tokenizer["tokenizer_class"])):
        changed = {**tokenizer, "tokenizer_class": kind, "auto_map": {"AutoTokenizer": [None, "tokenization_x.X"]}}
        (folder / "tokenizer_config.json").write_text(json.dumps(changed))
        assert checked_base(folder)["parameters"] > 0, name


CHATS = [
    pytest.param("{% for i in range(10**12) %}x{% endfor %}", "Range too big", id="one loop"),
    pytest.param(
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "more than 10 s",
        id="two loops",
    ),
    pytest.param("{{ 'a' * 10**10 }}", "it takes too much memory", id="ten gigabytes"),
    pytest.param("{{ ''.__class__.__mro__[1].__subclasses__() }}", "is unsafe", id="classes"),
    pytest.param("{{ cycler.__init__.__globals__.os.system('id') }}", "is unsafe", id="globals"),
    pytest.param("{% include '/etc/passwd' %}", "no loader for this environment", id="a file"),
    pytest.param("{{ raise_exception('no\x1b[31m') }}", r"no\x1b[31m", id="an exception"),
    pytest.param("{% for", "unexpected", id="no template"),
]


@pytest.mark.parametrize(("chat", "message"), CHATS)
def test_a_chat_template_can_do_nothing_but_render(
    variant: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, chat: str, message: str
) -> None:
    import tasks.models.prompts as prompts

    monkeypatch.setattr(prompts, "RENDER_SECONDS", 1.0)
    began = time.monotonic()
    said = refusal(checked_base, variant("chatty", chat_template=chat))
    assert time.monotonic() - began < 60
    assert said.startswith("model.prompt_template: the chat template of ")
    assert message.replace("10 s", "1 s") in said
    assert "--set model.prompt_template=" in said


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"megatron_config": {"a": 1}, "megatron_core": "tests.faults.confined"}, "megatron_config is set"),
        ({"layer_replication": [[0, 2]] * 1000}, "layer_replication is set"),
        ({"peft_type": "XLORA", "adapters": {"0": "owner/name"}}, "peft_type XLORA is not merged"),
        ({"peft_type": "SHADOW", "shadow_model": "owner/name"}, "peft_type SHADOW is not merged"),
        ({"peft_type": "PROMPT_TUNING", "prompt_tuning_init": "TEXT", "tokenizer_name_or_path": "owner/name",
          "tokenizer_kwargs": {"trust_remote_code": True}}, "peft_type PROMPT_TUNING is not merged"),
        ({"r": 10**9}, "r is 1000000000, and no tensor in adapter_model.safetensors is larger than 40"),
        ({"rank_pattern": {"q_proj": 10**9}}, "q_proj is 1000000000, and no tensor"),
        ({"target_modules": "(.+)+X"}, "its patterns (target_modules) take more than 5 s to match"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_what_peft_would_do_with_a_strangers_configuration_is_refused_before(
    copy: Callable[..., Path], base: Path, fields: dict[str, Any], message: str
) -> None:
    assert message in refusal(asked, copy(init_lora_weights="pissa", **fields), base)


def test_patterns_that_never_end_are_refused_in_time(copy: Callable[..., Path]) -> None:
    """One that Python's matcher would be at for longer than the universe is old; it cannot be interrupted."""
    began = time.monotonic()
    said = refusal(AdapterSource, copy(rank_pattern={"(([a-z0-9_.]+)+)+X": 4}))
    assert "its patterns (rank_pattern) take more than 5 s to match; write the modules' names instead" in said
    assert time.monotonic() - began < 120
    fine = copy(rank_pattern={r".*\.layers\.[01]\..*q_proj": 4}, alpha_pattern={"(q|k)_proj": 12})
    assert AdapterSource(fine).config.scale("model.layers.1.self_attn.q_proj") == 12 / 4
    for key, message in (("(" * 900, "not a regular expression"), ("a" * 2000, "a pattern of 2000 characters")):
        assert message in refusal(AdapterSource, copy(alpha_pattern={key: 4}))


# --- files that lead elsewhere ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shard", ["../outside.safetensors", "/etc/passwd", "sub/x.safetensors", "gone.safetensors"])
def test_an_index_names_only_files_beside_it(base: Path, tmp_path: Path, shard: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(base, folder)
    shutil.move(folder / "model.safetensors", tmp_path / "outside.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a.weight": shard}}))
    assert f"shard {shard!r} is not a file beside it" in refusal(locate, str(folder))


def test_a_link_to_a_pipe_or_a_device_is_no_file(copy: Callable[..., Path], tmp_path: Path) -> None:
    folder = copy()
    os.mkfifo(tmp_path / "pipe")
    for target in (tmp_path / "pipe", Path("/dev/zero"), tmp_path / "gone"):
        for name in (WEIGHTS, "adapter_config.json"):
            kept = (folder / name).read_bytes()
            (folder / name).unlink()
            (folder / name).symlink_to(target)
            assert f"{name} is missing" in refusal(asked, folder)
            (folder / name).unlink()
            (folder / name).write_bytes(kept)


def test_configurations_of_a_gigabyte_or_of_endless_nesting_are_refused(copy: Callable[..., Path]) -> None:
    folder = copy()
    for content, message in (
        (b'{"a":' * 500_000, "nested too deep"),
        (b'{"a": ' + b"[" * 100 + b"]" * 100 + b"}", "nested too deep"),
        (b'{"r": 4, "r": 8}', "key 'r' is there twice"),
        (b'{"r": ' + b"9" * 10_000 + b"}", "not valid JSON"),
    ):
        (folder / "adapter_config.json").write_bytes(content)
        assert message in refusal(asked, folder)
    with (folder / "adapter_config.json").open("wb") as file:
        file.truncate(2**30)
    assert "it is larger than 64 MiB" in refusal(asked, folder)


def test_names_of_tensors_that_a_terminal_would_obey_are_spelled_out(copy: Callable[..., Path]) -> None:
    from safetensors.torch import load_file, save_file

    folder = copy()
    tensors = load_file(folder / WEIGHTS)
    name = "base_model.model.\x1b[2J\x1b]0;owned\x07\ncolinear: done"
    save_file({**tensors, name: next(iter(tensors.values())).clone()}, folder / WEIGHTS)
    source = asked(folder)
    assert source is not None
    assert source.note == r"not compared: 1 whole tensor (\x1b[2J\x1b]0;owned\x07 colinear: done)"
    save_file({f"{name}.lora_C": next(iter(tensors.values())).clone()}, folder / WEIGHTS)
    assert r"tensor base_model.model.\x1b[2J\x1b]0;owned\x07 colinear: done.lora_C is not a LoRA factor" in refusal(
        asked, folder
    )


# --- nothing is fetched -----------------------------------------------------------------------------------------------


@pytest.fixture
def hub() -> Iterator[tuple[str, list[str]]]:
    """A server in the Hub's place, and the paths that it was asked for."""
    paths: list[str] = []

    class Hub(Handler):
        def do_GET(self) -> None:
            paths.append(self.path)
            self.say(404)

        do_HEAD = do_POST = do_GET

    with listening(Hub) as address:
        yield address, paths


@pytest.mark.long
def test_a_base_that_an_adapter_names_is_not_fetched(
    copy: Callable[..., Path], base: Path, base_model: Path, tmp_path: Path, hub: tuple[str, list[str]]
) -> None:
    url, paths = hub
    other = shutil.copytree(copy(base_model_name_or_path="stranger/base"), tmp_path / "other")
    dora = shutil.copytree(copy(use_dora=True, base_model_name_or_path="stranger/base"), tmp_path / "dora")
    online = {"HF_ENDPOINT": url, "HF_HUB_OFFLINE": "0", "COLINEAR_HOME": str(tmp_path / "home")}
    words = ["-m", "flows.cli", "compare", str(other), f"replicate={copy(base_model_name_or_path='stranger/base')}"]
    words += ["--plain", "--out", str(tmp_path / "out")]
    ran = confined(words, memory=16 * 2**30, **online)
    assert ran.code == 0, ran.stderr
    # A DoRA adapter without its magnitudes is refused from its header.
    ran = confined([*words, str(dora), "--base", str(base)], memory=16 * 2**30, **online)
    assert ran.code == 2, ran.stderr
    # For a base with an adapter_config.json beside it transformers would fetch what that names.
    mixed = shutil.copytree(base_model, tmp_path / "mixed")
    shutil.copy(other / "adapter_config.json", mixed)
    assert "has an adapter_config.json: an adapter; give the model that it is for" in refusal(locate, str(mixed))
    assert paths == []
    # Guards what is above: what a person names is asked for, and the server hears of it.
    ran = confined([*words[:4], "stranger/adapter", "--plain"], **online)
    assert ran.code == 2
    assert "'stranger/adapter' is neither a folder here nor to be had from the Hub" in ran.stderr
    assert any("stranger/adapter" in path for path in paths)


def test_no_loader_takes_code_or_pickles() -> None:
    """Every call in the sources that could."""
    import ast

    loose = []
    for path in [*ROOT.glob("tasks/**/*.py"), *ROOT.glob("flows/**/*.py"), *ROOT.glob("deployments/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            options = {word.arg: ast.unparse(word.value) for word in node.keywords}
            if name in (
                "pickle.load",
                "pickle.loads",
                "torch.load",
                "joblib.load",
                "yaml.load",
                "eval",
                "exec",
                "os.system",
            ) or (name.endswith("np.load") and options.get("allow_pickle") != "False"):
                loose.append((path.name, name))
            elif name.startswith("Auto") and name.endswith(("from_pretrained", "from_config")):
                if options.get("trust_remote_code") != "False":
                    loose.append((path.name, name))
                if "Model" in name and name.endswith("pretrained") and options.get("use_safetensors") != "True":
                    loose.append((path.name, name))
            elif options.get("shell") == "True" or options.get("trust_remote_code") == "True":
                loose.append((path.name, name))
    assert loose == []
