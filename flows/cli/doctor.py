"""``colinear doctor``: one screen that says what this machine has, and what is in the way of a study."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from flows.servers import processes as servers
from tasks.core import home, login
from tasks.core.errors import InputError
from tasks.core.login import prefect_address
from tasks.core.results import TEMPLATE_DATE
from tasks.core.secrets import without_password
from tasks.engines.vllm_installation import VARIABLE, installation
from tasks.storage.state import check_mlflow, check_proxies, revisions
from tasks.workers import devices

LEAST_DISK = 2 * 2**30
"""Bytes: the default study keeps 30 MB, a base of one's own is read where it is, and logs and staging want room."""

VARIABLES = (
    "COLINEAR_HOME", "COLINEAR_SLOTS", "COLINEAR_RAY", "COLINEAR_DATA", "COLINEAR_VLLM_PYTHON",
    "COLINEAR_SERVER_PATIENCE", "CUDA_VISIBLE_DEVICES", "MLFLOW_TRACKING_URI", "PREFECT_API_URL", "PREFECT_HOME",
    "HF_HOME", "HF_HUB_OFFLINE", "OMP_NUM_THREADS",
)  # fmt: skip
PYTHONS = ((3, 11), (3, 12))
CHROMIUM = Path("/usr/bin/chromium")


@dataclass(frozen=True)
class Finding:
    """One line. ``problem`` makes the exit code 1; ``without`` is something that only some uses need."""

    kind: Literal["ok", "without", "problem"]
    what: str
    found: str
    way_out: str = ""


def run(base: str | None, template: str | None, date: str | None) -> int:
    """Look at this machine, or with ``base`` at how a model is asked."""
    from rich.console import Console

    console = Console(soft_wrap=True, highlight=False)
    if base is not None:
        for line in turn_lines(base, template, date or TEMPLATE_DATE):
            console.print(line, markup=False)
        return 0
    marks = {"ok": "[green]ok     [/]", "without": "[yellow]without[/]", "problem": "[red]problem[/]"}
    problems = 0
    for finding in findings():
        problems += finding.kind == "problem"
        console.print(f"{marks[finding.kind]}  {finding.what:12} ", end="")
        console.print(finding.found, markup=False)
        if finding.way_out:
            console.print(f"{'':23}-> {finding.way_out}", markup=False)
    console.print("\nnothing is in the way" if not problems else f"\n{problems} in the way")
    return 1 if problems else 0


def turn_lines(base: str, template: str | None, date: str) -> Iterator[str]:
    """How the model in ``base`` is asked, what ends its answers and who says so, and a training row, line by line.

    Raises `InputError` for a base that no study could ask.
    """
    from transformers import AutoTokenizer

    from tasks.models.external import locate
    from tasks.models.prompts import check_template
    from tasks.models.turn import turn_of

    template = template and template.replace("\\n", "\n")
    check_template(template)
    folder = locate(base)
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
    except Exception as error:
        raise InputError(
            f"--base: no tokenizer is to be had from {folder}: {' '.join(str(error).split())[:200]}"
        ) from None
    turn = turn_of(tokenizer, folder, template, date).record
    yield f"{folder}"
    yield f"{'prompt':18} {turn.prompt!r}"
    yield f"{'begins the answer':18} {turn.opens!r}" if turn.opens else f"{'begins the answer':18} with nothing"
    for one, text, said in turn.ends:
        yield f"{'ends an answer':18} {text!r} ({one}): {said}{'; training teaches it' if one == turn.closing else ''}"
    yield f"{'training row':18} {turn.prompt!r} -> {turn.answer!r} (what is right of the arrow is taught)"
    yield f"{'date':18} {turn.date or 'the chat template prints none'}"
    if turn.split is not None:
        yield f"{'problem':18} the template ends within the token {turn.split!r}: end it in a line break, not a space"


def findings() -> Iterator[Finding]:
    """Everything that is looked at, in the order of the screen; nothing is imported that takes seconds."""
    checks: tuple[Callable[[], Finding], ...] = (
        _python, _packages, _devices, _state, _disk, _proxies, _mlflow, _prefect, _vllm, _browser, _variables,
    )  # fmt: skip
    for check in checks:
        yield check()


def _python() -> Finding:
    version = f"{sys.version.split()[0]} at {sys.executable}"
    if sys.version_info[:2] in PYTHONS:
        return Finding("ok", "Python", version)
    return Finding("problem", "Python", version, "colinear needs 3.11 or 3.12: make setup PYTHON=/path/to/python3.11")


def _packages() -> Finding:
    listed = Path(__file__).parents[2] / "constraints.txt"
    if not listed.is_file():
        return Finding("without", "packages", "constraints.txt is not beside the sources: versions were not compared")
    required = {
        _plain(re.split(r"[^\w.-]", line, maxsplit=1)[0])
        for line in metadata.requires("colinear") or []
        if "extra ==" not in line
    }
    pinned = [line.split("==") for line in listed.read_text().splitlines() if re.match(r"[\w.-]+==", line)]
    here = {
        _plain(one.metadata["Name"]): one.version.split("+")[0] for one in metadata.distributions()
    }  # of 2.13.0+cpu
    wrong = [
        f"{name} {here.get(_plain(name), 'is missing')} ({version.strip()})"
        for name, version in pinned
        if here.get(_plain(name), version.strip() if _plain(name) not in required else None) != version.strip()
    ]
    if not wrong:
        return Finding("ok", "packages", f"the versions of constraints.txt ({len(pinned)} names)")
    some = ", ".join(wrong[:6]) + (f" and {len(wrong) - 6} more" if len(wrong) > 6 else "")
    return Finding("problem", "packages", f"not as in constraints.txt: {some}", "make setup")


def _plain(name: str) -> str:
    """A distribution's name as indices compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _devices() -> Finding:
    try:
        slots = devices.slots()
    except InputError as error:
        return Finding("problem", "devices", str(error), "unset COLINEAR_SLOTS, or give a number of at least 1")
    kinds = f"{len(slots)} slots ({slots[0].kind}, {slots[0].threads} threads each)"
    if slots[0].kind == "gpu" and shutil.which("nvidia-smi") is None:
        return Finding("problem", "devices", f"{kinds}, but no driver (nvidia-smi)", "install NVIDIA's driver")
    return Finding("ok", "devices", f"{devices.describe_machine()}: {kinds}")


def _state() -> Finding:
    try:
        folder = home.home()
        probe = folder / f"doctor-{os.getpid()}"
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        return Finding("problem", "state", str(error), "COLINEAR_HOME=DIR names a folder that can be written")
    if home.is_open(folder):
        others = f"{folder}, writable, but not closed to others of this machine"
        return Finding("without", "state", others, f"chmod 700 {folder}, or COLINEAR_HOME=DIR of your own")
    return Finding("ok", "state", f"{folder}, writable, closed to others")


def _disk() -> Finding:
    free = shutil.disk_usage(_existing(Path(os.environ.get("COLINEAR_HOME") or ".").expanduser().absolute())).free
    said = f"{free / 2**30:.0f} GiB free"
    if free >= LEAST_DISK:
        return Finding("ok", "disk", said)
    return Finding("problem", "disk", f"{free / 2**30:.1f} GiB free", "make room, or COLINEAR_HOME=DIR on another disk")


def _existing(path: Path) -> Path:
    return next(one for one in (path, *path.parents) if one.exists())


def _proxies() -> Finding:
    found = {name: without_password(value) for name, value in home.proxies().items()}
    if not found:
        return Finding("ok", "proxy", "none is set")
    said = ", ".join(f"{name}={value}" for name, value in found.items())
    try:
        check_proxies()
    except InputError as error:
        return Finding("problem", "proxy", said, str(error))
    return Finding("ok", "proxy", f"{said}; what runs on this machine is reached past it")


def _mlflow() -> Finding:
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if uri.startswith(("http://", "https://")):
        shown = without_password(uri)
        if servers.healthy_mlflow(uri):
            given = _given(uri, "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
            asked = f"{uri.rstrip('/')}/api/2.0/mlflow/experiments/search?max_results=1"
            if not os.environ.get("MLFLOW_TRACKING_TOKEN") and not servers.lets_in(asked, given):
                way_out = "give MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
                return Finding("problem", "MLflow", f"server at {shown} does not let us in", way_out)
            return Finding("ok", "MLflow", f"server at {shown} answers")
        return Finding("problem", "MLflow", f"nothing answers at {shown}", "start it, or unset MLFLOW_TRACKING_URI")
    if uri and not uri.startswith("sqlite:///"):
        try:
            check_mlflow(uri)
        except InputError as error:
            return Finding("problem", "MLflow", str(error))
        return Finding("ok", "MLflow", f"store {without_password(uri)}, not looked into")
    path = Path(uri.removeprefix("sqlite:///")) if uri else _home() / "mlflow.db"
    return _database("MLflow", path, "mlflow", f"mlflow db upgrade sqlite:///{path}")


def _prefect() -> Finding:
    where, api = prefect_address()
    if api:
        shown = without_password(api)
        if servers.healthy_prefect(api):
            given = _given(api, "PREFECT_API_AUTH_STRING")
            ours = where == "PREFECT_API_URL" and not os.environ.get("PREFECT_API_KEY")  # else Prefect may know more
            if ours and not servers.lets_in(f"{api.rstrip('/')}/admin/version", given):
                way_out = "give PREFECT_API_AUTH_STRING"
                return Finding("problem", "Prefect", f"server at {shown} does not let us in", way_out)
            return Finding("ok", "Prefect", f"server at {shown} answers ({where})")
        return Finding("problem", "Prefect", f"nothing answers at {shown}", f"start it, or take it out of {where}")
    if found := servers.running():
        return Finding("ok", "Prefect", f"`colinear ui` runs at {found.prefect_ui}")
    folder = Path(os.environ.get("PREFECT_HOME") or _home() / "prefect")
    return _database("Prefect", folder / "prefect.db", "prefect", "prefect server database upgrade -y")


def _given(address: str, *variables: str) -> str:
    """``user:password`` for a server: the state folder's for its own, else the URL's or that of the variables."""
    if address.rstrip("/") in login.served(_home()):
        return login.of(_home())
    parts = urlsplit(address)
    if parts.password is not None:
        return f"{unquote(parts.username or '')}:{unquote(parts.password)}"
    given = ":".join(os.environ.get(name, "") for name in variables)
    return "" if given == ":" else given


def _home() -> Path:
    return Path(os.environ.get("COLINEAR_HOME") or ".colinear").expanduser().absolute()


def _database(what: str, path: Path, package: str, upgrade: str) -> Finding:
    """An embedded database: whether it can be read and written, and is of the installed version."""
    if not path.exists():
        return Finding("ok", what, f"embedded; {path} will be made by the first study")
    if not os.access(path, os.W_OK):
        return Finding("problem", what, f"{path} cannot be written", f"chmod u+w {path}, or another COLINEAR_HOME")
    aside = f"move {path} away (the record and the cache begin anew)"
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=1.0)) as database:
            revision = str(database.execute("select version_num from alembic_version").fetchone()[0])
    except (sqlite3.Error, TypeError) as error:
        return Finding("problem", what, f"{path}: {error}", aside)
    newest, known = revisions(package)
    if revision == newest:
        return Finding("ok", what, f"embedded; {path}, schema {revision}")
    if revision in known:
        return Finding("problem", what, f"{path}: schema {revision} is older than {package}'s {newest}", upgrade)
    return Finding("problem", what, f"{path}: schema {revision} is of a newer {package}", f"make setup, or {aside}")


def _vllm() -> Finding:
    try:
        found = installation()
    except InputError as error:
        if os.environ.get(VARIABLE):
            return Finding("problem", "vLLM", str(error), f"correct or unset {VARIABLE}")
        said = str(error).removeprefix("engine vllm: ")
        return Finding("without", "vLLM", f"{said}; only engine=vllm needs it", "make setup-vllm, or see docs/vllm.md")
    said = f"{found.version} for {found.kind.upper()}s, {found.python}"
    with suppress(InputError):  # of the devices, which is said there
        if found.kind != (here := devices.slots()[0].kind):
            said += f"; this machine's devices are {here.upper()}s"
            return Finding("without", "vLLM", said, f"set {VARIABLE} to the Python of an environment with that build")
    return Finding("ok", "vLLM", said)


def _browser() -> Finding:
    if CHROMIUM.exists() and importlib.util.find_spec("playwright") is not None:
        return Finding("ok", "browser", f"{CHROMIUM} and playwright, for the tests")
    return Finding("without", "browser", "no chromium or playwright; only tests need it", "apt-get install chromium")


def _variables() -> Finding:
    used = {name: without_password(os.environ[name]) for name in VARIABLES if os.environ.get(name)}
    text = ", ".join(f"{name}={value}" for name, value in used.items())
    return Finding("ok", "environment", text or "no variable of ours is set")
