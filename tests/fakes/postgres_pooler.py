"""A pooler in transaction mode: all clients share one session of PostgreSQL, each of them for a transaction at a time.

    with postgres_pooler(database_url) as url:
        psycopg.connect(url)

As PgBouncer does, it answers the start of a connection itself, with a process id of its own, and resets nothing between
clients. A client that leaves in the middle of a transaction ends the session of the server.
"""

import contextlib
import random
import socket
import struct
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

_AUTHENTICATED, _PARAMETER, _KEY, _READY, _TERMINATE = b"R", b"S", b"K", b"Z", b"X"
#: Requests that the server answers with `_READY`: a simple query, and the end of an extended one.
_ANSWERED = {b"Q", b"S"}


class _Session:
    """The session of the server, and what it said when it began."""

    def __init__(self, server: Path, startup: bytes) -> None:
        self.free = threading.Lock()
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(str(server))
        self.socket.sendall(startup)
        self.parameters = b""
        while (message := _message(self.socket))[:1] != _READY:
            if message[:1] == _PARAMETER:
                self.parameters += message


class _Pooler:
    def __init__(self, server: Path) -> None:
        self._server = server
        self._lock = threading.Lock()
        self._session: _Session | None = None
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    def accept(self, listener: socket.socket) -> None:
        """Serve every client until the listener is closed."""
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            self._sockets.append(client)
            self._threads.append(threading.Thread(target=self._serve, args=(client,)))
            self._threads[-1].start()

    def close(self) -> None:
        """Close all connections and wait for the threads."""
        for end in [*self._sockets, *([self._session.socket] if self._session else [])]:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        for thread in self._threads:
            thread.join()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError, EOFError):
            length = _exactly(client, 4)
            startup = length + _exactly(client, struct.unpack("!i", length)[0] - 4)
            with self._lock:
                if self._session is None:
                    self._session = _Session(self._server, startup)
                session = self._session
            key = struct.pack("!ii", random.randint(2**30, 2**31 - 1), 1)
            client.sendall(_packed(_AUTHENTICATED, struct.pack("!i", 0)) + session.parameters + _packed(_KEY, key))
            client.sendall(_packed(_READY, b"I"))
            while (message := _message(client))[:1] != _TERMINATE:
                with session.free:
                    self._transaction(client, session, message)

    def _transaction(self, client: socket.socket, session: _Session, message: bytes) -> None:
        """Pass on requests and answers until the server is idle outside of a transaction."""
        try:
            while True:
                session.socket.sendall(message)
                if message[:1] in _ANSWERED and self._answer(client, session) == b"I":
                    return
                message = _message(client)
        except (OSError, EOFError):
            with self._lock:
                self._session = None
            session.socket.close()
            raise

    @staticmethod
    def _answer(client: socket.socket, session: _Session) -> bytes:
        while True:
            message = _message(session.socket)
            client.sendall(message)
            if message[:1] == _READY:
                return message[-1:]


@contextmanager
def postgres_pooler(database_url: str) -> Iterator[str]:
    """Run a pooler for the database of a URL that names a directory of Unix sockets; return the URL through it."""
    url = urlsplit(database_url)
    query = {name: values[0] for name, values in parse_qs(url.query).items()}
    name = f".s.PGSQL.{query['port']}"
    with tempfile.TemporaryDirectory(prefix="pooler") as directory, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(Path(directory, name)))
        listener.listen()
        pooler = _Pooler(Path(query["host"], name))
        thread = threading.Thread(target=pooler.accept, args=(listener,))
        thread.start()
        try:
            yield f"postgresql://{url.path}?{urlencode(query | {'host': directory})}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            pooler.close()


def _packed(letter: bytes, body: bytes) -> bytes:
    return letter + struct.pack("!i", 4 + len(body)) + body


def _message(source: socket.socket) -> bytes:
    head = _exactly(source, 5)
    return head + _exactly(source, struct.unpack("!i", head[1:])[0] - 4)


def _exactly(source: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        if not (more := source.recv(length - len(data))):
            raise EOFError
        data += more
    return data
