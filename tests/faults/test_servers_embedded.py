"""Prefect's embedded server killed while a flow runs: another takes its place, and knows of every task in the end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lab.living import ROOT, SECONDS, environment, left_behind, until

FLOW = """
import json, os, signal, sys, time
from tasks.core import home
home.quiet_environment()
from flows.servers.embedded import own, prepare
from flows.servers.prefect_server import settle
prepare()
from prefect import flow, runtime, task
from prefect.client.orchestration import get_client
server = own()
pids = [server.pid]

@task(task_run_name="{name}")
def step(name):
    if name == "killing":
        os.kill(pids[0], signal.SIGKILL)
    return name

def known():
    with get_client(sync_client=True) as client:
        return [one.state.is_final() for one in client.read_task_runs()]

@flow
def study():
    step("before")
    while known() != [True]:
        time.sleep(0.1)
    step("killing")
    step("after")
    return str(runtime.flow_run.id)

run = study()
settle(run)
pids.append(server.pid)
with get_client(sync_client=True) as client:
    tasks = {one.name: one.state.type.value for one in client.read_task_runs()}
    flows = [one.state.type.value for one in client.read_flow_runs()]
    print(json.dumps([pids, tasks, flows, "fastapi" in sys.modules]))
"""


@pytest.mark.faults
def test_a_killed_embedded_server_is_started_again(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FLOW], cwd=ROOT, env=environment(tmp_path), text=True, capture_output=True,
        timeout=2 * SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (before, after), tasks, flows, server_code = json.loads(done.stdout.splitlines()[-1])
    assert before != after
    assert not server_code  # of the server, imported into the command
    assert tasks == dict.fromkeys(["before", "killing", "after"], "COMPLETED")
    assert flows == ["COMPLETED"]
    until(lambda: not left_behind(tmp_path), 30)
