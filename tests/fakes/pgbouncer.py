"""PgBouncer itself, where it is installed; `fakes.postgres_pooler` behaves like it and is always there."""

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from fakes.postgres_proxy import postgres_proxy


@contextmanager
def pgbouncer(database_url: str, directory: Path, *, size: int = 1) -> Iterator[str]:
    """Run PgBouncer in transaction mode, with so many connections to the server; yield the URL through it.

    Args:
        database_url: of the database, with the user as whom it connects.
        directory: that other users may enter.
        size: of the pool.
    """
    program = shutil.which("pgbouncer")
    if program is None:
        pytest.skip("PgBouncer is not installed: apt-get install pgbouncer")
    # Only root enters the directory of the server, and PgBouncer does not run as root: there is a proxy between them.
    with postgres_proxy(database_url) as proxy, _pgbouncer(program, proxy.url, directory, size) as url:
        yield url


@contextmanager
def _pgbouncer(program: str, database_url: str, directory: Path, size: int) -> Iterator[str]:
    url = urlsplit(database_url)
    query = {name: values[0] for name, values in parse_qs(url.query).items()}
    name = url.path.strip("/")
    for path in (directory, Path(query["host"]), *Path(query["host"]).iterdir()):
        path.chmod(0o777)
    (directory / "pgbouncer.ini").write_text(
        f"[databases]\n{name} = host={query['host']} port={query['port']} user={query['user']} pool_size={size}\n"
        f"[pgbouncer]\npool_mode = transaction\nauth_type = any\nunix_socket_dir = {directory}\nlisten_port = 6432\n"
        # By default, clients are rejected for 15 s after the server has rejected a connection, or wait for two minutes.
        "listen_addr =\nserver_login_retry = 1\nquery_wait_timeout = 10\n"
    )
    words = [program, *(["-u", "nobody"] if os.getuid() == 0 else []), str(directory / "pgbouncer.ini")]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            for line in process.stderr:
                if "process up" in line:
                    break
            drain = threading.Thread(target=process.stderr.read)
            drain.start()
            yield f"postgresql:///{name}?host={directory}&port=6432&user={query['user']}"
        finally:
            process.terminate()
            process.wait(10)
            drain.join()
