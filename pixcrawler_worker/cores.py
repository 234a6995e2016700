"""How many cores this process may use: those of the machine that its affinity and the quota of its container leave."""

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def available(root: Path = Path("/")) -> int:
    """Return how many cores this process may use; one for a part of one.

    Args:
        root: where the system's files are.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([cores, *map(math.ceil, _quotas(root))]))


def _quotas(root: Path) -> Iterator[float]:
    """Yield how much time each control group of this process may use, in seconds of cores in a second.

    See cgroups(7) and, of the kernel's documentation, `cgroup-v2` for `cpu.max` and `sched-bwc` for version 1.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):  # there is none: it is no Linux
        return
    for _, controllers, name in (line.split(":", 2) for line in lines if line.count(":") > 1):
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
        # All groups above limit it as well. Where the name is one that the container does not see, its own is the top.
        group = PurePosixPath(name)
        for folder in (group, *group.parents):
            quota = _quota(mount / str(folder).lstrip("/"), version=1 if controllers else 2)
            if quota is not None:
                yield quota


def _quota(group: Path, *, version: int) -> float | None:
    """Return the quota of one group; None when it has none."""
    try:
        if version == 1:
            allowed, period = (group / "cpu.cfs_quota_us").read_text(), (group / "cpu.cfs_period_us").read_text()
        else:
            allowed, period = (group / "cpu.max").read_text().split()
        quota = float(allowed) / float(period)
    except (OSError, ValueError, ZeroDivisionError):  # "max" is no number
        return None
    return quota if quota > 0 and math.isfinite(quota) else None
