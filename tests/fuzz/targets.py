"""What is fuzzed, and with what. A target takes a case, and returns a value that satisfies its schema or raises
`InputError`; whatever else it does is a defect."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from hypothesis import strategies as st

from tasks.core.errors import InputError
from tasks.core.frames import PROBLEMS
from tasks.core.rows import name_of, read_rows
from tasks.grading.grade import Grade, grade, unparsed_golds
from tasks.problems.files import Layout, collect, read_problems
from tasks.rollouts.files import ROLLOUT_FILE, read_rollouts
from tests.fuzz.formulas import BOMBS, FORMULAS, framed
from tests.fuzz.inputs import NUMBERS, PLAIN, TEXTS, TRICKS, changed, damaged, lines, values

Run = Callable[[Any], object]


@dataclass(frozen=True)
class Target:
    """``make()`` prepares it in the current folder (which is a scratch) and returns its cases and what takes one."""

    make: Callable[[], tuple[st.SearchStrategy[Any], Run]]
    share: float
    """Of all cases. A judgement takes milliseconds, so the grader has fewer than its turn."""


def file_of(suffix: str, read: Callable[[Path], object]) -> Run:
    """``read`` of a file with the case's bytes."""
    path = Path(f"case{suffix}")

    def run(content: bytes) -> object:
        path.write_bytes(content)
        return read(path)

    return run


# --- rollouts ---------------------------------------------------------------------------------------------------------

ROW = {"problem_id": "a", "prompt": "2 + 2?", "completion": "\\boxed{4}", "answer": "4", "reward": 1, "seed": 3}
MORE = {"logprobs": [-0.5, 0.0], "finish_reason": "stop", "completions": ["x", {"completion": "y", "reward": 0}],
        "rewards": [1, None], "code": ["x"], "score": [True], "gt": "4", "m": {"solution": "x",
        "is_correct": 1}}  # fmt: skip
NAMES = st.one_of(
    st.sampled_from([*ROW, *MORE, "question", "problem", "response", "solution", "gold", "ground_truth", "is_correct",
    "id"]),
    st.sampled_from(TRICKS),
)  # fmt: skip
ROWS = st.lists(
    st.one_of(*[changed(ROW, NAMES)] * 4, *[changed({**ROW, name: value}, NAMES) for name, value in MORE.items()]),
    min_size=1, max_size=3,
)  # fmt: skip
SEEDS = [lines([ROW, ROW]), lines([{**ROW, **{key: value}} for key, value in MORE.items()]), b'{"prompt": "q"}\r\n\r\n']


def read_as_rollouts(path: Path, fields: dict[str, str] | None = None) -> object:
    frame = read_rollouts(path, fields)
    assert dict(frame.schema) == ROLLOUT_FILE
    assert frame.height > 0
    assert frame["reward"].drop_nulls().is_in([0.0, 1.0]).all()
    assert frame.filter(pl.col("reward").is_null() & pl.col("answer").is_null()).is_empty()
    assert frame.select("problem_id", "rollout_id").is_unique().all()
    frame.write_parquet("kept.parquet")  # what was accepted can be kept
    return frame


def rollout_bytes() -> tuple[st.SearchStrategy[bytes], Run]:
    return st.one_of(damaged(SEEDS), st.binary(max_size=60)), file_of(".jsonl", read_as_rollouts)


def rollout_rows() -> tuple[st.SearchStrategy[bytes], Run]:
    return ROWS.map(lines), file_of(".jsonl", read_as_rollouts)


def parquet_seeds() -> list[bytes]:
    seeds = []
    for frame in (
        pl.DataFrame({"prompt": ["q"] * 3, "completion": ["x", "", "z"], "reward": [1.0, 0.0, 1.0],
                      "logprobs": [[-1.0], None, []]}),
        pl.DataFrame({"question": ["q"], "gold": ["4"], "completions": [[{"completion": "x", "reward": 1.0}]],
                      "when": [datetime(2026, 1, 1)], "blob": [b"\xff\x00"]}),
        pl.DataFrame({"prompt": [None, "q"], "completion": pl.Series(["a", "b"], dtype=pl.Categorical),
                      "reward": pl.Series([True, None]), "answer": pl.Series([1, 2], dtype=pl.UInt8)}),
    ):  # fmt: skip
        for compression in ("uncompressed", "zstd", "snappy"):
            buffer = io.BytesIO()
            frame.write_parquet(buffer, compression=compression)  # type: ignore[arg-type]
            seeds.append(buffer.getvalue())
    return seeds


def rollout_parquet() -> tuple[st.SearchStrategy[bytes], Run]:
    return damaged(parquet_seeds()), file_of(".parquet", read_as_rollouts)


CHAT = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "\\boxed{4}"}]
LAID_OUT = [
    {"prompt": CHAT[:1], "completion": CHAT[1:], "answer": "4"},
    {"prompt": "2 + 2?", "chosen": "\\boxed{4}", "rejected": CHAT},
    {"messages": CHAT, "expected_answer": 4},
    {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "x"}], "gold": "4"},
    {"problem": "q", "generations": ["x", "y"], "correctness_math_verify": [True, False], "answer": "4"},
    {"problem": "q", "generated_solution": "x", "expected_answer": "4"},
    {"custom_id": "1", "question": "q", "answer": "4", "response": {"body": {"choices": [{"message": CHAT[1]}]}}},
    {"doc": {"question": "q"}, "resps": [["x"]], "target": "4", "filter": "none", "exact_match": 1.0},
    {"input": "q", "output": "x", "score": 1.0, "step": 3},
]
"""One row of each layout that people have."""


def rollout_columns() -> tuple[st.SearchStrategy[Any], Run]:
    """Rows of named layouts with fields changed, and columns that are said to have a role."""
    names = st.one_of(NAMES, st.sampled_from(sorted({name for row in LAID_OUT for name in row})))
    rows = st.one_of(*[changed(row, names) for row in LAID_OUT])
    columns = st.one_of(names, st.sampled_from(["doc.question", "response.body.choices", "messages.content", "a.*.b"]))
    roles = st.sampled_from(["prompt", "completion", "completions", "reward", "answer", "messages", "id", "nothing"])
    fields = st.dictionaries(roles, columns, max_size=2)

    def run(case: tuple[list[dict[str, Any]], dict[str, str]]) -> object:
        given, fields = case
        Path("case.jsonl").write_bytes(lines(given))
        return read_as_rollouts(Path("case.jsonl"), fields or None)

    return st.tuples(st.lists(rows, min_size=1, max_size=3), fields), run


# --- problems ---------------------------------------------------------------------------------------------------------

PROBLEM = {"problem_id": "a", "question": "2 + 2?", "answer": "so 4\n#### 4", "solution": "2 + 2 = 4"}


def problems() -> tuple[st.SearchStrategy[Any], Run]:
    rows = st.lists(changed(PROBLEM, NAMES), min_size=1, max_size=3).map(lines)
    content = st.one_of(rows, damaged([lines([PROBLEM]), lines([{**PROBLEM, "problem_id": i} for i in range(3)])]))
    fields = st.dictionaries(st.sampled_from(["question", "answer", "id", "solution"]), NAMES, max_size=2)
    kinds = st.sampled_from(["text", "number", "integer"])

    def run(case: tuple[bytes, dict[str, str], str, bool]) -> object:
        content, named, gold, lenient = case
        path = Path("problems.jsonl")
        path.write_bytes(content)
        if gold == "text" and not lenient:
            frame = read_problems(path, named)
        else:
            layout = Layout(fields=named, gold=gold, lenient=lenient, template="{question}\nBox it.")  # type: ignore[arg-type]
            frame = collect(read_rows(path), name_of(path), layout).frame
        assert dict(frame.schema) == PROBLEMS
        assert frame["problem_id"].is_unique().all()
        assert frame.select("question", "answer").null_count().row(0) == (0, 0)
        return frame

    return st.tuples(content, fields, kinds, st.booleans()), run


# --- settings ---------------------------------------------------------------------------------------------------------


def settings_files() -> tuple[st.SearchStrategy[bytes], Run]:
    from flows.cli.study import study_spec

    seeds = [
        b'preset = "tiny"\nname = "x"\nmethods = ["sft", "dpo"]\nseed = 3\n'
        b"[train]\nlr = 1e-3\nsteps = 5\n[dpo]\nbeta = 0.1\n",
        b'[model]\nbase = "owner/name"\nprompt_template = """\nQ: {question}\n"""\n[rollouts]\nfile = "mine.jsonl"\n'
        b'[rollouts.extra]\nthinking = {type = "disabled"}\n[evaluation]\nbenchmarks = ["gsm8k"]\n',
        b"[[geometry]]\nks = [1, 5]\n[paths]\nalphas = [0.0, 0.5, 1.0]\n[tiny]\nstep_mix = [0.4, 0.35, 0.25]\n",
    ]
    return damaged(seeds), file_of(".toml", lambda path: _spec(study_spec(str(path), [], None)))


def settings_words() -> tuple[st.SearchStrategy[list[str]], Run]:
    from flows.cli.study import study_spec
    from tasks.settings.study import StudySpec, build

    sections = {name: field.annotation for name, field in StudySpec.model_fields.items()}
    keys = [
        f"{name}.{key}" if hasattr(kind, "model_fields") else name
        for name, kind in sections.items()
        for key in (kind.model_fields if hasattr(kind, "model_fields") else [""])
    ]
    text = st.one_of(PLAIN, values(PLAIN).map(json.dumps), NUMBERS.map(str), st.lists(PLAIN, max_size=3).map(",".join))
    word = st.tuples(st.one_of(st.sampled_from(keys), st.sampled_from(keys), PLAIN), text).map("=".join)
    valid = st.sampled_from(
        ["name=x", "methods=sft,dpo", "matched=dpo", "train.lr=1e-4", "train.steps=5", "seed=7", "replicates=",
         "geometry.ks=1,2", "rollouts.file=x.jsonl", "model.base=owner/name", "evaluation.n=10",
         "lora.targets=[q_proj]",
         "dpo.beta=0.5", "paths.alphas=[0,0.5,1]", "rollouts.holdout=0.2",
         "model.prompt_template=Q {question}\\n",
         "rollouts.problems=x.jsonl",
         "rollouts.teacher=x", "rollouts.engine=openai", "rollouts.endpoint=http://127.0.0.1:1/v1", "rollouts.extra={}"]
    )  # fmt: skip
    one = st.one_of(word, valid, valid, PLAIN)

    def run(words: list[str]) -> object:
        return _spec(study_spec("tiny", [*words], None))

    assert build({"name": "x"}).name == "x"
    return st.lists(one, min_size=1, max_size=3), run


def _spec(spec: Any) -> object:
    """A study that was accepted can be written down, read back, and named on a disk."""
    from tasks.core.visible import file_name, parameter_names
    from tasks.settings.study import StudySpec

    assert isinstance(spec, StudySpec)
    written = json.dumps(spec.model_dump(mode="json"), allow_nan=False)
    assert StudySpec.model_validate_json(written) == spec
    assert "/" not in file_name(spec.name) not in ("", ".", "..")
    written.encode()
    assert spec.runs()
    assert all(name.isprintable() for name in parameter_names({spec.name: 1}))
    return spec


# --- grader -----------------------------------------------------------------------------------------------------------


def grader() -> tuple[st.SearchStrategy[tuple[str, str]], Run]:
    formulas = st.one_of(*[FORMULAS] * 60, st.sampled_from(BOMBS), TEXTS)
    completions = st.one_of(framed(formulas), framed(formulas), formulas, PLAIN)

    def run(case: tuple[str, str]) -> object:
        completion, gold = case
        found = grade(completion, gold)
        assert isinstance(found, Grade)
        assert found.reward in (0.0, 1.0)
        assert found.extracted is None or isinstance(found.extracted, str)
        if found.reward:
            assert found.gold_parsed
        if not found.gold_parsed:
            assert unparsed_golds([gold]) == [0]
        return found

    return st.tuples(completions, st.one_of(formulas, framed(formulas))), run


# --- adapters ---------------------------------------------------------------------------------------------------------

CONFIG = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "rank_pattern": {},
"bias": "none",
          "alpha_pattern": {"q_proj": 4},
          "init_lora_weights": True, "use_rslora": False, "use_dora": False}  # fmt: skip
FIELDS = st.sampled_from(
    ["peft_type", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "bias", "modules_to_save",
    "target_modules",
     "exclude_modules", "layers_pattern", "base_model_name_or_path", "auto_mapping", "megatron_config", "megatron_core",
     "layer_replication", "loftq_config", "init_lora_weights", "lora_bias", "task_type", "revision", "use_dora", "r",
     *[name for name in TRICKS if len(name) < 40]]
)  # fmt: skip


def tensor_file(tensors: dict[str, Any]) -> bytes:
    from safetensors.numpy import save

    return bytes(save(tensors))


def factors(module: str, out: int = 4, inputs: int = 3, rank: int = 2) -> dict[str, Any]:
    generator = np.random.default_rng(0)
    return {
        f"base_model.model.{module}.lora_A.weight": generator.normal(size=(rank, inputs)).astype(np.float32),
        f"base_model.model.{module}.lora_B.weight": generator.normal(size=(out, rank)).astype(np.float32),
    }


MODULES = ("model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj")


def opened(folder: Path) -> object:
    """As ``colinear compare`` opens one, first the headers, then module by module."""
    from tasks.core.results import RunInfo
    from tasks.geometry.adapters.opened import Named, check
    from tasks.geometry.delta import load_delta

    if check(Named(RunInfo("x", "x", None, None, None), folder, str(folder)), Path("base")) is None:
        return None  # its update takes the base: what PEFT does with it is not fuzzed here
    delta = load_delta(folder)
    for name, update in delta.modules.items():
        assert np.isfinite(update.B).all()
        assert np.isfinite(update.A).all()
        assert update.shape == delta.shapes[name]
    return delta


def _base(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text('{"model_type": "qwen3", "tie_word_embeddings": true}')
    (folder / "model.safetensors").write_bytes(
        tensor_file({f"{name}.weight": np.ones((4, 3), np.float32) for name in MODULES})
    )


def adapter_configs() -> tuple[st.SearchStrategy[bytes], Run]:
    _base(Path("base"))
    folder = Path("adapter")
    folder.mkdir(exist_ok=True)
    (folder / "adapter_model.safetensors").write_bytes(tensor_file({**factors(MODULES[0]), **factors(MODULES[1])}))
    configs = changed(CONFIG, FIELDS).map(lambda config: json.dumps(config).encode())

    def run(content: bytes) -> object:
        (folder / "adapter_config.json").write_bytes(content)
        return opened(folder)

    return st.one_of(configs, configs, damaged([json.dumps(CONFIG).encode()])), run


def adapter_tensors() -> tuple[st.SearchStrategy[bytes], Run]:
    _base(Path("base"))
    folder = Path("adapter")
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG))
    good = tensor_file({**factors(MODULES[0]), **factors(MODULES[1])})
    deep = tensor_file(factors("model.layers.99999999999999999999.q_proj"))
    shape = st.lists(st.sampled_from([0, 1, 2, 3, 4, -1, 2**31, 2**63, 1.5]), max_size=3)
    entry = st.fixed_dictionaries(
        {
            "dtype": st.sampled_from(["F32", "F16", "BF16", "F64", "I64", "F8_E4M3", "BOOL", "X", ""]),
            "shape": shape,
            "data_offsets": st.lists(st.sampled_from([0, 8, 16, 24, 32, 48, -8, 2**62]), max_size=3),
        }
    )
    keys = st.one_of(st.sampled_from([*factors(MODULES[0]), "__metadata__"]), PLAIN)
    headers = st.dictionaries(keys, st.one_of(entry, entry, values(PLAIN, 3)), max_size=4).map(_headed)
    content = st.one_of(damaged([good, deep]), damaged([good, deep]), headers)

    def run(content: bytes) -> object:
        (folder / "adapter_model.safetensors").write_bytes(content)
        return opened(folder)

    return content, run


def _headed(header: dict[str, Any]) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(48)


def adapter_formats() -> tuple[st.SearchStrategy[Any], Run]:
    """Files of MLX, kohya's scripts and diffusers: other names, other shapes, metadata of any kind."""
    from safetensors.numpy import save

    from tasks.geometry.adapters.adapter import AdapterSource
    from tasks.geometry.adapters.other_formats import as_peft

    folder, scratch = Path("other"), Path("written")
    folder.mkdir(exist_ok=True)
    stems = st.one_of(st.sampled_from([*MODULES, "lora_te_layers_0_q_proj", "unet.a.0.to_q", "_orig_mod"]), PLAIN)
    ends = st.sampled_from(
        [".lora_a", ".lora_b", ".lora_down.weight", ".lora_up.weight", ".lora.down.weight", "_lora.up.weight", ".alpha",
         ".lora_A.weight", ".lora_B.default.weight", ".weight", ".bias", ".m", ".lora_magnitude_vector"]
    )  # fmt: skip
    shapes = st.lists(st.sampled_from([1, 2, 3, 4]), max_size=3).map(tuple)
    tensors = st.dictionaries(st.tuples(stems, ends).map("".join), shapes, min_size=1, max_size=6)
    metadata = st.dictionaries(
        st.sampled_from(["ss_network_alpha", "lora_adapter_metadata", "format"]), st.one_of(PLAIN, NUMBERS.map(str))
    )
    config = st.one_of(
        st.none(), changed({"fine_tune_type": "lora", "lora_parameters": {"scale": 2.0}, "model": "x"}, FIELDS)
    )

    def run(case: tuple[dict[str, tuple[int, ...]], dict[str, str], dict[str, Any] | None]) -> object:
        named, told, raw = case
        for old in folder.iterdir():
            old.unlink()
        shutil.rmtree(scratch, ignore_errors=True)
        filled = {name: np.ones(shape, np.float32) for name, shape in named.items()}
        (folder / "adapters.safetensors").write_bytes(save(filled, told))
        if raw is not None:
            (folder / "adapter_config.json").write_text(json.dumps(raw))
        written = as_peft(folder, scratch)
        if written is None:
            return None
        source = AdapterSource(written)
        return [source.read(name) for name in source.shapes]

    return st.tuples(tensors, metadata, config), run


def indices() -> tuple[st.SearchStrategy[bytes], Run]:
    from tasks.geometry.adapters.checkpoint import Checkpoint
    from tasks.models.external import locate

    folder = Path("model")
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text('{"model_type": "qwen3"}')
    shutil.copyfile("/etc/hostname", "outside.safetensors")
    (folder / "one.safetensors").write_bytes(tensor_file({"a.weight": np.ones((2, 2), np.float32)}))
    valid = {"metadata": {"total_size": 16}, "weight_map": {"a.weight": "one.safetensors"}}
    shards = st.sampled_from(
        ["one.safetensors", "../outside.safetensors", "/etc/passwd", "./one.safetensors", "no.safetensors"]
    )
    maps = st.dictionaries(st.one_of(st.just("a.weight"), PLAIN), st.one_of(shards, values(PLAIN, 2)), max_size=3)
    written = maps.map(lambda weight_map: json.dumps({"weight_map": weight_map}).encode())
    content = st.one_of(written, damaged([json.dumps(valid).encode()]))

    def run(content: bytes) -> object:
        (folder / "model.safetensors.index.json").write_bytes(content)
        checkpoint = Checkpoint(folder)
        assert {file.path for file in checkpoint.files.values()} <= {folder / "one.safetensors"}
        return checkpoint.shapes, locate(str(folder.absolute()))

    return content, run


# --- compare's arguments ----------------------------------------------------------------------------------------------


def arguments() -> tuple[st.SearchStrategy[Any], Run]:
    from tasks.geometry.adapters.arguments import label_all, locate, parse
    from tasks.geometry.adapters.identities import choose_reference, identify

    folder = Path("sft/adapter")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG))
    (folder / "adapter_model.safetensors").write_bytes(tensor_file(factors(MODULES[0])))
    places = st.sampled_from(
        ["sft", "sft/adapter", "./sft", "owner/name", "owner/name/../..", "runs:/0f3c5a7e/../x",
        "runs:/" + "0" * 32, "models:/x/1",
         "mlflow-artifacts://u:pw@h/x", "s3://u:pw@h/x", "0f3c5a7e" * 4, "sft/adapter/adapter_config.json"]
    )  # fmt: skip
    texts = PLAIN.filter(lambda text: "\0" not in text)  # no command line holds one
    one = st.one_of(places, texts, st.tuples(texts, st.one_of(places, texts)).map("=".join))
    replicates = st.lists(st.one_of(texts, st.tuples(texts, texts).map("=".join)), max_size=2)

    def nowhere(uri: str, scratch: Path) -> Path:
        raise InputError(f"{uri}: not asked here")

    def run(case: tuple[list[str], list[str], str | None]) -> object:
        given, pairs, reference = case
        parsed = [parse(text) for text in given]
        labels = label_all(parsed)
        assert len(set(labels)) == len(labels)
        assert all(label.isprintable() for label in labels)
        infos = identify(labels, {}, pairs)
        choose_reference(labels, reference)
        return infos, [locate(argument, nowhere, Path(".")) for argument in parsed]

    return st.tuples(st.lists(one, min_size=2, max_size=4), replicates, st.one_of(st.none(), texts)), run


# --- templates --------------------------------------------------------------------------------------------------------


def templates() -> tuple[st.SearchStrategy[Any], Run]:
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from tasks.models.prompts import check_template, prompt_ids
    from tasks.models.turn import turn_of

    inner = Tokenizer(models.WordLevel({"<pad>": 0, "<eos>": 1, "<unk>": 2, "a": 3}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")
    pieces = st.sampled_from(
        ["{% for m in messages %}", "{{ m['content'] }}", "{% endfor %}",
        "{% if add_generation_prompt %}A: {% endif %}", "{{", "}}",
         "{%", "%}", "{{ ''.__class__.__mro__[1].__subclasses__() }}",
         "{{ cycler.__init__.__globals__.os.system('id') }}",
         "{{ raise_exception('no') }}", "{{ 1/0 }}", "{{ messages[9].x.y }}",
         "{% for i in range(10**12) %}x{% endfor %}",
         "{% set x = 'a' * 1000 %}{{ x }}", "{{ strftime_now('%Y') }}", "{% include '/etc/passwd' %}",
         "{% macro a() %}{{ a() }}{% endmacro %}",
         "{{ a() }}", "{{ messages.append(1) }}", "{{ '%1000d' | format(1) }}", "{{ namespace }}",
         "{% import 'os' as os %}", "U: ",
         "{{ messages|tojson }}", "{% generation %}", "{% break %}"]
    )  # fmt: skip
    chats = st.lists(st.one_of(pieces, pieces, PLAIN.filter(lambda t: len(t) < 60)), max_size=6).map("".join)
    wrapped = PLAIN.map(lambda text: f"{text}{{question}}{text}")  # settings hold no half surrogates
    own = st.one_of(st.none(), st.none(), PLAIN, wrapped)

    def run(case: tuple[str, str | None, str]) -> object:
        chat, template, question = case
        tokenizer.chat_template = chat
        check_template(template)
        ids = prompt_ids(tokenizer, question, template)
        assert all(type(one) is int and 0 <= one < 4 for one in ids)
        turn = turn_of(tokenizer, None, template)
        asked, answer = turn.prompt(question), turn.answer("a")
        assert answer[-1] in turn.end_ids
        assert turn.text(answer) == "a"
        json.dumps(asdict(turn.record), allow_nan=False)  # the report keeps it
        return asked

    return st.tuples(chats, own, PLAIN), run


TARGETS = {
    "rollouts: bytes": Target(rollout_bytes, 0.10),
    "rollouts: rows": Target(rollout_rows, 0.10),
    "rollouts: parquet": Target(rollout_parquet, 0.08),
    "rollouts: columns": Target(rollout_columns, 0.10),
    "problems": Target(problems, 0.08),
    "settings: files": Target(settings_files, 0.08),
    "settings: --set": Target(settings_words, 0.10),
    "grader": Target(grader, 0.06),
    "adapter: config": Target(adapter_configs, 0.06),
    "adapter: tensors": Target(adapter_tensors, 0.06),
    "adapter: formats": Target(adapter_formats, 0.06),
    "model: index": Target(indices, 0.04),
    "compare: arguments": Target(arguments, 0.06),
    "templates": Target(templates, 0.06),
}
assert round(sum(target.share for target in TARGETS.values()), 6) == 1.04  # of 2 x 50,000: 104,000
