"""The decode process: `python -m pixcrawler_worker.inspection LIMITS`, with a socket as its standard input."""

import ctypes
import gc
import json
import logging
import os
import resource
import signal
import socket
import sys
import traceback
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from pixcrawler_worker.domain.reasons import Reason, RejectedError
from pixcrawler_worker.inspection import framing
from pixcrawler_worker.inspection.framing import Operation
from pixcrawler_worker.inspection.inspector import convert, inspect_bytes, measure_bytes, thumbnail
from pixcrawler_worker.inspection.limits import Limits, OutOfMemoryError

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>

#: Says that this process has started once before, and that the worker knows that it is ready.
_AGAIN = "again"
#: Address space that may stay with the process between two images.
_MAX_KEPT_BYTES = 32_000_000

#: One white pixel, opened before any untrusted bytes: a process that cannot open this must not report that it is ready.
_FIRST = b"GIF89a\1\0\1\0\x80\0\0\xff\xff\xff\0\0\0,\0\0\0\0\1\0\1\0\0\2\2D\1\0;"


def main() -> None:
    """Answer requests until the worker closes its end, or is gone."""
    if os.environ.get("PIXCRAWLER_LOG_FORMAT") == "json":
        sys.excepthook = _print_as_json
    limits = Limits(**json.loads(sys.argv[1]))
    with socket.socket(fileno=sys.stdin.fileno()) as worker:
        _die_with_worker()
        _limit_resources(limits)
        inspect_bytes(_FIRST, limits)
        _silence_decoders()
        gc.freeze()  # what is imported stays: no collection has to look at it again
        memory = _Memory(limits)
        if _AGAIN not in sys.argv:
            worker.sendall(framing.frame(b""))
        while (request := _receive(worker)) is not None:
            _limit_cpu(limits.seconds)
            memory.allow(request[1])
            worker.sendall(framing.frame(_response(*request, limits)))
            del request
            memory.reclaim()


def _print_as_json(kind: type[BaseException], error: BaseException, found: TracebackType | None) -> None:
    """Print an error as one line, for a log in which each line is JSON."""
    entry = {
        "event": "the image decoder failed",
        "level": "error",
        "logger": __package__,
        "timestamp": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
        "exception": "".join(traceback.format_exception(kind, error, found)),
    }
    sys.stderr.write(f"{json.dumps(entry)}\n")
    sys.stderr.flush()


class _Memory:
    """The address space of this process: more while it converts images than while it looks at them."""

    def __init__(self, limits: Limits) -> None:
        self._begun_with = _address_space()
        self._converting = limits.memory_bytes
        self._decoding = min(self._begun_with + limits.decoding_bytes, limits.memory_bytes)
        self._allowed = limits.memory_bytes

    def allow(self, operation: int) -> None:
        """Allow as much as an operation may take."""
        allowed = self._converting if operation == Operation.CONVERT else self._decoding
        if allowed != self._allowed and sys.platform == "linux":
            resource.setrlimit(resource.RLIMIT_AS, (allowed, self._converting))
            self._allowed = allowed

    def reclaim(self) -> None:
        """Return what images left to the system. What they keep, the next ones lack: with too much, start again."""
        if _address_space() - self._begun_with < _MAX_KEPT_BYTES:
            return
        _release()
        if _address_space() - self._begun_with >= _MAX_KEPT_BYTES:
            os.dup2(sys.stderr.fileno(), 2)
            os.execv(  # noqa: S606 - itself
                sys.executable, [*sys.orig_argv, *([] if _AGAIN in sys.argv else [_AGAIN])]
            )


def _address_space() -> int:
    """Return the bytes of address space that this process has."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:  # not Linux, where there is no limit either
        return 0
    return pages * resource.getpagesize()


def _response(body: bytes | None, operation: int, parameter: int, limits: Limits) -> bytes:
    if body is None:
        return framing.rejection_response(RejectedError(Reason.TOO_MANY_BYTES, "the file is larger than allowed"))
    try:
        try:
            return _answer(body, operation, parameter, limits)
        except OutOfMemoryError:
            # Of what earlier images left, not all can be used again: without it, this one may have enough.
            _release()
        return _answer(body, operation, parameter, limits)
    except RejectedError as rejection:
        return framing.rejection_response(rejection)


def _answer(body: bytes, operation: int, parameter: int, limits: Limits) -> bytes:
    match Operation(operation):
        case Operation.THUMBNAIL:
            return thumbnail(body, parameter, limits)
        case Operation.METRICS:
            return framing.facts_response(*measure_bytes(body, limits, strict=bool(parameter)))
        case Operation.CONVERT:
            conversion, original = framing.split_conversion(body)
            return framing.conversion_response(convert(original, conversion, limits))
        case Operation.FACTS:
            return framing.facts_response(inspect_bytes(body, limits))


def _release() -> None:
    """Return memory that is not used to the system."""
    gc.collect()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):  # glibc's
        trim(0)


def _receive(worker: socket.socket) -> tuple[bytes | None, int, int] | None:
    """Return the next image with its operation and parameter; None when the worker is gone."""
    prefix, descriptors, _, _ = socket.recv_fds(worker, framing.REQUEST.size, 1)
    if not prefix:
        return None
    # Signals and tracers cut reads short, whatever the flags: only an empty one is the end.
    prefix += _receive_all(worker, framing.REQUEST.size - len(prefix)) or b""
    if len(prefix) < framing.REQUEST.size:
        return None
    size, operation, parameter = framing.REQUEST.unpack(prefix)
    if descriptors:
        return _read(descriptors[0], max_bytes=size), operation, parameter
    body = _receive_all(worker, size)
    return None if body is None else (body, operation, parameter)


def _receive_all(worker: socket.socket, size: int) -> bytes | None:
    """Return exactly so many bytes; None when the worker is gone before that."""
    body = worker.recv(size, socket.MSG_WAITALL) if size else b""
    if len(body) == size:
        return body
    parts = [body]
    left = size - len(body)
    while left:
        part = worker.recv(left, socket.MSG_WAITALL)
        if not part:
            return None
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def _read(descriptor: int, *, max_bytes: int) -> bytes | None:
    """Return the content of an open file; None when it is larger than `max_bytes`."""
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        size = os.fstat(descriptor).st_size
        if size > max_bytes:
            return None
        file.seek(0)  # a process that was killed may have read it before
        body = file.read(size)
        while len(body) < size and (more := file.read(size - len(body))):
            body += more
        return body


def _die_with_worker() -> None:
    """End with the worker, and not before: a Ctrl-C or a stop for the whole group lets it finish its work."""
    for ignored in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ignored, signal.SIG_IGN)
    if sys.platform == "linux":  # elsewhere the closed socket has to do
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _limit_resources(limits: Limits) -> None:
    """Allow no more memory than the limits, no core dump, and no file."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    if sys.platform == "linux":  # macOS has the limit but rejects setting it
        resource.setrlimit(resource.RLIMIT_AS, (limits.memory_bytes, limits.memory_bytes))


def _limit_cpu(seconds: float) -> None:
    """Limit the CPU time of one image, in case that the worker is too busy to watch its deadline."""
    spent = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(spent.ru_utime + spent.ru_stime + seconds) + 2, hard))


def _silence_decoders() -> None:
    """Discard what decoders print; a traceback of this program still reaches the worker's log."""
    logging.disable()
    sys.stderr = os.fdopen(os.dup(2), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


if __name__ == "__main__":
    main()
