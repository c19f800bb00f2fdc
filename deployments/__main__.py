"""``python -m deployments``: everything that a Prefect server needs of colinear, made or brought up to date.

The work pools, every deployment of ``prefect.yaml`` and the automations, on the server that ``PREFECT_API_URL`` names.
It needs no checkout: ``prefect.yaml`` is the installed one. Reports go under ``runs/`` of the folder it is started in
(which workers of ``colinear-process`` need, too). ``COLINEAR_WEBHOOK``: where messages about runs are posted.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from deployments.deploy import FILE
from deployments.pools import make_pools
from flows.servers.automations import register
from tasks.core import home
from tasks.core.errors import InputError


def deploy() -> int:
    """Exit code of Prefect's own command. Raises `InputError` where no server is named."""
    if not os.environ.get("PREFECT_API_URL"):
        raise InputError("PREFECT_API_URL: not set; name the server to deploy to, such as http://127.0.0.1:4200/api")
    home.quiet_environment()
    print(f"work pools: {', '.join(make_pools())}", flush=True)
    print(f"automations: {', '.join(register(os.environ.get('COLINEAR_WEBHOOK') or None))}", flush=True)
    words = ["-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(FILE)]
    # $PWD is where runs work; a service manager or `subprocess` with another folder leaves it as it was, or unset.
    return subprocess.run([sys.executable, *words], env={**os.environ, "PWD": str(Path.cwd())}, check=False).returncode


def main() -> int:
    """Deploy; bad input is one line and exit code 2."""
    try:
        return deploy()
    except InputError as error:
        print(f"deployments: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
