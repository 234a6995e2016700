"""What a user asks a guardian for, and what it answers: one line of JSON each."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from pixcrawler_worker.errors import PermanentError

#: What stands in place of a binary's path when the stand-in written in Python serves.
FAKE_REDIS = "fakeredis"


class EmbeddedError(PermanentError):
    """The services cannot be had; the message says in one line what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pids:
    """Process ids, for tests and the doctor. The fake Redis lives in the guardian and has its id."""

    guardian: int
    postgres: int
    redis: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What runs, and how to reach it.

    Attributes:
        database_url: as libpq and psycopg read it; SQLAlchemy wants `postgresql+psycopg:` in front.
        broker_url: as kombu reads it.
        redis_url: the same server as redis-py reads it.
        data_dir: where everything lies.
        sockets: the directory of the Unix sockets; a short temporary one when `data_dir` is too deep for them.
        redis_server: path of the binary, or FAKE_REDIS.
        durable: whether both servers survive a power cut with what they hold.
        pids: the processes.
    """

    database_url: str
    broker_url: str
    redis_url: str
    data_dir: Path
    sockets: Path
    redis_server: str
    durable: bool
    pids: Pids

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, line: str) -> Self:
        """Read it back; a guardian that could not start says why instead, and that is raised as EmbeddedError."""
        said: dict[str, Any] = json.loads(line)
        if "error" in said:
            raise EmbeddedError(said["error"])
        paths = {name: Path(said[name]) for name in ("data_dir", "sockets")}
        return cls(**said | paths | {"pids": Pids(**said["pids"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a guardian is told to run.

    Attributes:
        data_dir: holds the directories `postgres` and `redis`, which exist already.
        sockets: an empty directory for the Unix sockets.
        postgres: the binary; its companions lie beside it.
        redis: the binary, or FAKE_REDIS.
        durable: whether the servers wait for the disk.
    """

    data_dir: Path
    sockets: Path
    postgres: Path
    redis: str
    durable: bool

    @property
    def postgres_home(self) -> Path:
        """Where PostgreSQL's lock, log and cluster lie."""
        return self.data_dir / "postgres"

    @property
    def cluster(self) -> Path:
        """PostgreSQL's own data directory. It appears when it is complete."""
        return self.postgres_home / "cluster"

    @property
    def redis_home(self) -> Path:
        """Where Redis's lock, log and data lie."""
        return self.data_dir / "redis"

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, line: str) -> Self:
        """Read it back."""
        told: dict[str, Any] = json.loads(line)
        return cls(**told | {name: Path(told[name]) for name in ("data_dir", "sockets", "postgres")})
