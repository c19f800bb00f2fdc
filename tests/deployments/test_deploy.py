"""``deployments/``: what is written follows the presets, and Prefect's own command deploys it to a real server."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import yaml

from deployments.deploy import FILE, text
from deployments.pools import POOLS, with_gpus
from tasks.settings.presets import preset
from tasks.settings.study import build
from tests.lab.living import ROOT, SECONDS, Ui, environment


def test_the_file_is_that_of_the_presets() -> None:
    assert FILE.read_text(encoding="utf-8") == text(), "run python -m deployments.deploy"


def test_every_nightly_schedule_is_a_whole_study_with_its_own_seed() -> None:
    [tiny] = [one for one in yaml.safe_load(FILE.read_text())["deployments"] if one["name"] == "tiny-process"]
    assert [one["cron"] for one in tiny["schedules"]] == [f"0 2 * * {day}" for day in (1, 2, 3, 4, 5)]
    specs = [build(one["parameters"]["spec"]) for one in tiny["schedules"]]
    assert [spec.seed for spec in specs] == [1, 2, 3, 4, 5]
    assert all(spec == build(preset("tiny") | {"seed": spec.seed}) for spec in specs)
    assert not any(one["active"] for one in tiny["schedules"])


def test_gpus_are_put_into_the_templates_and_nothing_else_is_changed() -> None:
    pod: dict[str, Any] = {"resources": {"limits": {"cpu": "{{ cpu_limit }}"}}}
    manifest = {"spec": {"template": {"spec": {"containers": [pod]}}}}
    template = {"job_configuration": {"job_manifest": manifest}, "variables": {"properties": {"image": {}}}}
    changed = with_gpus("kubernetes", template)
    container = changed["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]["containers"][0]
    assert container["resources"]["limits"] == {"cpu": "{{ cpu_limit }}", "nvidia.com/gpu": "{{ gpus }}"}
    assert set(changed["variables"]["properties"]) == {"image", "gpus"}
    assert pod["resources"]["limits"] == {"cpu": "{{ cpu_limit }}"}
    assert with_gpus("process", template) == template


def test_prefect_deploys_all_of_it_to_the_three_pools(ui: Ui) -> None:
    addresses = {"PREFECT_API_URL": f"{ui.prefect}/api", "MLFLOW_TRACKING_URI": "http://tracking:5000"}
    settings = environment(ui.home, PREFECT_API_AUTH_STRING=ui.login, **addresses)
    for words in (
        ["-m", "deployments.pools"],
        ["-m", "deployments.pools"],  # they are there already
        ["-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(FILE)],
    ):
        done = subprocess.run(
            [sys.executable, *words], cwd=ROOT, env=settings, capture_output=True, text=True, timeout=2 * SECONDS
        )
        assert done.returncode == 0, done.stdout + done.stderr
    written = {one["name"]: one for one in yaml.safe_load(FILE.read_text())["deployments"]}
    deployed = {one["name"]: one for one in ui.ask("/deployments/filter", {}) if one["work_pool_name"]}
    assert set(deployed) == set(written)
    assert {one["work_pool_name"] for one in deployed.values()} == {pool.name for pool in POOLS}
    for name, one in deployed.items():
        assert one["entrypoint"] == written[name]["entrypoint"]
        assert one["parameters"] == written[name]["parameters"]
        assert sorted(schedule["slug"] for schedule in one["schedules"]) == sorted(
            schedule["slug"] for schedule in written[name]["schedules"]
        )
        assert not any(schedule["active"] for schedule in one["schedules"])
    docker = deployed["tiny-docker"]["job_variables"]
    assert docker["env"]["MLFLOW_TRACKING_URI"] == "http://tracking:5000"
    assert docker["container_create_kwargs"]["device_requests"][0]["capabilities"] == [["gpu"]]
    kubernetes = ui.ask("/work_pools/colinear-kubernetes")["base_job_template"]
    limits = kubernetes["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]["containers"][0]["resources"]
    assert limits["limits"]["nvidia.com/gpu"] == "{{ gpus }}"
    assert deployed["tiny-kubernetes"]["job_variables"]["gpus"] == 1
