"""What the supervisor gets from its first client and sends to every client, each as one line of JSON."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from pixcrawler_worker.errors import PermanentError

#: Instead of the path of a binary, for the Redis written in Python.
FAKE_REDIS = "fakeredis"


class EmbeddedError(PermanentError):
    """The services cannot run; the message says in one line what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pids:
    """Process ids. The fake Redis is a thread of the supervisor and has its id."""

    supervisor: int
    postgres: int
    redis: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """The running services, and how to connect to them.

    Attributes:
        database_url: for libpq and psycopg; `db.session.sqlalchemy_url` converts it for SQLAlchemy.
        broker_url: for kombu.
        redis_url: the same server for redis-py.
        data_dir: the directory of all data, logs and locks.
        sockets: the directory of the Unix sockets; a temporary one if the path of `data_dir` is too long for them.
        redis_server: path of the binary, or FAKE_REDIS.
        durable: whether both servers keep their data after a power failure.
        pids: of the processes.
        tcp_database_url: for libpq, over TCP on the loopback interface; None unless that was requested.
        tcp_broker_url: of Redis, likewise.
        is_shared: whether they ran before this client connected; others use them, too, then.
    """

    database_url: str
    broker_url: str
    redis_url: str
    data_dir: Path
    sockets: Path
    redis_server: str
    durable: bool
    pids: Pids
    tcp_database_url: str | None = None
    tcp_broker_url: str | None = None
    is_shared: bool = field(default=False, compare=False)

    def to_json(self) -> str:
        """Return one line of JSON, for all clients."""
        fields = asdict(self)
        del fields["is_shared"]
        return json.dumps(fields, default=str)

    @classmethod
    def from_json(cls, line: str) -> Self:
        """Return the services of a line by `to_json`, or by a supervisor that could not start them.

        Raises:
            EmbeddedError: when they could not start; the message is that of the supervisor.
        """
        fields: dict[str, Any] = json.loads(line)
        if "error" in fields:
            raise EmbeddedError(fields["error"])
        paths = {name: Path(fields[name]) for name in ("data_dir", "sockets")}
        return cls(**fields | paths | {"pids": Pids(**fields["pids"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisorConfig:
    """What a supervisor runs.

    Attributes:
        data_dir: a directory with the existing directories `postgres` and `redis`.
        sockets: an empty directory for the Unix sockets.
        postgres: the binary; `initdb` is in the same directory.
        redis: the binary, or FAKE_REDIS.
        durable: whether the servers wait until data is on disk.
        tcp: whether they listen on the loopback interface as well.
    """

    data_dir: Path
    sockets: Path
    postgres: Path
    redis: str
    durable: bool
    tcp: bool = False

    @property
    def postgres_home(self) -> Path:
        """The directory with lock, log and cluster of PostgreSQL."""
        return self.data_dir / "postgres"

    @property
    def cluster(self) -> Path:
        """The data directory of PostgreSQL; it exists once it is complete."""
        return self.postgres_home / "cluster"

    @property
    def redis_home(self) -> Path:
        """The directory with lock, log and data of Redis."""
        return self.data_dir / "redis"

    def to_json(self) -> str:
        """Return one line of JSON."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, line: str) -> Self:
        """Return the configuration of a line by `to_json`."""
        fields: dict[str, Any] = json.loads(line)
        return cls(**fields | {name: Path(fields[name]) for name in ("data_dir", "sockets", "postgres")})
