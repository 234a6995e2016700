"""Stands in for code that an image has smuggled into the decode process: it tries what such code would want to do.

Run as the program of a decode process: `attempts.py LAYERS LIMITS`. Its request is JSON with what there is to attack;
its response is JSON, by attempt: an empty text when it succeeded, otherwise the error.
"""

# One system call each.
# ruff: noqa: PTH101, PTH102, PTH104, PTH108, PTH123, PTH208, PTH211

import contextlib
import ctypes
import json
import mmap
import os
import resource
import signal
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from typing import Any

from pixcrawler_worker.inspection.__main__ import main
from pixcrawler_worker.inspection.limits import Limits

_LIBRARY: Any = ctypes.CDLL(None, use_errno=True)
_AARCH64 = os.uname().machine == "aarch64"
#: Numbers of system calls on x86_64 and aarch64.
_CALLS = {
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "unshare": (272, 97),
    "io_uring_setup": (425, 425),
    "memfd_create": (319, 279),
    "bpf": (321, 280),
    "userfaultfd": (323, 282),
    "pidfd_open": (434, 434),
    "keyctl": (250, 219),
    "prctl": (157, 167),
}
_PTRACE_SEIZE = 0x4206
_PR_SET_DUMPABLE, _PR_SET_PDEATHSIG = 4, 1
_CLONE_NEWUSER = 0x10000000
_EBADF = 9

Target = dict[str, Any]


def call(name: str, *arguments: Any) -> int:
    """Make a system call."""
    number = _CALLS[name][_AARCH64]
    passed = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    result = int(_LIBRARY.syscall(ctypes.c_long(number), *passed))
    if result < 0:
        raise OSError(ctypes.get_errno(), name)
    return result


def read_environment(target: Target) -> None:
    """Passwords and keys of the worker."""
    with open(f"/proc/{target['pid']}/environ", "rb") as file:
        assert target["secret"].encode() in file.read()


def read_memory(target: Target) -> None:
    """A key in the memory of the worker."""
    descriptor = os.open(f"/proc/{target['pid']}/mem", os.O_RDONLY)
    try:
        assert os.pread(descriptor, len(target["secret"]), target["address"]) == target["secret"].encode()
    finally:
        os.close(descriptor)


def write_memory(target: Target) -> None:
    """Take over the worker by its memory (what is written is what is there)."""
    descriptor = os.open(f"/proc/{target['pid']}/mem", os.O_RDWR)
    try:
        os.pwrite(descriptor, target["secret"].encode(), target["address"])
    finally:
        os.close(descriptor)


def copy_memory(target: Target, name: str = "process_vm_readv") -> None:
    """The same by a system call."""
    size = len(target["secret"])
    content = ctypes.create_string_buffer(target["secret"].encode(), size)
    here = struct.pack("@PN", ctypes.addressof(content), size)
    there = struct.pack("@PN", target["address"], size)
    call(name, target["pid"], here, 1, there, 1, 0)


def overwrite_memory(target: Target) -> None:
    """Likewise."""
    copy_memory(target, "process_vm_writev")


def trace(target: Target) -> None:
    """Control the worker as a debugger does."""
    call("ptrace", _PTRACE_SEIZE, target["pid"], 0, 0)


def list_descriptors_of_worker(target: Target) -> None:
    """Files and connections of the worker."""
    os.listdir(f"/proc/{target['pid']}/fd")
    os.close(os.open(f"/proc/{target['pid']}/fd/0", os.O_RDONLY))


def use_inherited_descriptors(_: Target) -> None:
    """Anything that was open in the worker and is a file or a connection here."""
    for descriptor in range(256):
        try:
            end = os.lseek(descriptor, 0, os.SEEK_CUR)
        except OSError:
            continue
        if descriptor > 2 and end:  # statistics of this process, which it has read
            continue
        try:
            os.ftruncate(descriptor, 0)
        except OSError:
            continue
        return
    raise OSError(_EBADF, "there is none")


def pass_descriptor(_: Target) -> None:
    """One more descriptor in the worker, until it has no more of them."""
    with borrowed() as worker:
        socket.send_fds(worker, [b""], [1])


def send_out_of_band(_: Target) -> None:
    """Data out of the order of the connection to the worker, of which the kernel keeps an account of its own."""
    with borrowed() as worker:
        worker.send(b"x", socket.MSG_OOB)


@contextlib.contextmanager
def borrowed() -> Iterator[socket.socket]:
    """The socket to the worker, which stays open."""
    worker = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno=0)
    try:
        yield worker
    finally:
        worker.detach()


def connect_tcp(target: Target) -> None:
    """The database, or a host that waits for the loot."""
    with socket.socket() as client:
        client.connect(("127.0.0.1", target["port"]))


def send_udp(target: Target) -> None:
    """Likewise by a datagram, as a name server would get one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"loot", ("127.0.0.1", target["port"]))


def connect_unix(target: Target) -> None:
    """A database or Redis on this machine."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(target["unix"])


def connect_abstract(target: Target) -> None:
    """A service in the abstract name space."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect("\0" + target["abstract"])


def listen(_: Target) -> None:
    """A door for others."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()


def read_file(target: Target) -> None:
    """An image of another user, a key file."""
    with open(f"{target['folder']}/kept", "rb") as file:
        assert file.read() == b"kept"


def list_folder(target: Target) -> None:
    """What there is."""
    os.listdir(target["folder"])


def create_file(target: Target) -> None:
    """A file that is run by others later."""
    os.close(os.open(f"{target['folder']}/created", os.O_CREAT | os.O_WRONLY, 0o755))
    os.unlink(f"{target['folder']}/created")


def overwrite_file(target: Target) -> None:
    """Bytes in the middle of a file, which makes it no larger."""
    descriptor = os.open(f"{target['folder']}/overwritten", os.O_RDWR)
    try:
        os.pwrite(descriptor, b"gone", 0)
    finally:
        os.close(descriptor)


def truncate_file(target: Target) -> None:
    """The whole content of a file."""
    os.truncate(f"{target['folder']}/truncated", 0)


def delete_file(target: Target) -> None:
    """A file."""
    os.unlink(f"{target['folder']}/deleted")


def rename_file(target: Target) -> None:
    """One image in place of another."""
    os.rename(f"{target['folder']}/renamed", f"{target['folder']}/renamed-away")


def link_file(target: Target) -> None:
    """A link that leads elsewhere."""
    os.symlink("/etc/passwd", f"{target['folder']}/link")


def create_folder(target: Target) -> None:
    """A folder."""
    os.mkdir(f"{target['folder']}/folder")


def change_mode(target: Target) -> None:
    """Access for everyone."""
    os.chmod(f"{target['folder']}/kept", 0o777)


def run_program(_: Target) -> None:
    """Any program: a shell, a miner."""
    child = os.posix_spawn("/bin/true", ["/bin/true"], {})
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        raise OSError(_EBADF, "it did not run")


def replace_program(_: Target) -> None:
    """The same in place of this process (a path that is not there, since it would be gone)."""
    try:
        os.execv("/nothing", ["/nothing"])
    except FileNotFoundError:
        return


def leave_child(_: Target) -> None:
    """A process that is still there when this one is gone."""
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)


def signal_worker(target: Target) -> None:
    """End the worker (0 only asks whether it could)."""
    os.kill(target["pid"], 0)


def signal_all(_: Target) -> None:
    """End everything that this user runs."""
    os.kill(-1, 0)


def limit_worker(target: Target) -> None:
    """Take the worker its files (the limit is set to what it is)."""
    limits = resource.prlimit(target["pid"], resource.RLIMIT_NOFILE)
    resource.prlimit(target["pid"], resource.RLIMIT_NOFILE, limits)


def open_handle_of_worker(target: Target) -> None:
    """A handle with which descriptors of the worker can be taken."""
    os.close(call("pidfd_open", target["pid"], 0))


def make_code(_: Target) -> None:
    """Memory that can be executed: code of one's own."""
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close()


def make_file_in_memory(_: Target) -> None:
    """A program that is in no file."""
    os.close(call("memfd_create", b"program", 0))


def become_root(_: Target) -> None:
    """All rights again."""
    os.setuid(0)


def enter_namespace(_: Target) -> None:
    """Rights of root in a name space of one's own, where much of the kernel can be reached."""
    child = _fork_by("unshare", _CLONE_NEWUSER)
    if child:
        raise OSError(child, "unshare")


def _fork_by(name: str, argument: int) -> int:
    """Return the error of a call in a child, or in this process when it may have none."""
    child = os.fork()
    if child == 0:
        try:
            call(name, argument)
        except OSError as error:
            os._exit(error.errno or 1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def use_ring(_: Target) -> None:
    """System calls that no filter sees."""
    os.close(call("io_uring_setup", 1, bytes(120)))


def use_bpf(_: Target) -> None:
    """Programs in the kernel."""
    os.close(call("bpf", 0, struct.pack("=4I", 2, 4, 4, 1) + bytes(56), 72))


def handle_page_faults(_: Target) -> None:
    """What many exploits of kernels need."""
    os.close(call("userfaultfd", 1))


def use_keys(_: Target) -> None:
    """The keyring of the user, another part of the kernel that is not needed."""
    call("keyctl", 0, -3, 1)


def show_memory(_: Target) -> None:
    """Let others read what this process has."""
    call("prctl", _PR_SET_DUMPABLE, 1, 0, 0, 0)


def outlive_worker(_: Target) -> None:
    """Do not end with the worker."""
    call("prctl", _PR_SET_PDEATHSIG, 0, 0, 0, 0)
    call("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


ATTEMPTS: dict[str, Callable[[Target], None]] = {
    "read the worker's environment": read_environment,
    "read the worker's memory": read_memory,
    "write the worker's memory": write_memory,
    "read it by a system call": copy_memory,
    "write it by a system call": overwrite_memory,
    "control the worker as a debugger": trace,
    "use the worker's descriptors": list_descriptors_of_worker,
    "take descriptors of the worker": open_handle_of_worker,
    "use inherited descriptors": use_inherited_descriptors,
    "pass a descriptor to the worker": pass_descriptor,
    "send out-of-band data": send_out_of_band,
    "connect to a TCP port": connect_tcp,
    "send a UDP datagram": send_udp,
    "connect to a Unix socket": connect_unix,
    "connect to an abstract socket": connect_abstract,
    "listen on a port": listen,
    "read a file": read_file,
    "list a folder": list_folder,
    "create a file": create_file,
    "overwrite a file": overwrite_file,
    "truncate a file": truncate_file,
    "delete a file": delete_file,
    "rename a file": rename_file,
    "create a link": link_file,
    "create a folder": create_folder,
    "change a file's mode": change_mode,
    "start a program": run_program,
    "replace itself by a program": replace_program,
    "leave a child": leave_child,
    "send signals to the worker": signal_worker,
    "send signals to everything": signal_all,
    "change the worker's limits": limit_worker,
    "make memory executable": make_code,
    "create a file in memory": make_file_in_memory,
    "become root": become_root,
    "enter a user namespace": enter_namespace,
    "use io_uring": use_ring,
    "load a BPF program": use_bpf,
    "handle page faults": handle_page_faults,
    "use keys of the kernel": use_keys,
    "make itself readable": show_memory,
    "outlive the worker": outlive_worker,
}


def attack(body: bytes | None, _operation: int, _parameter: int, _limits: Limits) -> bytes:
    """Return what became of every attempt."""
    target = json.loads(body or b"")
    results = {}
    for name, attempt in ATTEMPTS.items():
        try:
            attempt(target)
        except Exception as error:  # noqa: BLE001 - whatever stops it
            results[name] = f"{type(error).__name__}: {error}"
        else:
            results[name] = ""
    return json.dumps(results).encode()


if __name__ == "__main__":
    main(attack, [layer for layer in sys.argv[1].split(",") if layer])
