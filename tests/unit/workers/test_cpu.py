"""What the system says of its processors and its memory, on made-up /proc and control groups."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.workers import cpu

GIB = 2**30


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """10 GiB available; this process is in the group /study/worker."""
    folder = tmp_path / "proc"
    (folder / "self").mkdir(parents=True)
    (folder / "meminfo").write_text(f"MemTotal: {16 * 2**20} kB\nMemAvailable: {10 * 2**20} kB\n")
    (folder / "self" / "cgroup").write_text("0::/study/worker\n")
    return folder


def group(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / name.replace("__", ".")).write_text(f"{value}\n")


def test_without_a_limit_it_is_what_the_system_has(proc: Path, tmp_path: Path) -> None:
    group(tmp_path / "cgroup" / "study" / "worker", memory__max="max", memory__current=3 * GIB)
    assert cpu.free_memory(proc, tmp_path / "cgroup") == 10 * GIB


def test_the_tightest_group_above_counts(proc: Path, tmp_path: Path) -> None:
    """8 - 5 GiB, of which 1 GiB are pages that can be dropped, in the parent; 6 - 1 in the process's own: 4 GiB."""
    root = tmp_path / "cgroup"
    group(root / "study", memory__max=8 * GIB, memory__current=5 * GIB, memory__stat=f"anon 7\ninactive_file {GIB}")
    group(root / "study" / "worker", memory__max=6 * GIB, memory__current=GIB)
    assert cpu.free_memory(proc, root) == 4 * GIB


def test_the_older_version_of_groups(proc: Path, tmp_path: Path) -> None:
    """A limit of 2^63 - 4096 is how that version says none."""
    root = tmp_path / "cgroup"
    (proc / "self" / "cgroup").write_text("3:cpu:/elsewhere\n5:memory:/jobs\n")
    group(root / "memory", memory__limit_in_bytes=2**63 - 4096, memory__usage_in_bytes=0)
    group(root / "memory" / "jobs", memory__limit_in_bytes=2 * GIB, memory__usage_in_bytes=GIB // 2)
    assert cpu.free_memory(proc, root) == 1.5 * GIB


def test_a_container_sees_its_group_as_the_root(proc: Path, tmp_path: Path) -> None:
    root = tmp_path / "cgroup"
    (proc / "self" / "cgroup").write_text("0::/\n")
    group(root, memory__max=3 * GIB, memory__current=GIB)
    assert cpu.free_memory(proc, root) == 2 * GIB


def test_a_processor_s_flags(tmp_path: Path) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text(
        "processor\t: 0\nmodel name\t: X\nflags\t\t: fpu avx512_bf16 amx_tile\n\nprocessor\t: 1\nflags\t: fpu\n"
    )
    assert cpu.flags(file) == {"fpu", "avx512_bf16", "amx_tile"}
    assert cpu.flags(tmp_path / "none") == set()


def test_processes_that_the_system_killed_for_memory(tmp_path: Path) -> None:
    (tmp_path / "vmstat").write_text("nr_free_pages 1\noom_kill 12\n")
    assert cpu.ended_for_memory(tmp_path) == 12
    assert cpu.ended_for_memory(tmp_path / "none") == -1
