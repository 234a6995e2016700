"""Seccomp: the few system calls that a process needs that only computes and answers on an open socket (Linux).

There is no opening of files, no socket, no process, no signal to others, and no memory that becomes
executable among them. Whatever is not in the list fails with EPERM; a call of another architecture ends the process.
"""

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pixcrawler_worker.inspection import kernel

#: <linux/audit.h>: how the kernel names the architecture of a call.
_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
#: By name: the numbers on x86_64 and aarch64 (asm/unistd_64.h, asm-generic/unistd.h).
ALLOWED: Mapping[str, tuple[int, int]] = {
    # The socket, the files that come through it, and what was open before.
    "read": (0, 63),
    "write": (1, 64),
    "pread64": (17, 67),
    "lseek": (8, 62),
    "close": (3, 57),
    # Memory.
    "brk": (12, 214),
    "munmap": (11, 215),
    "mremap": (25, 216),
    "madvise": (28, 233),
    # Time, and what a process may know of itself.
    "clock_gettime": (228, 113),
    "gettimeofday": (96, 169),
    "nanosleep": (35, 101),
    "clock_nanosleep": (230, 115),
    "getrusage": (98, 165),
    "getpid": (39, 172),
    "gettid": (186, 178),
    "getrandom": (318, 278),
    "sched_yield": (24, 124),
    # Locks, signal handlers, and the end.
    "futex": (202, 98),
    "set_robust_list": (273, 99),
    "rseq": (334, 293),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132),
    "restart_syscall": (219, 128),
    "exit": (60, 93),
    "exit_group": (231, 94),
}
#: Data out of the order of a stream: no socket here has any, and the code for it in the kernel has had exploited bugs.
_MSG_OOB = 1
_PROT_EXEC = 4
_CLONE_THREAD = 0x10000
_CLONE3 = 435  # on every architecture

_SECCOMP = (317, 277)
_SET_MODE_FILTER = 1
#: For all threads. And without the mitigation of Spectre variant 4 that kernels before 5.16 add to a filter: it costs
#: several percent, and there is nothing in this process that one part of it has to keep from another.
_FLAGS = 1 | 4

#: <linux/bpf_common.h>, <linux/seccomp.h>
_LOAD, _JUMP_IF_EQUAL, _JUMP_IF_ANY, _RETURN = 0x20, 0x15, 0x45, 0x06
_ALLOW, _KILL_PROCESS = 0x7FFF0000, 0x80000000
_FAIL, _NOT_THERE = 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS
#: Offsets in the data of a call that the filter sees (little-endian, as both architectures are).
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16


@dataclass(frozen=True, slots=True)
class Condition:
    """A call that is allowed with some values of one argument.

    Attributes:
        numbers: on x86_64 and aarch64.
        argument: its place.
        equal: the only value that is allowed, below 2**32; `OWN` is the id of this process.
        without: bits that must not be set, instead.
        having: bits of which one must be set, instead.
    """

    numbers: tuple[int, int]
    argument: int
    equal: int = 0
    without: int = 0
    having: int = 0


#: The id of the process that is confined, as a value of an argument.
OWN = -1
#: By name, as `ALLOWED`: the calls that are allowed with some values only.
CONDITIONS: Mapping[str, Condition] = {
    "sendto": Condition((44, 206), argument=3, without=_MSG_OOB),
    "recvfrom": Condition((45, 207), argument=3, without=_MSG_OOB),
    "recvmsg": Condition((47, 212), argument=2, without=_MSG_OOB),
    "mmap": Condition((9, 222), argument=2, without=_PROT_EXEC),
    "mprotect": Condition((10, 226), argument=2, without=_PROT_EXEC),
    "prlimit64": Condition((302, 261), argument=0, equal=0),  # of this process
    "tgkill": Condition((234, 131), argument=0, equal=OWN),  # abort(3)
    "clone": Condition((56, 220), argument=0, having=_CLONE_THREAD),  # where threads are allowed
}


def forbid_all_but_computing(*, threads: bool) -> None:
    """Let this process make no system call but those above, from now on.

    It needs "no new privileges" or the rights of root, and can't be undone.

    Args:
        threads: whether it may start threads.

    Raises:
        OSError: the kernel has no seccomp filters, or they are not allowed here.
        NotImplementedError: on another architecture than x86_64 and aarch64.
    """
    machine = platform.machine()
    if machine not in _ARCHITECTURES:
        raise NotImplementedError(f"there is no list of system calls for {machine}")
    place, architecture = _ARCHITECTURES[machine]
    numbers = [pair[place] for pair in ALLOWED.values()]
    conditions = [condition for name, condition in CONDITIONS.items() if threads or name != "clone"]
    program = _program(architecture, numbers, conditions, place)
    instructions = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog: the number of instructions, and where they are.
    description = struct.pack("@HP", len(program) // 8, ctypes.addressof(instructions))
    kernel.system_call("seccomp", _SECCOMP[place], _SET_MODE_FILTER, _FLAGS, description)


def _program(architecture: int, numbers: Iterable[int], conditions: Iterable[Condition], place: int) -> bytes:
    """Return the filter in the kernel's form: a list of tests, the first that matches decides."""
    program = _load(_ARCHITECTURE) + _jump(_JUMP_IF_EQUAL, architecture, skip=1) + _return(_KILL_PROCESS)
    program += _load(_NUMBER)
    for number in numbers:
        program += _jump(_JUMP_IF_EQUAL, number, otherwise=1) + _return(_ALLOW)
    for condition in conditions:
        test = _test(condition)
        program += _jump(_JUMP_IF_EQUAL, condition.numbers[place], otherwise=len(test) // 8) + test
    # The C library tries this one first, whose flags no filter can see, and then that of the conditions.
    program += _jump(_JUMP_IF_EQUAL, _CLONE3, otherwise=1) + _return(_NOT_THERE)
    return program + _return(_FAIL)


def _test(condition: Condition) -> bytes:
    """Return what allows a call by its argument; it always decides."""
    low = _ARGUMENTS + 8 * condition.argument
    if condition.having:
        return _load(low) + _jump(_JUMP_IF_ANY, condition.having, otherwise=1) + _return(_ALLOW) + _return(_FAIL)
    if condition.without:
        return _load(low) + _jump(_JUMP_IF_ANY, condition.without, skip=1) + _return(_ALLOW) + _return(_FAIL)
    return (
        _load(low)
        + _jump(_JUMP_IF_EQUAL, os.getpid() if condition.equal == OWN else condition.equal, otherwise=3)
        + _load(low + 4)
        + _jump(_JUMP_IF_EQUAL, 0, otherwise=1)
        + _return(_ALLOW)
        + _return(_FAIL)
    )


def _load(offset: int) -> bytes:
    return struct.pack("=HBBI", _LOAD, 0, 0, offset)


def _jump(test: int, value: int, *, skip: int = 0, otherwise: int = 0) -> bytes:
    """Return an instruction that skips so many others when the test holds, or `otherwise` of them when it does not."""
    return struct.pack("=HBBI", test, skip, otherwise, value)


def _return(action: int) -> bytes:
    return struct.pack("=HBBI", _RETURN, 0, 0, action)
