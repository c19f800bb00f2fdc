"""Devices that a plan is made for: named, read from nvidia-smi's lines, or this machine's."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.core.errors import InputError
from tasks.planning.machine import GPUS, UNKNOWN_GPU, cpu_peak, here, named, read_gpu, with_peak


def test_gpus_are_named_with_their_number() -> None:
    machine = named(" 8 x h100 ")
    assert (machine.devices, machine.count, machine.memory, machine.peak) == ("8 x H100", 8, 80e9, 989e12)
    assert not machine.local
    assert named("A100-40GB").count == 1
    assert with_peak(machine, 700).peak == 700e12
    assert with_peak(machine, None) == machine


@pytest.mark.parametrize("text", ["", "H101", "0xH100", "8x", "-1xH100", "99999xH100"])
def test_others_are_refused(text: str) -> None:
    with pytest.raises(
        InputError, match=f"^--on {text}: expected a GPU, or a number of one like 8xH100; known: B200, H2"
    ):
        named(text)


@pytest.mark.parametrize(
    ("line", "known"),
    [
        ("NVIDIA H100 80GB HBM3, 81559", "H100"),
        ("NVIDIA H200, 143771", "H200"),
        ("NVIDIA A100-SXM4-80GB, 81920", "A100-80GB"),
        ("NVIDIA A100-PCIE-40GB, 40960", "A100-40GB"),
        ("NVIDIA GeForce RTX 4090, 24564", "RTX4090"),
        ("NVIDIA L40S, 46068", "L40S"),
        ("NVIDIA L4, 23034", "L4"),
    ],
)
def test_a_line_of_nvidia_smi_is_one_of_the_table(line: str, known: str) -> None:
    found = read_gpu(line)
    assert (found.peak, found.bandwidth) == GPUS[known][1:]
    assert found.memory == float(line.rpartition(",")[2]) * 2**20  # as it says, not as the table does


def test_a_gpu_in_no_table_is_assumed_and_says_so() -> None:
    found = read_gpu("Strange GPU 9, 10000")
    assert (found.name, found.peak) == ("Strange GPU 9", UNKNOWN_GPU[0])
    assert found.source == "assumed: in no table (--tflops sets it)"


@pytest.fixture
def fake_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: Path) -> Path:
    """Two GPUs, of which the program that stands for nvidia-smi tells whatever ``answer`` holds."""
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\ncat "{tmp_path}/answer"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    return tmp_path / "answer"


def test_the_smallest_of_this_machine_s_gpus_counts(fake_gpus: Path) -> None:
    fake_gpus.write_text("NVIDIA H100 80GB HBM3, 81559\nNVIDIA L4, 23034\n")
    machine = here()
    assert (machine.name, machine.count, machine.kind) == ("NVIDIA L4", 2, "gpu")
    assert machine.local


def test_gpus_that_say_nothing_are_not_measured(fake_gpus: Path) -> None:
    fake_gpus.write_text("")
    machine = here()
    assert (machine.count, machine.memory) == (2, 0.0)
    assert machine.source == "assumed: nvidia-smi says nothing"


def test_a_cpu_s_slots_share_its_memory(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("COLINEAR_SLOTS", "4")
    machine = here(measure=False)
    assert (machine.kind, machine.count, machine.peak) == ("cpu", 4, 0.0)
    monkeypatch.setenv("COLINEAR_SLOTS", "1")
    from tasks.workers import devices

    devices.slots.cache_clear()
    assert here(measure=False).memory == 4 * machine.memory


def test_a_cpu_s_peak_is_measured() -> None:
    """Between a tenth and a thousand times what 2020's slowest core would do with float32 vectors of 4."""
    assert 1e9 < cpu_peak(1) < 1e13
