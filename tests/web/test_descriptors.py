"""The limit of open files, each time in a process of its own: it cannot be raised again."""

import errno
import json
import subprocess
import sys

import pytest

from pixcrawler_worker.web import descriptors

_SCRIPT = """
import json, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), int(sys.argv[2])))
from pixcrawler_worker.web import descriptors
room = descriptors.room()
print(json.dumps([room.open, room.idle, resource.getrlimit(resource.RLIMIT_NOFILE)[0]]))
"""


def measured(soft: int, hard: int) -> tuple[int, int, int]:
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, str(soft), str(hard)], capture_output=True, text=True, check=True
    )
    opened, idle, now = json.loads(done.stdout)
    return opened, idle, now


@pytest.mark.parametrize(("soft", "hard"), [(64, 64), (256, 256), (1024, 1024)])
def test_connections_fit_below_a_limit_that_cannot_be_raised(soft: int, hard: int) -> None:
    opened, idle, now = measured(soft, hard)
    assert now == soft
    assert opened >= 8
    assert idle >= 8
    assert opened + idle <= max(16, soft - 200)


def test_the_soft_limit_is_raised_where_that_is_allowed() -> None:
    assert measured(256, 4096) == (256, 512, 4096)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
def test_errors_of_this_machine_are_recognized_below_others(number: int) -> None:
    inner, outer = OSError(number, "full"), ValueError("outer")
    outer.__cause__ = inner
    assert descriptors.is_own_limit(inner)
    assert descriptors.is_own_limit(outer)


@pytest.mark.parametrize(
    "error", [OSError(errno.ECONNREFUSED, "refused"), OSError(errno.EADDRNOTAVAIL, "no IPv6"), ValueError(), None]
)
def test_others_are_not(error: Exception | None) -> None:
    assert not descriptors.is_own_limit(error)


def test_errors_that_cause_each_other_end() -> None:
    one, other = ValueError(), ValueError()
    one.__cause__, other.__cause__ = other, one
    assert not descriptors.is_own_limit(one)
