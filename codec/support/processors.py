"""Number of processors available to this process: CPU affinity and cgroup quota."""

import os
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")


def available() -> int:
    """At least one; a quota of 1.5 processors counts as one."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        allowed = len(os.sched_getaffinity(0))
    else:
        allowed = os.cpu_count() or 1
    # every parent's quota holds as well: a container's limit is often set on a group above
    for group in _groups():
        quota = _quota(group)
        if quota is not None:
            allowed = min(allowed, int(quota))
    return max(1, allowed)


def _groups() -> list[Path]:
    """The folders of this process's cgroup and its parents, versions 1 and 2."""
    try:
        lines = OWN.read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "" or "cpu" in controllers.split(","):
            root = CGROUPS / controllers
            folder = root / path.lstrip("/")
            while True:
                found.append(folder)
                if folder == root:
                    break
                folder = folder.parent
    return found


def _quota(group: Path) -> float | None:
    """A cgroup's quota in processors; None without a limit."""
    try:
        quota, period = (group / "cpu.max").read_text().split()
    except (OSError, ValueError):  # version 1 has two files instead
        try:
            quota = (group / "cpu.cfs_quota_us").read_text().strip()
            period = (group / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    if quota in ("max", "-1"):
        return None
    return int(quota) / int(period)
