"""How many connections a process may have: the system bounds its open files, and connections are files."""

import errno
import resource
from dataclasses import dataclass

#: Files besides connections to hosts: database, Redis, storage, decoder, event loop, libraries.
_OTHERS = 200
#: What the soft limit is raised to, where the hard limit allows it.
_ENOUGH = 65_536
#: Connections at a time: enough to hide the latency of hosts.
_MAX_OPEN = 256
#: Connections that are kept for the next request.
_MAX_IDLE = 512

#: Errors that say that this machine or process is out of something, and nothing about the other side.
OWN_LIMITS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


@dataclass(frozen=True, slots=True)
class Room:
    """Connections that fit below the limit of open files.

    Attributes:
        open: with a request under way.
        idle: kept for the next request.
    """

    open: int
    idle: int


def room() -> Room:
    """Raise the soft limit of open files as far as is useful and allowed, and return what fits below it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _ENOUGH if hard == resource.RLIM_INFINITY else min(hard, _ENOUGH)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError):
            # Not everywhere does the hard limit say what is allowed: macOS has another one besides.
            pass
        else:
            soft = wanted
    files = _ENOUGH if soft == resource.RLIM_INFINITY else soft
    # A third for connections that are looked up and opened at this moment.
    part = max(8, (files - _OTHERS) // 3)
    return Room(min(_MAX_OPEN, part), min(_MAX_IDLE, part))


def is_own_limit(error: BaseException | None) -> bool:
    """Return whether an error, or one that caused it, says that this process or machine is out of something."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and error.errno in OWN_LIMITS:
            return True
        error = error.__cause__ or error.__context__
    return False
