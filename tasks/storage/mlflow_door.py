"""MLflow's server behind a login: ``python -m tasks.storage.mlflow_door server --app-name colinear ...``.

It is ``mlflow server`` with one application more to choose from. MLflow's own with a password, ``basic-auth``, is for
many users: it keeps them in a database and takes a slow hash of the password at every request. Here there is one user,
the owner of the state folder (`tasks.core.login`).
"""

from __future__ import annotations

import base64
import binascii
import hmac
import sys
from collections.abc import Iterable
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

from tasks.core import home, login

APP = "colinear"
OPEN = "/health"
"""Says that the server is there, and nothing else."""


class Door:
    """An ASGI application: MLflow's, for those who give the login as HTTP's basic authentication has it."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """401 to whoever does not."""
        if scope["type"] == "lifespan" or scope["path"] == OPEN or self._lets_in(dict(scope["headers"])):
            await self._mlflow(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            headers = [(b"www-authenticate", b'Basic realm="colinear"'), (b"content-type", b"text/plain")]
            await send({"type": "http.response.start", "status": 401, "headers": headers})
            await send({"type": "http.response.body", "body": b"the login is in the file `token` of the state folder"})

    @cached_property
    def _mlflow(self) -> Any:
        from mlflow.server.fastapi_app import app

        return app

    @cached_property
    def _login(self) -> bytes:
        return login.of(home.home()).encode()

    def _lets_in(self, headers: dict[bytes, bytes]) -> bool:
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        try:
            known = hmac.compare_digest(base64.b64decode(given.strip()), self._login)
        except binascii.Error:
            return False
        return known and scheme.lower() == b"basic"


app = Door()


class _Plugin(metadata.Distribution):
    """Says to MLflow, which looks for applications among what is installed, that this is one."""

    def read_text(self, filename: str) -> str | None:
        return {
            "METADATA": "Metadata-Version: 2.1\nName: colinear-mlflow-door\nVersion: 0\n",
            "entry_points.txt": f"[mlflow.app]\n{APP} = tasks.storage.mlflow_door:app\n",
        }.get(filename)

    def locate_file(self, path: Any) -> Path:
        return Path(__file__).with_name(str(path))


class _Finder(metadata.DistributionFinder):
    def find_spec(self, *_: Any) -> None:
        """It has no modules."""

    def find_distributions(self, context: Any = None) -> Iterable[metadata.Distribution]:
        return [_Plugin()] if getattr(context, "name", None) is None else []


def main() -> None:
    """MLflow's own command."""
    sys.meta_path.append(_Finder())  # before MLflow lists its applications
    from mlflow.cli import cli

    cli()


if __name__ == "__main__":
    main()
