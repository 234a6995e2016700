"""A second reading of responses that aiohttp's parser rejects although curl and browsers accept them.

Servers send a header line without a colon, a space before it, the same Content-Length twice, a Content-Length next to
chunks, bytes after the body, an unknown version of HTTP. A strict parser has reasons on a kept connection, where one
misread length lets a response be taken for another's. Here each response has a connection of its own, which is closed
after it, so that there is nothing to confuse: the rules are those of RFC 9112, read as browsers read them.
"""

import asyncio
import contextlib
import re
import socket
import ssl
from collections.abc import AsyncIterator, Iterable
from datetime import timedelta

import aiohappyeyeballs
from aiohttp.abc import AbstractResolver
from multidict import CIMultiDict
from yarl import URL

from pixcrawler_worker.domain.reasons import Reason, RejectedError
from pixcrawler_worker.web.addresses import DeniedError
from pixcrawler_worker.web.connect import SocketFactory
from pixcrawler_worker.web.failures import without_query

#: Bytes of a status line with all headers; curl stops at 300,000, Chrome at 262,144.
MAX_HEAD_BYTES = 1 << 18
#: Interim responses before the real one.
_MAX_INTERIM = 10
_READ_SIZE = 1 << 16
#: Digits of a length: more than a file can have.
_MAX_LENGTH_DIGITS = 18
#: The first status of a response that is not an interim one.
_FIRST_FINAL = 200
#: Seconds that an address gets before the next one is tried as well, as in aiohttp (RFC 8305).
_HAPPY_EYEBALLS_DELAY = 0.25

_STATUS_LINE = re.compile(rb"HTTP/\d{1,2}(?:\.\d{1,2})?[ \t]+(\d{3})(?:[ \t].*)?")
_CHUNK_LINE = re.compile(rb"[ \t]*([0-9a-fA-F]{1,15})[ \t]*(?:;.*)?")
_NO_BODY = frozenset({204, 205, 304})


class LenientClient:
    """Sends one GET per connection, to addresses that the guard allows.

    Args:
        resolver: checks what a name resolves to.
        socket_factory: checks the address of each socket.
        tls: trusted certificates; the system's when it is None.
        connect_timeout: for a TCP connection with its TLS handshake.
        idle_timeout: the longest wait for the next bytes.
    """

    def __init__(
        self,
        *,
        resolver: AbstractResolver,
        socket_factory: SocketFactory,
        tls: ssl.SSLContext | None,
        connect_timeout: timedelta,
        idle_timeout: timedelta,
    ) -> None:
        self._resolver = resolver
        self._socket_factory = socket_factory
        self._tls = tls
        self._connect_timeout = connect_timeout.total_seconds()
        self._idle_timeout = idle_timeout.total_seconds()

    @contextlib.asynccontextmanager
    async def get(self, target: URL, headers: Iterable[tuple[str, str]]) -> AsyncIterator["LenientResponse"]:
        """Send a GET and yield its response, whose connection is aborted at the end.

        Raises:
            RejectedError: the connection fails, or the response is not one of HTTP at all.
            TimeoutError: the host does not answer in time.
        """
        url = without_query(target)
        reader, writer = await self._connected(target, url)
        try:
            writer.write(_request(target, headers))
            yield await _read_head(reader, url, self._idle_timeout)
        except (ConnectionError, ssl.SSLError) as error:
            raise RejectedError(Reason.RESET, f"{url} reset the connection") from error
        finally:
            # Without waiting for an untrusted host to agree.
            writer.transport.abort()

    async def _connected(self, target: URL, url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        try:
            return await self._connect(target)
        except DeniedError as error:
            raise RejectedError(error.reason, f"{url}: {error}") from error
        except ssl.SSLError as error:
            raise RejectedError(Reason.TLS_FAILED, f"{url}: {error.reason}") from error
        except OSError as error:
            if isinstance(error, TimeoutError):
                raise
            raise RejectedError(Reason.CONNECT_FAILED, f"{url}: {error}") from error

    async def _connect(self, target: URL) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host, port = target.raw_host or "", target.port or 0
        infos = [
            (
                socket.AF_INET6 if ":" in found["host"] else socket.AF_INET,
                socket.SOCK_STREAM,
                0,
                "",
                (found["host"], port),
            )
            for found in await self._resolver.resolve(host, port)
        ]
        async with asyncio.timeout(self._connect_timeout):
            connected = await aiohappyeyeballs.start_connection(
                infos, happy_eyeballs_delay=_HAPPY_EYEBALLS_DELAY, socket_factory=self._socket_factory
            )
            if target.scheme == "http":
                return await asyncio.open_connection(sock=connected, limit=MAX_HEAD_BYTES)
            # Read when it is needed: most processes never are here, and the system's certificates take milliseconds.
            self._tls = self._tls or ssl.create_default_context()
            return await asyncio.open_connection(
                sock=connected, limit=MAX_HEAD_BYTES, ssl=self._tls, server_hostname=host.rstrip(".")
            )


class LenientResponse:
    """A response whose head was read.

    Attributes:
        status: of the response.
        headers: of the response; a line that is not a header is left out.
    """

    def __init__(
        self, status: int, headers: CIMultiDict[str], reader: asyncio.StreamReader, url: str, idle_timeout: float
    ) -> None:
        self.status = status
        self.headers = headers
        self._reader = reader
        self._url = url
        self._idle_timeout = idle_timeout

    @property
    def length(self) -> int | None:
        """The number of bytes that the body announces; None for chunks, and for a body that ends with the connection.

        Raises:
            RejectedError: when it announces several different numbers, or something else than a number.
        """
        if self._is_chunked:
            return None
        values = {part.strip() for value in self.headers.getall("Content-Length", ()) for part in value.split(",")}
        if not values:
            return None
        value = values.pop()
        if values or not value.isascii() or not value.isdecimal() or len(value) > _MAX_LENGTH_DIGITS:
            raise RejectedError(Reason.BAD_RESPONSE, f"{self._url} announces an invalid length")
        return int(value)

    async def blocks(self) -> AsyncIterator[bytes]:
        """Yield the body as it arrives.

        Raises:
            RejectedError: the body ends early, or its chunks are not chunks.
            TimeoutError: the host stays silent.
        """
        if self.status in _NO_BODY:
            return
        try:
            if self._is_chunked:
                async for block in self._chunks():
                    yield block
            elif (length := self.length) is not None:
                async for block in self._exactly(length):
                    yield block
            else:
                while block := await self._read(_READ_SIZE):
                    yield block
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            raise RejectedError(Reason.TRUNCATED, f"{self._url} ends early") from error

    @property
    def _is_chunked(self) -> bool:
        return "chunked" in ",".join(self.headers.getall("Transfer-Encoding", ())).lower()

    async def _chunks(self) -> AsyncIterator[bytes]:
        while True:
            line = await self._line()
            found = _CHUNK_LINE.fullmatch(line)
            if found is None:
                raise RejectedError(Reason.BAD_RESPONSE, f"{self._url} sends chunks that cannot be read")
            size = int(found[1], 16)
            if not size:
                return
            async for block in self._exactly(size):
                yield block
            await self._line()

    async def _exactly(self, size: int) -> AsyncIterator[bytes]:
        while size > 0:
            block = await self._read(min(size, _READ_SIZE))
            if not block:
                raise asyncio.IncompleteReadError(b"", size)
            size -= len(block)
            yield block

    async def _line(self) -> bytes:
        async with asyncio.timeout(self._idle_timeout):
            line = await self._reader.readuntil(b"\n")
        return line.rstrip(b"\r\n")

    async def _read(self, size: int) -> bytes:
        async with asyncio.timeout(self._idle_timeout):
            return await self._reader.read(size)


def _request(target: URL, headers: Iterable[tuple[str, str]]) -> bytes:
    default = {"http": 80, "https": 443}[target.scheme]
    host = target.raw_authority if target.port != default else target.raw_authority.removesuffix(f":{default}")
    lines = [f"GET {target.raw_path_qs} HTTP/1.1", f"Host: {host}", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace")


async def _read_head(reader: asyncio.StreamReader, url: str, idle_timeout: float) -> LenientResponse:
    """Return the first response that is not an interim one."""
    for _ in range(_MAX_INTERIM):
        lines = await _head_lines(reader, url, idle_timeout)
        found = _STATUS_LINE.fullmatch(lines[0]) if lines else None
        if found is None:
            raise RejectedError(Reason.BAD_RESPONSE, f"{url} answers with something else than HTTP")
        status = int(found[1])
        if status >= _FIRST_FINAL:
            return LenientResponse(status, _headers(lines[1:]), reader, url, idle_timeout)
    raise RejectedError(Reason.BAD_RESPONSE, f"{url} sends interim responses without end")


async def _head_lines(reader: asyncio.StreamReader, url: str, idle_timeout: float) -> list[bytes]:
    lines: list[bytes] = []
    size = 0
    while True:
        try:
            async with asyncio.timeout(idle_timeout):
                line = await reader.readuntil(b"\n")
        except asyncio.LimitOverrunError:
            size = MAX_HEAD_BYTES
            line = b"\n"
        except asyncio.IncompleteReadError as error:
            raise RejectedError(Reason.BAD_RESPONSE, f"{url} closes the connection within the headers") from error
        size += len(line)
        if size > MAX_HEAD_BYTES:
            raise RejectedError(Reason.BAD_RESPONSE, f"{url} sends more than {MAX_HEAD_BYTES} bytes of headers")
        line = line.rstrip(b"\r\n")
        if line:
            lines.append(line)
        elif lines:
            return lines


def _headers(lines: Iterable[bytes]) -> CIMultiDict[str]:
    headers: CIMultiDict[str] = CIMultiDict()
    for line in lines:
        name, colon, value = line.partition(b":")
        # A folded line, or none that is a header: browsers skip it.
        if colon and (stripped := name.strip()) and not line[:1].isspace():
            headers.add(stripped.decode("latin-1"), value.strip().decode("utf-8", "surrogateescape"))
    return headers
