"""A proxy for PostgreSQL that cuts connections or plants errors on request, and records the statements.

    with postgres_proxy(database_url) as proxy:
        engine = session.connect(proxy.url)
        proxy.cut_at(3, done=False)   # the third request from now on does not arrive
        proxy.cut_commit(done=True)   # the next COMMIT arrives and is done, but its response is lost
    proxy.fail_at(3, "40001")     # the third request does not arrive, and is answered with an error

It reads the client's side of PostgreSQL's protocol: after the start every message is a letter, a length and a body.
A request is what the client then waits for: a simple query, the end of an extended one, or the end of a COPY.
"""

import contextlib
import socket
import struct
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

_QUERY, _PARSE, _SYNC, _COPY_DONE, _COPY_FAIL = b"Q", b"P", b"S", b"c", b"f"
_REQUESTS = {_QUERY, _SYNC, _COPY_DONE}


class PostgresProxy:
    """A running proxy.

    Attributes:
        url: of the database, through the proxy.
        statements: that clients sent, in their order.
        requests: that clients sent.
        cuts: requests at which a connection was cut, or an error planted.
    """

    def __init__(self, url: str, server: Path) -> None:
        self.url = url
        self.statements: list[str] = []
        self.requests = 0
        self.cuts = 0
        self._server = server
        self._countdown: int | None = None
        self._at_commit = False
        self._done = False
        self._state: str | None = None
        self._then: Callable[[], None] = _nothing
        self._cut = threading.Event()
        self._threads: list[threading.Thread] = []
        self._sockets: list[socket.socket] = []

    def cut_at(self, request: int, *, done: bool, then: Callable[[], None] | None = None) -> None:
        """Cut the n-th request from now on: before it arrives, or, when `done`, before its response arrives.

        `then` is called first, when the request is there and nothing has been done about it.
        """
        self._countdown, self._at_commit, self._done, self._state = request, False, done, None
        self._then = then or _nothing
        self._cut.clear()

    def cut_commit(self, *, done: bool) -> None:
        """Likewise for the next COMMIT."""
        self._countdown, self._at_commit, self._done, self._state = None, True, done, None
        self._then = _nothing

    def fail_at(self, request: int, state: str) -> None:
        """Answer the n-th request from now on with an error of that SQLSTATE: the server does not see it.

        A COPY fails at its end, with the state 57014.
        """
        self._countdown, self._at_commit, self._state = request, False, state

    def cancel_cut(self) -> None:
        """Cancel a cut or an error that has not happened."""
        self._countdown, self._at_commit = None, False

    def wait_for_cut(self, *, seconds: float) -> None:
        """Wait until the server has ended the session that was cut: nothing of it is locked then."""
        assert self._cut.wait(seconds), "nothing was cut, or the server goes on"

    def accept(self, listener: socket.socket) -> None:
        """Connect every client to the server, until the listener is closed."""
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            server.connect(str(self._server))
            self._sockets += [client, server]
            for pump in (self._upstream, self._downstream):
                thread = threading.Thread(target=pump, args=(client, server))
                self._threads.append(thread)
                thread.start()

    def close(self) -> None:
        """Cut everything and wait for the threads."""
        for end in self._sockets:
            _close(end)
        for thread in self._threads:
            thread.join()

    def _upstream(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError, EOFError):
            length = _exactly(client, 4)
            server.sendall(length + _exactly(client, struct.unpack("!i", length)[0] - 4))
            waiting = b""
            while True:
                letter, length = _exactly(client, 1), _exactly(client, 4)
                body = _exactly(client, struct.unpack("!i", length)[0] - 4)
                waiting += letter + length + body
                if letter in {_QUERY, _PARSE}:
                    text = body if letter == _QUERY else body.partition(b"\0")[2]
                    self.statements.append(text.partition(b"\0")[0].decode())
                if letter in _REQUESTS and self._cuts_now():
                    if self._state is None:
                        self._then()
                        self._swallow(client, server, waiting if self._done else b"")
                        self._cut.set()
                        break
                    waiting = _failing(letter, self._state)
                server.sendall(waiting)
                waiting = b""
        _close(client)
        _close(server)

    def _cuts_now(self) -> bool:
        self.requests += 1
        if self._at_commit:
            # Alone, or behind other statements of the same request.
            cut = self.statements[-1:] == ["COMMIT"]
        elif self._countdown is not None:
            self._countdown -= 1
            cut = self._countdown == 0
        else:
            cut = False
        if cut:
            self.cancel_cut()
            self.cuts += 1
        return cut

    def _swallow(self, client: socket.socket, server: socket.socket, request: bytes) -> None:
        # The client receives nothing more; the server closes its side when it has executed all that it received.
        with contextlib.suppress(OSError):  # the client may be gone
            client.shutdown(socket.SHUT_RDWR)
        server.sendall(request)
        server.shutdown(socket.SHUT_WR)
        with contextlib.suppress(OSError):
            while server.recv(65536):
                pass

    def _downstream(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                client.sendall(data)
        _close(client)


@contextmanager
def postgres_proxy(database_url: str) -> Iterator[PostgresProxy]:
    """Run a proxy for the database of a URL that names a directory of Unix sockets."""
    url = urlsplit(database_url)
    query = {name: values[0] for name, values in parse_qs(url.query).items()}
    name = f".s.PGSQL.{query['port']}"
    with tempfile.TemporaryDirectory(prefix="proxy") as directory, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(Path(directory, name)))
        listener.listen()
        proxy = PostgresProxy(
            f"postgresql://{url.path}?{urlencode(query | {'host': directory})}", Path(query["host"], name)
        )
        thread = threading.Thread(target=proxy.accept, args=(listener,))
        thread.start()
        try:
            yield proxy
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            proxy.close()


def _failing(letter: bytes, state: str) -> bytes:
    """Return a request that fails, to send in place of another one."""
    if letter == _COPY_DONE:
        return _COPY_FAIL + struct.pack("!i", 4 + len(b"planted\0")) + b"planted\0"
    statement = f"DO $$ BEGIN RAISE EXCEPTION 'planted' USING ERRCODE = '{state}'; END $$\0".encode()
    return _QUERY + struct.pack("!i", 4 + len(statement)) + statement


def _nothing() -> None:
    """Do nothing."""


def _exactly(source: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        if not (more := source.recv(length - len(data))):
            raise EOFError
        data += more
    return data


def _close(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()
