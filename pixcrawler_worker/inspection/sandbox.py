"""What the decode process gives up before it opens the first untrusted bytes.

Each layer is used where the machine offers it, and none is needed for the others: what one lets through, another stops.
`docs/security.md` shows which stops what.
"""

import ctypes
import os
import resource
import signal
import struct
from collections.abc import Callable, Iterable

from pixcrawler_worker.inspection import extras, kernel, landlock, seccomp
from pixcrawler_worker.inspection.limits import Limits

#: Descriptors that may be open: standard input to error, the socket, and files that come through it.
_MAX_DESCRIPTORS = 16
#: Threads and processes that a user may have when a decoder starts threads: those of other programs are among them.
_MAX_THREADS = 4_096
#: The user and group `nobody`, which own no file.
_NOBODY = 65534
#: Of <linux/capability.h>: the version of the interface, and more than the highest number.
_CAPABILITY_VERSION, _MAX_CAPABILITIES = 0x20080522, 64
_CAPSET = {"x86_64": 126, "aarch64": 91}


def confine(limits: Limits, layers: Iterable[str] | None = None) -> dict[str, str]:
    """Give up all rights of this process that opening images does not need.

    Everything that it will use must be imported and open by now. It must have one thread only.

    Args:
        limits: what an image may take.
        layers: names of those to use, all by default.

    Returns:
        By layer, in their order: an empty text when it is in force, otherwise why it is not.
    """
    wanted = frozenset(_LAYERS if layers is None else layers)
    return {name: _use(layer, limits) for name, layer in _LAYERS.items() if name in wanted}


def die_with_parent() -> None:
    """Let the kernel end this process with the thread that started it; elsewhere than on Linux, its socket has to."""
    if kernel.LINUX:
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)


def _use(layer: Callable[[Limits], None], limits: Limits) -> str:
    try:
        layer(limits)
    except (OSError, ValueError, NotImplementedError) as error:
        return str(error.strerror or error) if isinstance(error, OSError) else str(error)
    return ""


def _limit_resources(limits: Limits) -> None:
    """Allow no more memory than the limits, no core dump, no growing file, no process, few descriptors."""
    for name, most in (
        ("RLIMIT_CORE", 0),
        ("RLIMIT_FSIZE", 0),
        ("RLIMIT_NPROC", _MAX_THREADS if _needs_threads() else 0),
        ("RLIMIT_NOFILE", _MAX_DESCRIPTORS),
        ("RLIMIT_MSGQUEUE", 0),
        ("RLIMIT_MEMLOCK", 0),
    ):
        if (number := getattr(resource, name, None)) is not None:
            _lower(number, most)
    if kernel.LINUX:  # macOS has the limit but rejects setting it
        _lower(resource.RLIMIT_AS, limits.memory_bytes)


def _lower(number: int, most: int) -> None:
    """Set a limit of this process for good; what it may not exceed already is not raised."""
    _, highest = resource.getrlimit(number)
    lowered = most if highest == resource.RLIM_INFINITY else min(most, highest)
    resource.setrlimit(number, (lowered, lowered))


def _change_user(_: Limits) -> None:
    """Where the worker runs as root: become a user who owns nothing."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(_NOBODY)
        os.setuid(_NOBODY)
        die_with_parent()  # which a change of the user undoes


def _drop_capabilities(_: Limits) -> None:
    """Give up every right of root that is not bound to its number."""
    _need_linux()
    for capability in range(_MAX_CAPABILITIES):
        try:
            kernel.prctl(kernel.PR_CAPBSET_DROP, capability)
        except OSError:  # it has none that could be passed on, or there is no such capability
            break
    kernel.prctl(kernel.PR_CAP_AMBIENT, kernel.PR_CAP_AMBIENT_CLEAR_ALL)
    number = _CAPSET.get(os.uname().machine)
    if number is None:
        raise NotImplementedError(f"not supported on {os.uname().machine}")
    header = struct.pack("=Ii", _CAPABILITY_VERSION, 0)
    kernel.system_call("capset", number, header, ctypes.create_string_buffer(24))


def _hide_memory(_: Limits) -> None:
    _need_linux()
    kernel.hide_memory()


def _forbid_new_privileges(_: Limits) -> None:
    """Gain no rights by starting a program (which seccomp and Landlock need)."""
    _need_linux()
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)


def _use_landlock(_: Limits) -> None:
    _need_linux()
    landlock.forbid_all()


def _use_seccomp(_: Limits) -> None:
    _need_linux()
    seccomp.forbid_all_but_computing(threads=_needs_threads())


def _needs_threads() -> bool:
    """Return whether a decoder is installed that starts a thread for each image, whatever it is asked for (libde265).

    They count as processes of the user, of which there are others.
    """
    return extras.decoder("heic") is not None


def _need_linux() -> None:
    if not kernel.LINUX:
        raise NotImplementedError("only Linux has it")


#: In the order in which they are used: each one may keep what comes after it from being changed.
_LAYERS: dict[str, Callable[[Limits], None]] = {
    "resource limits": _limit_resources,
    "user": _change_user,
    "capabilities": _drop_capabilities,
    "hidden memory": _hide_memory,
    "no new privileges": _forbid_new_privileges,
    "landlock": _use_landlock,
    "seccomp": _use_seccomp,
}

#: Their names.
LAYERS = tuple(_LAYERS)
