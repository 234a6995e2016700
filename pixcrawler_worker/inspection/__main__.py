"""The guarded process itself: `python -m pixcrawler_worker.inspection LIMITS`, a socket as its standard input."""

import ctypes
import gc
import json
import logging
import os
import resource
import signal
import socket
import sys

from pixcrawler_worker.domain.reasons import Reason, RejectedError
from pixcrawler_worker.inspection import framing
from pixcrawler_worker.inspection.framing import Wish
from pixcrawler_worker.inspection.inspector import convert, inspect_bytes, measure_bytes, thumbnail
from pixcrawler_worker.inspection.limits import Limits

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>

#: One white pixel, opened before any stranger's: who cannot open this must not say that it is ready.
_FIRST = b"GIF89a\1\0\1\0\x80\0\0\xff\xff\xff\0\0\0,\0\0\0\0\1\0\1\0\0\2\2D\1\0;"


def main() -> None:
    """Answer pictures until the worker closes its end, or is gone."""
    limits = Limits(**json.loads(sys.argv[1]))
    with socket.socket(fileno=sys.stdin.fileno()) as worker:
        _outlive_nobody()
        _bound(limits)
        inspect_bytes(_FIRST, limits)
        _keep_decoders_quiet()
        gc.freeze()  # what is imported stays: no collection has to look at it again
        worker.sendall(framing.framed(b""))
        while (request := _receive(worker)) is not None:
            _grant_seconds(limits.seconds)
            worker.sendall(framing.framed(_answer(*request, limits)))


def _answer(body: bytes | None, wish: int, number: int, limits: Limits) -> bytes:
    if body is None:
        return framing.refused(RejectedError(Reason.TOO_MANY_BYTES, "the file is larger than allowed"))
    try:
        match Wish(wish):
            case Wish.THUMBNAIL:
                return thumbnail(body, number, limits)
            case Wish.METRICS:
                return framing.accepted(*measure_bytes(body, limits, strict=bool(number)))
            case Wish.CONVERT:
                conversion, picture = framing.asked_to_convert(body)
                return framing.as_converted(convert(picture, conversion, limits))
            case Wish.FACTS:
                return framing.accepted(inspect_bytes(body, limits))
    except RejectedError as refusal:
        return framing.refused(refusal)


def _receive(worker: socket.socket) -> tuple[bytes | None, int, int] | None:
    """The next picture with what is wanted of it, or None when the worker is gone."""
    prefix, descriptors, _, _ = socket.recv_fds(worker, framing.REQUEST.size, 1, socket.MSG_WAITALL)
    if len(prefix) < framing.REQUEST.size:
        return None
    size, wish, number = framing.REQUEST.unpack(prefix)
    if descriptors:
        return _read(descriptors[0], most=size), wish, number
    body = worker.recv(size, socket.MSG_WAITALL) if size else b""
    return (body, wish, number) if len(body) == size else None


def _read(descriptor: int, *, most: int) -> bytes | None:
    """What an open file holds; None when that is more than `most` bytes."""
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        size = os.fstat(descriptor).st_size
        return file.read(size) if size <= most else None


def _outlive_nobody() -> None:
    """Die with the worker, and not before: a Ctrl-C or a stop meant for the whole group lets it finish its work."""
    for ignored in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ignored, signal.SIG_IGN)
    if sys.platform == "linux":  # Elsewhere the closed socket has to do.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _bound(limits: Limits) -> None:
    """No more memory than allowed, no core dump, no file."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    if sys.platform == "linux":  # macOS knows the limit but refuses to set it.
        resource.setrlimit(resource.RLIMIT_AS, (limits.memory_bytes, limits.memory_bytes))


def _grant_seconds(seconds: float) -> None:
    """CPU time for one picture, in case the worker is too busy to watch its deadline."""
    spent = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(spent.ru_utime + spent.ru_stime + seconds) + 2, hard))


def _keep_decoders_quiet() -> None:
    """Decoders' complaints go nowhere; a traceback of this program still reaches the worker's log."""
    logging.disable()
    sys.stderr = os.fdopen(os.dup(2), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


if __name__ == "__main__":
    main()
