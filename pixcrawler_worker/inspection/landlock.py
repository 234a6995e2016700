"""Landlock: no path of the file system, no TCP port, and no process outside can be reached (Linux 5.13 and later).

The numbers are those of <linux/landlock.h>; https://docs.kernel.org/userspace-api/landlock.html describes which version
of the interface has which.
"""

import os
import struct

from pixcrawler_worker.inspection import kernel

_CREATE_RULESET, _RESTRICT_SELF = 444, 446  # the same on every architecture
_CREATE_RULESET_VERSION = 1
#: By version of the interface: the bits of what can be forbidden in the file system.
_FILES = {1: 13, 2: 14, 3: 15, 5: 16}
_TCP_FROM, _TCP = 4, 0b11  # binding and connecting
_SCOPES_FROM, _SCOPES = 6, 0b11  # abstract Unix sockets and signals


def forbid_all() -> None:
    """Forbid this process everything that Landlock knows of. What is open already stays usable.

    It holds for the calling thread and what it starts, and needs "no new privileges" or the rights of root.

    Raises:
        OSError: the kernel has no Landlock, or it is not allowed here.
    """
    version = kernel.system_call("landlock_create_ruleset", _CREATE_RULESET, None, 0, _CREATE_RULESET_VERSION)
    files = (1 << max(bits for since, bits in _FILES.items() if since <= version)) - 1
    attributes = struct.pack("=QQQ", files, _TCP, _SCOPES)
    size = 24 if version >= _SCOPES_FROM else 16 if version >= _TCP_FROM else 8
    rules = kernel.system_call("landlock_create_ruleset", _CREATE_RULESET, attributes, size, 0)
    try:
        kernel.system_call("landlock_restrict_self", _RESTRICT_SELF, rules, 0)
    finally:
        os.close(rules)
