"""A comparison as it was asked for: every name resolved and everything refused that can be, before any work."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import polars as pl

    from tasks.core.results import RunInfo
    from tasks.geometry.adapters.arguments import Argument
    from tasks.geometry.compare import Named
    from tasks.models.gguf_file import Gguf

DEFAULT_KS = (1, 5, 10)


@dataclass(frozen=True)
class Request:
    """What is compared with what, and where the report goes."""

    adapters: tuple[Named, ...]
    base: Path | None
    reference: str
    ks: tuple[int, ...]
    out: Path
    texts: Path | None = None
    """What the activation-weighted cosine is measured on; None: it is not."""
    gguf: Gguf | None = None
    """The file that ``base`` was dequantised from."""
    merge: bool = False
    """Whether it is asked what a merge of the reference with each other adapter would do."""

    @property
    def base_name(self) -> str | None:
        """The base as a reader knows it: the GGUF file where it is one, else the directory."""
        return str(self.gguf.file if self.gguf else self.base) if self.base else None

    @property
    def infos(self) -> list[RunInfo]:
        """The adapters' identities, in the order in which they were given."""
        return [adapter.info for adapter in self.adapters]

    @property
    def merged(self) -> list[tuple[str, Path]]:
        """(name, folder) of the adapters, the reference first."""
        both = [(adapter.info.run, adapter.folder) for adapter in self.adapters]
        return sorted(both, key=lambda one: one[0] != self.reference)

    @property
    def title(self) -> str:
        """``'sft rft dpo'``, and no more than a line can hold."""
        return title([info.run for info in self.infos])


def resolve(
    adapters: Sequence[str],
    base: str | None = None,
    reference: str | None = None,
    replicates: Sequence[str] = (),
    ks: Sequence[int] = DEFAULT_KS,
    out: str | None = None,
    plain: bool = False,
    texts: str | None = None,
    merge: bool = False,
) -> Request:
    """Find every adapter, fetching what is elsewhere, and read the headers of its files. Raises `InputError`.

    A base that is a GGUF file is dequantised once, as an artifact; with ``plain`` for this process alone.
    """
    from tasks.core import home
    from tasks.core.errors import InputError
    from tasks.core.visible import dated_folder
    from tasks.geometry.adapters.arguments import is_model, label_all, locate, parse
    from tasks.geometry.adapters.identities import choose_reference, identify
    from tasks.geometry.compare import Named, examine
    from tasks.reporting.files import check_out
    from tasks.storage.recorded import fetch

    if len(adapters) < 2:
        raise InputError(
            f"adapters: a comparison needs two or more, got {len(adapters)}; or one training's folder of checkpoint-N"
        )
    if not ks or min(ks) < 1:
        raise InputError(f"--k: expected dimensions of at least 1, got {list(ks)}")
    folder = Path(out) if out else dated_folder("compare")
    check_out(folder)
    read = _texts(texts, base)
    arguments = [parse(adapter) for adapter in adapters]
    known = _recalled(arguments)
    labels = label_all(arguments, {location: info.run for location, info in known.items()})
    recalled = {
        label: known[argument.location]
        for label, argument in zip(labels, arguments, strict=True)
        if argument.location in known
    }
    infos = identify(labels, recalled, replicates)
    chosen = choose_reference(labels, reference)
    scratch = _scratch(home.subfolder("staging"))
    named = tuple(
        Named(info, locate(argument, fetch, scratch), argument.location)
        for info, argument in zip(infos, arguments, strict=True)
    )
    start, gguf = _base(base, plain, scratch)
    for adapter in named:
        if start is None and is_model(adapter.folder):
            raise InputError(f"{adapter.source}: a whole model; its update needs what it started from: --base MODEL")
    examine(named, start)
    found = Request(named, start, chosen, tuple(sorted(set(ks))), folder, read, gguf, merge)
    if merge:
        _check_merge(found)
    return found


def _check_merge(asked: Request) -> None:
    """Refuse what PEFT cannot merge as factors, and with texts what has more than factors."""
    from tasks.geometry.adapters.adapter import AdapterSource
    from tasks.geometry.paths.line import open_plain

    for _, folder in asked.merged:
        AdapterSource(folder) if asked.texts is None else open_plain(folder)


def merge_frames(asked: Request, losses: Path | None) -> dict[str, pl.DataFrame]:
    """What a merge of the reference with each other adapter does, from their factors; with the losses in the folder
    ``losses`` where they were measured. Empty where no merge is asked about."""
    import polars as pl

    from tasks.geometry.adapters.adapter import AdapterSource
    from tasks.geometry.delta import aligned
    from tasks.geometry.merging import merges_frame

    if not asked.merge:
        return {}
    sources = {name: AdapterSource(folder) for name, folder in asked.merged}
    first, *others = aligned(list(sources.values()))
    name, *names = sources
    pairs = [(name, other, first, own) for other, own in zip(names, others, strict=True)]
    frames = {"merges": merges_frame(pairs, {name: source.config.room for name, source in sources.items()})}
    if losses is not None:
        frames["merge_losses"] = pl.read_parquet(losses / "merge_losses.parquet")
    return frames


def write(asked: Request, frames: Mapping[str, pl.DataFrame], notes: Sequence[str]) -> list[Path]:
    """The report's files, the page first. Cached frames do not say where anything lies; this comparison does."""
    import polars as pl

    from tasks.geometry.adapters.opened import FACTORED
    from tasks.geometry.relations import relations_frame
    from tasks.reporting.publish.write import write_comparison

    sources = {adapter.info.run: adapter.source for adapter in asked.adapters}
    base = pl.lit(asked.base_name, pl.String())
    own = frames["adapters"].with_columns(
        source=pl.col("run").replace_strict(sources, return_dtype=pl.String()),
        # What names no base itself was measured against the one that was given.
        base=pl.when(pl.col("update") != FACTORED).then(pl.coalesce("base", base)).otherwise("base"),
    )
    if asked.gguf is not None:
        notes = [*notes, asked.gguf.note]
    whole = own.filter(pl.col("rank").is_null())["run"].to_list()
    frames = {**frames, "adapters": own, "relations": relations_frame(frames["pair_metrics"], whole)}
    return write_comparison(asked.infos, frames, notes, asked.reference, asked.out)


def with_weighted(
    frames: Mapping[str, pl.DataFrame], notes: Sequence[str], weighted: pl.DataFrame, summary: Mapping[str, Any]
) -> tuple[dict[str, pl.DataFrame], list[str]]:
    """``frames`` and ``notes`` of a comparison with the activation-weighted cosine; ``summary``: of its moments."""
    import polars as pl

    from flows.notes.activations import moments_notes, unweighted_note

    plain = frames["pair_metrics"]
    said = [*notes, *moments_notes(summary), *unweighted_note(plain, weighted)]
    return {**frames, "pair_metrics": pl.concat([plain, weighted])}, said


def modules_of(frames: Mapping[str, pl.DataFrame]) -> list[str]:
    """The modules in which some pair was compared."""
    return sorted(set(frames["pair_metrics"]["module"]) - {"*"})


def read_frames(folder: Path) -> dict[str, pl.DataFrame]:
    """The frames of a comparison, from its artifact or, with those that are derived, from its report's folder."""
    import polars as pl

    from tasks.geometry.compare import FRAMES

    derived = [name for name in ("relations", "merges", "merge_losses") if (folder / f"{name}.parquet").is_file()]
    return {name: pl.read_parquet(folder / f"{name}.parquet") for name in (*FRAMES, *derived)}


def title(labels: Sequence[str], most: int = 6) -> str:
    """The labels on one line; beyond ``most`` only their number."""
    return " ".join([*labels[:most], *([f"and {len(labels) - most} more"] if len(labels) > most else [])])


def _recalled(arguments: Sequence[Argument]) -> dict[str, RunInfo]:
    from tasks.storage.recorded import recall

    found = {a.location: recall(a.location) for a in arguments if a.kind == "mlflow"}
    return {location: info for location, info in found.items() if info is not None}


def _texts(texts: str | None, base: str | None) -> Path | None:
    """The file of texts. Raises `InputError` where there is none such, or no base to read it."""
    from tasks.core.errors import InputError
    from tasks.core.rows import shards
    from tasks.core.small_files import expanded

    if texts is None:
        return None
    if base is None:
        raise InputError("--texts: they are read by the base, whose inputs weight the cosine; give it: --base MODEL")
    shards(expanded(texts))
    return expanded(texts).absolute()


def _base(base: str | None, plain: bool, scratch: Path) -> tuple[Path | None, Gguf | None]:
    """The base's folder, and the header of the GGUF file that it was made of, if it was."""
    from tasks.models.external import locate
    from tasks.models.gguf_file import find_gguf, read_gguf

    if base is None:
        return None, None
    file = find_gguf(base, setting="--base")
    if file is None:
        return locate(base, "--base"), None
    header = read_gguf(file, "--base")
    return _dequantised_here(file, scratch) if plain else locate(base, "--base"), header


@lru_cache(maxsize=1)
def _dequantised_here(file: Path, scratch: Path) -> Path:
    """For one comparison without a store: gone with this process."""
    from tasks.core import home
    from tasks.models.dequantise import dequantise
    from tasks.models.external import file_sha256
    from tasks.workers.devices import run_unpinned

    folder = Path(tempfile.mkdtemp(prefix="base-", dir=scratch))
    log = home.subfolder("logs") / "gguf.log"
    arguments = {"file": file, "sha256": file_sha256(file), "out": folder, "setting": "--base"}
    run_unpinned(dequantise, arguments, log=log)
    return folder


@lru_cache(maxsize=4)
def _scratch(parent: Path) -> Path:
    """A folder for downloads that lives as long as this process: the command and its flow fetch a file once."""
    folder = Path(tempfile.mkdtemp(prefix="compare-", dir=parent))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
