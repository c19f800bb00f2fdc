"""Which endpoints are sent a key: those that the owner of the state folder has named together with its variable.

Whoever can start a run on Prefect's pages chooses its settings, but not to whom the keys in the owner's environment go.
A command line names its endpoint, which is written to the file ``endpoints`` of the state folder; lines may be added.
"""

from __future__ import annotations

import os

from tasks.core import home
from tasks.core.errors import InputError
from tasks.core.sections import RolloutSpec

FILE = "endpoints"
DEEPSEEK = ("https://api.deepseek.com/v1", "DEEPSEEK_API_KEY")
"""Of the preset ``paper``, which anybody may start as it is."""
HEADER = "# Who is sent which key: an endpoint's address, a space, the name of the variable with the key.\n"


def allow(spec: RolloutSpec) -> None:
    """What a command line asks for is what the owner wants: from now on, started runs may ask for it, too."""
    pair = _pair(spec)
    if pair is None or pair in _known():
        return
    path = home.home() / FILE
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "a") as file:
        file.write(f"{'' if file.tell() else HEADER}{' '.join(pair)}\n")


def check(spec: RolloutSpec) -> None:
    """Raise `InputError` where a key would go to an endpoint that its owner has not named."""
    pair = _pair(spec)
    if pair is None or pair in _known():
        return
    url, variable = pair
    raise InputError(
        f"rollouts.endpoint: {url} is not sent the key in {variable}, for nobody has named the two together; the line "
        f"`{url} {variable}` in {home.home() / FILE} allows it, as does a `colinear study` with these settings"
    )


def _pair(spec: RolloutSpec) -> tuple[str, str] | None:
    """The endpoint, as it is compared, and the variable; None where no key is sent."""
    if spec.engine != "openai" or spec.endpoint is None or spec.key_env is None:
        return None
    return _plain(spec.endpoint), spec.key_env


def _plain(url: str) -> str:
    scheme, _, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme.lower()}://{host.lower()}{slash}{path}".rstrip("/")


def _known() -> set[tuple[str, str]]:
    path = home.home() / FILE
    found = {DEEPSEEK}
    if not path.is_file():
        return found
    there = path.stat()
    if there.st_uid not in (0, os.getuid()) or (there.st_mode & 0o022 and home.is_open(path.parent)):
        raise InputError(f"{path}: others can write to it, so it allows nothing; `chown` and `chmod 600` make it yours")
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        words = line.split()
        if len(words) == 2 and "://" in words[0]:
            found.add((_plain(words[0]), words[1]))
    return found
