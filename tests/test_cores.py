"""The cores that a process may use, by the files that containers have."""

import os
from pathlib import Path

import pytest

from pixcrawler_worker import cores

MACHINE = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def written(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"proc/self/cgroup": "0::/\n"},
        {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"},
        {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "999999900000 100000\n"},
        {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000\n"},
        {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 0\n"},
        {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "nan 100000\n"},
        {
            "proc/self/cgroup": "3:cpu,cpuacct:/\n0::/\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
        # Of another controller, whose name begins like it.
        {
            "proc/self/cgroup": "3:cpuset:/a\n",
            "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "10000\n",
            "sys/fs/cgroup/cpu/a/cpu.cfs_period_us": "100000\n",
        },
    ],
)
def test_without_a_quota_all_cores_count_that_the_affinity_allows(tmp_path: Path, files: dict[str, str]) -> None:
    assert cores.available(written(tmp_path, files)) == MACHINE


@pytest.mark.parametrize(
    "files",
    [
        # In a container with a namespace of its own, under Docker or Kubernetes.
        {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"},
        # A service of systemd, limited itself or by its slice.
        {"proc/self/cgroup": "0::/a.slice/b.service\n", "sys/fs/cgroup/a.slice/b.service/cpu.max": "1000 100000\n"},
        {
            "proc/self/cgroup": "0::/a.slice/b.service\n",
            "sys/fs/cgroup/a.slice/b.service/cpu.max": "max 100000\n",
            "sys/fs/cgroup/a.slice/cpu.max": "100000 100000\n",
        },
        # Version 1: the name is that of the host, and the group is mounted as the top.
        {
            "proc/self/cgroup": "9:name=systemd:/docker/1a\n3:cpu,cpuacct:/docker/1a\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "100000\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
    ],
)
def test_the_quota_of_a_container_counts_and_a_part_of_a_core_is_one(tmp_path: Path, files: dict[str, str]) -> None:
    assert cores.available(written(tmp_path, files)) == 1


def test_a_quota_is_rounded_up(tmp_path: Path) -> None:
    root = written(tmp_path, {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "120000 100000\n"})
    assert cores.available(root) == min(2, MACHINE)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system has no affinity")
def test_the_affinity_counts() -> None:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, [min(before)])
    try:
        assert cores.available() == 1
    finally:
        os.sched_setaffinity(0, before)
