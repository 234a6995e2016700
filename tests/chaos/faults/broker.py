"""Redis that drops connections, loses data, restarts, hangs or is full."""

import contextlib
import json
import signal
from collections.abc import Callable

import redis
from chaos import processes
from chaos.faults.catalog import Arena, fault
from chaos.recovery import Victim

from pixcrawler_worker.domain.messages import Queue

_QUEUES = [queue.value for queue in Queue]
#: The Redis lists of the messages about chunks, which have the priority 3.
CHUNK_LISTS = [f"{queue}\x06\x163" for queue in _QUEUES[:3]]


def chunks_in(client: redis.Redis, queue: str) -> list[int]:
    """Return the chunks that messages in a queue are about."""
    found = []
    for raw in client.lrange(queue, 0, -1):
        with contextlib.suppress(ValueError, LookupError, TypeError, AttributeError):
            message = json.loads(raw)
            if message["headers"]["task"].endswith((".chunk", ".part")):
                found.append(int(message["headers"]["argsrepr"].strip("(),")))
    return found


def _expect(arena: Arena, chunks: list[int]) -> None:
    """Wait for chunks whose messages are gone."""
    with arena.database.connect("chaos fault") as connection:
        rows = connection.execute(
            "SELECT chunks.id, fence, extract(epoch FROM dispatched_at)::float"
            " FROM pixcrawler.chunks LEFT JOIN crawl_jobs ON crawl_jobs.id = crawl_job_id"
            " WHERE chunks.id = ANY(%s) AND state = 'queued' AND available_at <= clock_timestamp()"
            " AND dispatched_at IS NOT NULL AND coalesce(crawl_jobs.status, 'running') = 'running'",
            (chunks,),
        ).fetchall()
    arena.expect(Victim(chunk, fence, sent) for chunk, fence, sent in rows)


def _kill_clients(arena: Arena, *, kind: str | None) -> None:
    with arena.broker.client() as client:
        if kind:
            client.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
        else:
            client.execute_command("CLIENT", "KILL", "SKIPME", "yes")


@fault("all connections killed", "redis", weight=2)
def kill_all_clients(arena: Arena) -> None:
    _kill_clients(arena, kind=None)


@fault("normal connections killed", "redis")
def kill_normal_clients(arena: Arena) -> None:
    _kill_clients(arena, kind="normal")


@fault("subscriptions killed", "redis")
def kill_subscribers(arena: Arena) -> None:
    _kill_clients(arena, kind="pubsub")


@fault("one connection killed", "redis", weight=2)
def kill_one_client(arena: Arena) -> None:
    with arena.broker.client() as client:
        mine = client.client_id()
        others = [one["id"] for one in client.client_list() if int(one["id"]) != mine]
        if others:
            client.client_kill_filter(_id=arena.random.choice(others))


@fault("connections killed twenty times in a row", "redis", alone="redis", takes=True)
def kill_clients_often(arena: Arena) -> None:
    for _ in range(20):
        _kill_clients(arena, kind=None)
        arena.hold(0.1)


@fault("everything flushed", "redis", weight=2)
def flush(arena: Arena) -> None:
    with arena.broker.client() as client:
        chunks = [chunk for queue in CHUNK_LISTS for chunk in chunks_in(client, queue)]
        client.flushall()
    _expect(arena, chunks)


@fault("queue deleted", "redis", weight=2)
def delete_queue(arena: Arena) -> None:
    queue = arena.random.choice(CHUNK_LISTS)
    with arena.broker.client() as client:
        chunks = chunks_in(client, queue)
        client.delete(queue)
    _expect(arena, chunks)


@fault("one message lost", "redis", weight=2)
def lose_message(arena: Arena) -> None:
    with arena.broker.client() as client:
        for queue in arena.random.sample(CHUNK_LISTS, k=3):
            chunks = chunks_in(client, queue)[-1:]
            if chunks and client.rpop(queue):
                _expect(arena, chunks)
                return


@fault("unacknowledged messages deleted", "redis")
def delete_unacknowledged(arena: Arena) -> None:
    with arena.broker.client() as client:
        client.delete("unacked", "unacked_index", "unacked_mutex")


@fault("bindings deleted", "redis")
def delete_bindings(arena: Arena) -> None:
    with arena.broker.client() as client:
        for key in client.keys("_kombu.binding.*"):
            client.delete(key)


@fault("restarted with its data", "redis", alone="redis", takes=True)
def restart(arena: Arena) -> None:
    arena.broker.restart(signal.SIGTERM)


@fault("killed and started with its data", "redis", alone="redis", takes=True)
def kill(arena: Arena) -> None:
    arena.broker.restart(signal.SIGKILL)


@fault("killed and started empty", "redis", alone="redis", takes=True)
def lose_data(arena: Arena) -> None:
    chunks: list[int] = []
    with contextlib.suppress(redis.RedisError), arena.broker.client() as client:
        chunks = [chunk for queue in CHUNK_LISTS for chunk in chunks_in(client, queue)]
    arena.broker.restart(signal.SIGKILL, arena.broker.lose_data)
    _expect(arena, chunks)


@fault("away for some seconds", "redis", alone="redis", takes=True)
def stay_away(arena: Arena) -> None:
    arena.broker.restart(signal.SIGKILL, lambda: arena.hold(arena.between(2, 6)))


@fault("hangs for a moment", "redis", alone="redis", takes=True)
def hang_shortly(arena: Arena) -> None:
    _hang(arena, arena.between(0.5, 4))


@fault("hangs longer than clients wait", "redis", alone="redis", takes=True)
def hang(arena: Arena) -> None:
    _hang(arena, arena.between(11, 13))


def _hang(arena: Arena, seconds: float) -> None:
    processes.send([arena.broker.pid], signal.SIGSTOP)
    try:
        arena.hold(seconds)
    finally:
        processes.send([arena.broker.pid], signal.SIGCONT)


@fault("clients paused", "redis", alone="redis", takes=True)
def pause(arena: Arena) -> None:
    seconds = arena.between(0.5, 3)
    with arena.broker.client() as client:
        client.execute_command("CLIENT", "PAUSE", int(seconds * 1000))
        arena.hold(seconds)


@fault("full", "redis", alone="redis", takes=True)
def fill(arena: Arena) -> None:
    _while_full(arena, lambda: arena.hold(arena.between(1, 5)))


@fault("full while a worker starts", "redis", alone="mains", takes=True)
def fill_at_start(arena: Arena) -> None:
    worker = arena.random.choice(arena.workers.all())

    def end_worker() -> None:
        worker.asked = "SIGTERM"
        processes.send([worker.pid], signal.SIGTERM)
        arena.workers.wait_until_restarted(worker)
        arena.hold(arena.between(3, 5))

    _while_full(arena, end_worker)


def _while_full(arena: Arena, meanwhile: Callable[[], None]) -> None:
    with arena.broker.client() as client:
        client.config_set("maxmemory", "100kb")
        try:
            meanwhile()
        finally:
            with arena.broker.client() as again:
                again.config_set("maxmemory", "0")
