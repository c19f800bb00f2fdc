"""Keys and passwords of the environment: kept out of messages, logs and records. It imports nothing of colinear.

A secret is the value of a variable whose name says so (`NAMES`), the password within a URL, whatever the variable, and
what was handed to `keep` (an endpoint's key). MLflow and Prefect repeat their servers' URLs in their own errors: so
user and password are taken out of these two URLs before either is imported (`guard`), and given in the variables that
both have for them.
"""

from __future__ import annotations

import logging
import os
import re
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

NAMES = re.compile(
    r"(^|_)(KEY|APIKEY|TOKEN|SECRET|SECRETS|PASSWORD|PASSWD|PASSPHRASE|PWD|CREDENTIALS?|AUTH|AUTH_STRING)$"
)
"""Of variables whose value is a secret."""
NOT_SECRET = ("PWD", "OLDPWD")
SHORTEST = 5
"""Characters. A shorter value is no secret, and to hide it would spoil words."""
HIDDEN = "***"

_kept: set[str] = set()


def keep(secret: str) -> None:
    """Hide ``secret`` from now on, whatever its variable is called."""
    _kept.add(secret)


def secrets() -> list[str]:
    """Every secret of this process, the longest first."""
    found = set(_kept)
    for name, value in os.environ.items():
        if NAMES.search(name.upper()) and name not in NOT_SECRET:
            found.add(value)
            if name.upper().endswith("AUTH_STRING"):  # Prefect's user:password
                found.add(value.partition(":")[2])
        if "://" in value and "@" in value:
            found.update(_passwords(value))
    return sorted((one for one in found if len(one) >= SHORTEST), key=len, reverse=True)


def _passwords(uri: str) -> list[str]:
    try:
        password = urlsplit(uri).password
    except ValueError:
        return []
    return [] if password is None else [password, unquote(password)]


def redact(text: str) -> str:
    """``text`` without any secret, and without the ``user:password@`` of any URI."""
    text = without_password(text)
    for secret in secrets():
        text = text.replace(secret, HIDDEN)
    return text


def without_password(text: str) -> str:
    """``text`` with every ``user:password@host`` of a URI in it cut down to the host."""
    text = re.sub(r"(?<=://)[^/?#\s]*@", "", text)
    # SQLAlchemy takes a database's password as it is, also with / ? # in it.
    return re.sub(r"(?<![\w+])((?!https?:)[a-z][\w+]*://)[^\s@:/]*:[^\s@]*@", r"\1", text)


def guard() -> None:
    """Take user and password out of the servers' URLs, and let no log record hold a secret. May be called again."""
    for variable, given in (("MLFLOW_TRACKING_URI", _for_mlflow), ("PREFECT_API_URL", _for_prefect)):
        uri = os.environ.get(variable, "")
        if uri.startswith(("http://", "https://")) and without_password(uri) != uri:
            try:
                parts = urlsplit(uri)
            except ValueError:
                continue
            os.environ[variable] = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
            os.environ.update(given(unquote(parts.username or ""), unquote(parts.password or "")))
    factory = logging.getLogRecordFactory()
    if not isinstance(factory, _Redacting):
        logging.setLogRecordFactory(_Redacting(factory))


def _for_mlflow(user: str, password: str) -> dict[str, str]:
    return {"MLFLOW_TRACKING_USERNAME": user, "MLFLOW_TRACKING_PASSWORD": password}


def _for_prefect(user: str, password: str) -> dict[str, str]:
    return {"PREFECT_API_AUTH_STRING": f"{user}:{password}"}


class _Redacting:
    """Makes log records whose message and traceback hold no secret, before any handler (a file, Prefect's API) has
    them."""

    def __init__(self, factory: Any) -> None:
        self._factory = factory

    def __call__(self, *arguments: Any, **more: Any) -> logging.LogRecord:
        record: logging.LogRecord = self._factory(*arguments, **more)
        try:
            said = record.getMessage()
        except Exception:  # a message that does not fit its arguments: logging itself complains of it
            return record
        if (safe := redact(said)) != said:
            record.msg, record.args = safe, ()
        if isinstance(record.exc_info, tuple) and record.exc_info[0] is not None:
            told = logging.Formatter().formatException(record.exc_info)
            if (safe := redact(told)) != told:
                record.exc_text = safe  # what formatters take in place of their own
        return record
