"""The decode process: `python -m pixcrawler_worker.inspection LIMITS`, with a socket as its standard input."""

import gc
import json
import logging
import os
import resource
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterable

from pixcrawler_worker.domain.reasons import Reason, RejectedError
from pixcrawler_worker.inspection import framing, preloaded, sandbox  # noqa: F401 - preloaded: imports only
from pixcrawler_worker.inspection.framing import Operation
from pixcrawler_worker.inspection.inspector import convert, crop, inspect_bytes, measure_bytes, sheet, thumbnail
from pixcrawler_worker.inspection.limits import Limits, OutOfMemoryError
from pixcrawler_worker.inspection.memory import Memory, release
from pixcrawler_worker.inspection.sheets import split_tiles

#: One white pixel, opened before any untrusted bytes: a process that cannot open this must not report that it is ready.
_FIRST = b"GIF89a\1\0\1\0\x80\0\0\xff\xff\xff\0\0\0,\0\0\0\0\1\0\1\0\0\2\2D\1\0;"

#: Objects after which cycles are collected: an image leaves few, and looking for them takes two percent of the time.
_COLLECTED = 10_000
#: Returns the response to an image: its bytes (None when there are more than allowed), the operation, its parameter,
#: and the limits. It raises OutOfMemoryError when it has too little memory for that.
Respond = Callable[[bytes | None, int, int, Limits], bytes]


def main(respond: Respond | None = None, layers: Iterable[str] | None = None) -> None:
    """Answer requests until the worker closes its end, or is gone.

    Args:
        respond: what is done with each image.
        layers: those of the sandbox to use, all by default.
    """
    for ignored in (signal.SIGINT, signal.SIGTERM):  # for the worker, which may finish its chunk
        signal.signal(ignored, signal.SIG_IGN)
    sandbox.die_with_parent()
    with socket.socket(fileno=sys.stdin.fileno()) as worker:
        try:
            _answer_all(worker, Limits(**json.loads(sys.argv[-1])), respond or _respond, layers)
        except Exception:  # noqa: BLE001 - it is the worker that logs it
            worker.sendall(framing.frame(framing.failure_response(traceback.format_exc())))
            worker.sendall(framing.LEAVING)
            sys.exit(1)


def _answer_all(worker: socket.socket, limits: Limits, respond: Respond, layers: Iterable[str] | None) -> None:
    _silence_decoders()
    state = sandbox.confine(limits, layers)
    inspect_bytes(_FIRST, limits)
    gc.freeze()  # what is imported stays: no collection has to look at it again
    gc.set_threshold(_COLLECTED)
    memory = Memory(limits)
    worker.sendall(framing.frame(framing.ready_response(state)))
    while (request := _receive(worker)) is not None:
        _limit_cpu(limits.seconds)
        memory.allow(request[1])
        try:
            response = respond(*request, limits)
        except OutOfMemoryError as rejection:
            if memory.is_scattered and request[1] != Operation.CONVERT:
                # It is sent to the next process. Of what a conversion makes, any may be too large for every process.
                worker.sendall(framing.LEAVING)
                return
            response = framing.rejection_response(rejection)
        worker.sendall(framing.frame(response))
        del request, response
        if not memory.reclaim():
            worker.sendall(framing.LEAVING)
            return


def _respond(body: bytes | None, operation: int, parameter: int, limits: Limits) -> bytes:
    if body is None:
        return framing.rejection_response(RejectedError(Reason.TOO_MANY_BYTES, "the file is larger than allowed"))
    try:
        try:
            return _answer(body, operation, parameter, limits)
        except OutOfMemoryError:
            # Of what earlier images left, not all can be used again: without it, this one may have enough.
            release()
        return _answer(body, operation, parameter, limits)
    except OutOfMemoryError:
        raise
    except RejectedError as rejection:
        return framing.rejection_response(rejection)


def _answer(body: bytes, operation: int, parameter: int, limits: Limits) -> bytes:
    match Operation(operation):
        case Operation.THUMBNAIL:
            return thumbnail(body, parameter, limits)
        case Operation.SHEET:
            return framing.sheet_response(sheet(split_tiles(body), parameter, limits))
        case Operation.METRICS:
            strict, hashed = bool(parameter & framing.STRICT), bool(parameter & framing.HASHED)
            return framing.facts_response(*measure_bytes(body, limits, strict=strict, hashed=hashed))
        case Operation.CONVERT:
            conversion, original = framing.split_conversion(body)
            return framing.conversion_response(convert(original, conversion, limits))
        case Operation.CROP:
            return framing.crop_response(crop(body, framing.unpack_crop(parameter), limits))
        case Operation.FACTS:
            return framing.facts_response(inspect_bytes(body, limits, hashed=bool(parameter & framing.HASHED)))


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
    # Not as a file of Python, which asks the system for more than the sandbox allows.
    try:
        size = os.lseek(descriptor, 0, os.SEEK_END)
        if size > max_bytes:
            return None
        body = b""
        while len(body) < size and (more := os.pread(descriptor, size - len(body), len(body))):
            body = body + more if body else more
        return body
    finally:
        os.close(descriptor)


def _limit_cpu(seconds: float) -> None:
    """Limit the CPU time of one image, in case that the worker is too busy to watch its deadline."""
    spent = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(spent.ru_utime + spent.ru_stime + seconds) + 2, hard))


def _silence_decoders() -> None:
    """Discard what decoders print, and leave nothing of the worker's to be written to but the socket."""
    logging.disable()
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (1, 2):
        os.dup2(null, descriptor)
    os.close(null)


if __name__ == "__main__":
    main()
