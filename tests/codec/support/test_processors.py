"""Workers are counted by what this process may use, not by what the machine has."""

import os
from pathlib import Path

import pytest

from codec.support import processors


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Eight processors, and control groups below a folder."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(processors, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(processors, "OWN", tmp_path / "own")
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_without_control_groups_affinity_counts(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert processors.available() == 8
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {5})
    assert processors.available() == 1


@pytest.mark.parametrize(("quota", "count"), [("max 100000", 8), ("350000 100000", 3), ("50000 100000", 1)])
def test_the_quota_of_a_group_or_of_one_above_it_counts(machine: Path, quota: str, count: int) -> None:
    write(machine / "own", "0::/pods/pod/container\n")
    write(machine / "cgroup" / "pods" / "cpu.max", quota + "\n")
    write(machine / "cgroup" / "pods" / "pod" / "container" / "cpu.max", "max 100000\n")
    assert processors.available() == count


def test_the_quota_of_the_first_version_of_control_groups_counts(machine: Path) -> None:
    write(machine / "own", "4:cpu,cpuacct:/docker/x\n3:memory:/docker/x\n")
    group = machine / "cgroup" / "cpu,cpuacct" / "docker" / "x"
    write(group / "cpu.cfs_quota_us", "200000\n")
    write(group / "cpu.cfs_period_us", "100000\n")
    assert processors.available() == 2
    write(group / "cpu.cfs_quota_us", "-1\n")
    assert processors.available() == 8
