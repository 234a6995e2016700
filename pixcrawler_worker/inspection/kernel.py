"""Calls to the C library and to the Linux kernel for which Python has no function."""

import ctypes
import os
import sys
from typing import Any

LINUX = sys.platform == "linux"
_LIBRARY: Any = ctypes.CDLL(None, use_errno=True)

#: <linux/prctl.h>
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 1, 4, 24, 38, 47
PR_CAP_AMBIENT_CLEAR_ALL = 4


def prctl(option: int, *arguments: int) -> int:
    """Change an attribute of this process (see `man 2 prctl`). Raises OSError when the kernel refuses."""
    return _checked(_LIBRARY.prctl(option, *map(ctypes.c_ulong, (*arguments, 0, 0, 0, 0)[:4])), "prctl")


def system_call(name: str, number: int, *arguments: int | bytes | ctypes.Array[ctypes.c_char] | None) -> int:
    """Make a system call by its number. Raises OSError, with the name in it, when the kernel refuses."""
    passed = [ctypes.c_long(argument) if isinstance(argument, int) else argument for argument in arguments]
    return _checked(_LIBRARY.syscall(ctypes.c_long(number), *passed), name)


def release_memory() -> None:
    """Return memory that is not used to the system (malloc_trim(3), glibc)."""
    if _trim is not None:
        _trim(0)


def hide_memory() -> None:
    """Keep other processes of this user from reading the memory and the environment of this one (Linux).

    What a decode process that was taken over would look for is there: passwords and keys. It also means that there are
    no core dumps, and that debuggers and profilers need the rights of root.
    """
    if LINUX:
        prctl(PR_SET_DUMPABLE, 0)


def _checked(result: int, name: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


#: Looked up at once: in the sandbox, nothing can be loaded any more.
_trim = getattr(_LIBRARY, "malloc_trim", None)
