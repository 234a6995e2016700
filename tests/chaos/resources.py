"""What a run takes: memory, files, connections, keys and dead rows, sampled so that a leak shows."""

import statistics
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import psycopg
import redis
from chaos import processes
from chaos.services import Broker, Database
from chaos.workers import Workers

_INTERVAL = 3.0
_MEGABYTE = 1024**2


@dataclass
class Resources:
    """Samples in a thread of its own.

    Attributes:
        samples: values by what was measured.
    """

    workers: Workers
    database: Database
    broker: Broker
    samples: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    _ended: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._watch, name="resources", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        if self._thread:
            self._thread.join()

    def quarters(self) -> dict[str, tuple[float, float]]:
        """Return the medians of the first and the last quarter of each series."""
        return {
            name: (statistics.median(_part(values, 0)), statistics.median(_part(values, 3)))
            for name, values in self.samples.items()
            if values
        }

    def _watch(self) -> None:
        while not self._ended.wait(_INTERVAL):
            for measure in (self._measure_processes, self._measure_database, self._measure_broker):
                self._try(measure)

    def _try(self, measure: Callable[[], None]) -> None:
        # A service that is away has nothing to measure.
        with suppress(psycopg.Error, redis.RedisError, OSError):
            measure()

    def _measure_processes(self) -> None:
        family = processes.family()
        mains, children, decoders, files = [], [], [], []
        for worker in self.workers.all():
            mains.append(processes.resident_bytes(worker.pid) / _MEGABYTE)
            files.append(processes.open_files(worker.pid))
            for child in worker.children(family):
                children.append(processes.resident_bytes(child) / _MEGABYTE)
                files.append(processes.open_files(child))
                decoders += [
                    processes.resident_bytes(pid) / _MEGABYTE
                    for pid in family.get(child, [])
                    if processes.is_decoder(pid)
                ]
        for name, values in (
            ("memory of a main, MB", mains),
            ("memory of a child, MB", children),
            ("memory of a decoder, MB", decoders),
            ("open files of a process", files),
        ):
            if values:
                self.samples[name].append(max(values))
        self.samples["processes"].append(len(mains) + len(children) + len(decoders))

    def _measure_database(self) -> None:
        with self.database.connect("chaos resources") as connection:
            connection.execute("SET statement_timeout = '2s'")
            row = connection.execute(
                "SELECT (SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pixcrawler'),"
                " (SELECT sum(n_dead_tup)::int FROM pg_stat_user_tables),"
                " (SELECT pg_database_size(current_database()))"
            ).fetchone()
        assert row is not None
        self.samples["connections to the database"].append(row[0])
        self.samples["dead rows"].append(row[1] or 0)
        self.samples["database, MB"].append(row[2] / _MEGABYTE)

    def _measure_broker(self) -> None:
        with self.broker.client() as client:
            self.samples["keys in Redis"].append(client.dbsize())
            self.samples["memory of Redis, MB"].append(client.info("memory")["used_memory"] / _MEGABYTE)


def _part(values: Sequence[float], quarter: int) -> Sequence[float]:
    size = max(1, len(values) // 4)
    return values[:size] if quarter == 0 else values[-size:]
