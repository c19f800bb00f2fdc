"""The user and password that a state folder's own servers ask for, and to whom they are given. A leaf.

Everybody who is logged in on a machine reaches its loopback. So Prefect's server and MLflow's let in only those who
know what stands in a file that its owner alone can read: they may look at all studies, and start runs. It is made once,
and given to servers of this state folder, never to another address.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import sys
import tomllib
from pathlib import Path

from filelock import FileLock, Timeout

USER = "colinear"
FILE = "token"
LOCK = "ui.lock"
"""In the state folder; held by `colinear ui` as long as it runs."""
RECORD = "servers.json"


def of(folder: Path) -> str:
    """``colinear:PASSWORD``, out of the file ``token`` of a state folder; it is made on first use. Raises `OSError`.

    One that others could read until now is no secret: it is made anew.
    """
    path = folder / FILE
    if (said := _read(path)) and not _is_loose(path):
        return said
    with FileLock(folder / f"{FILE}.lock"):
        if said := _read(path):
            if not _is_loose(path):  # another process made it meanwhile
                return said
            path.chmod(0o600)
            if _is_loose(path):  # a file system without modes: nothing to be done here
                return said
        said = f"{USER}:{secrets.token_urlsafe(24)}"
        path.unlink(missing_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(f"{said}\n")
    return said


def _read(path: Path) -> str:
    """What is written there; empty where that can be no login."""
    try:
        said = path.read_text(errors="replace").strip()
    except FileNotFoundError:
        return ""
    return said if re.fullmatch(r"[^:\s]+:\S+", said) else ""


def _is_loose(path: Path) -> bool:
    return bool(path.stat().st_mode & 0o077)


def present(folder: Path) -> None:
    """Put the login where Prefect's and MLflow's clients look for it, if it is for a server of this state folder.

    Where no address of Prefect's is set, that is the one that the first flow run starts: it will ask for it. Of no use
    to Prefect once that is imported, for it reads its settings then.
    """
    api, tracking = prefect_address()[1], os.environ.get("MLFLOW_TRACKING_URI", "")
    ours = served(folder) if "://" in api + tracking else []
    if "prefect" not in sys.modules:
        if not api:
            os.environ["PREFECT_SERVER_API_AUTH_STRING"] = of(folder)
        if not api or api.rstrip("/") in ours:
            os.environ["PREFECT_API_AUTH_STRING"] = of(folder)
    if tracking.rstrip("/") in ours:
        user, _, password = of(folder).partition(":")
        os.environ |= {"MLFLOW_TRACKING_USERNAME": user, "MLFLOW_TRACKING_PASSWORD": password}


def remember(folder: Path, prefect: str, mlflow: str, ours: list[str]) -> None:
    """Leave word where the servers are that `colinear ui` shows, and which of them it started itself."""
    (folder / RECORD).write_text(json.dumps({"prefect": prefect, "mlflow": mlflow, "ours": ours}) + "\n")


def forget(folder: Path) -> None:
    """They are no more."""
    (folder / RECORD).unlink(missing_ok=True)


def recorded(folder: Path) -> dict[str, str | list[str]] | None:
    """What `remember` wrote, as long as the `colinear ui` that wrote it runs.

    After a ``kill -9`` the word is still there, and the ports may be anybody's.
    """
    try:
        said = json.loads((folder / RECORD).read_text())
        found: dict[str, str | list[str]] = {key: said[key] for key in ("prefect", "mlflow", "ours")}
        FileLock(folder / LOCK).acquire(timeout=0).lock.release()
    except Timeout:
        return found
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return None


def served(folder: Path) -> list[str]:
    """Addresses of Prefect's API and of MLflow that are this state folder's own now."""
    return list((recorded(folder) or {}).get("ours", []))


def prefect_address() -> tuple[str, str]:
    """Where an address of Prefect's API is set, and the address: in the environment, in a file of the working folder
    that Prefect reads, or in its profile; empty where in none."""
    if address := os.environ.get("PREFECT_API_URL", ""):
        return "PREFECT_API_URL", address
    written = Path(".env").read_text(encoding="utf-8", errors="replace") if Path(".env").is_file() else ""
    if line := re.search(r"""^\s*(?:export\s+)?PREFECT_API_URL\s*=\s*["']?([^\s"'#]+)""", written, re.M | re.I):
        return str(Path(".env").absolute()), line[1]
    profiles = _profiles()
    active = os.environ.get("PREFECT_PROFILE") or _at(profiles, "active")
    for path, keys in (
        (Path("prefect.toml"), ("api", "url")),
        (Path("pyproject.toml"), ("tool", "prefect", "api", "url")),
        (profiles, ("profiles", str(active), "PREFECT_API_URL")),
    ):
        if isinstance(value := _at(path, *keys), str):
            return str(path.absolute()), value
    return "", ""


def _profiles() -> Path:
    if given := os.environ.get("PREFECT_PROFILES_PATH"):
        return Path(given).expanduser()
    folder = os.environ.get("PREFECT_HOME") or Path(os.environ.get("COLINEAR_HOME") or ".colinear") / "prefect"
    return Path(folder).expanduser() / "profiles.toml"


def _at(path: Path, *keys: str) -> object:
    """The value at ``keys`` of a TOML file; None where there is none."""
    try:
        value: object = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value
