"""Redis as kombu's broker, with every message checked before kombu and Celery read it.

Neither offers a hook: kombu parses what BRPOP and PUBLISH bring, and calls Celery, in the event loop of the worker's
main process, and what is raised there ends it. So the checks are where replies of Redis enter, and what is raised
nevertheless while one message is handled sets that message aside.
"""

import contextlib
import functools
import time
from collections.abc import Callable
from typing import Any

import kombu.transport.redis
import redis
import structlog
from celery.app.amqp import AMQP
from kombu import Connection
from kombu.exceptions import InconsistencyError, OperationalError
from kombu.transport import virtual
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import dumps
from redis.exceptions import DataError, RedisError, ResponseError

from pixcrawler_worker.broker import quarantine, reading
from pixcrawler_worker.broker.faults import Fault
from pixcrawler_worker.broker.reading import UnreadableError
from pixcrawler_worker.domain.messages import arguments_text, keywords_text
from pixcrawler_worker.masking import mask

log = structlog.get_logger()

#: What a connection writes to learn whether Redis has room, and for how many milliseconds.
_ROOM_KEY = "pixcrawler:room"
_ROOM_MILLISECONDS = 1000
#: Seconds between two lines about Redis being full.
_FULL_PERIOD = 30.0
#: Types of the keys that a worker pops from: none is an empty queue.
_QUEUE_TYPES = {b"list", b"none"}
#: How the names of exchanges and queues of the control channel end.
_CONTROL = ".pidbox"
#: What is not the fault of a message.
_BROKER_ERRORS = (RedisError, OSError, OperationalError, InconsistencyError)
_REPORTER = quarantine.Reporter()


class BrokerFullError(redis.ConnectionError):
    """Redis is at its `maxmemory`: as with one that is away, the connection is tried again later."""


class Client(redis.Redis):
    """A client whose popped messages are checked before the caller sees them."""

    def __init__(self, *args: Any, channel: "Channel", **options: Any) -> None:
        super().__init__(*args, **options)
        self._channel = channel

    def parse_response(self, connection: Any, command_name: Any, **options: Any) -> Any:
        """Return a reply of Redis; for an unreadable message what BRPOP returns when there is none."""
        try:
            reply = super().parse_response(connection, command_name, **options)  # type: ignore[no-untyped-call]  # redis-py's
        except ResponseError as error:
            if command_name == "BRPOP" and str(error).startswith("WRONGTYPE") and self._channel.move_wrong_queues():
                return None
            raise
        if command_name == "BRPOP" and reply and not self._channel.check(*reply):
            return None
        return reply


class PrefixedClient(Client, kombu.transport.redis.PrefixedStrictRedis):
    """The same for the transport option `global_keyprefix`."""


class QoS(kombu.transport.redis.QoS):
    """Messages that were taken and not acknowledged yet."""

    def append(self, message: virtual.Message, delivery_tag: str) -> None:
        """Record a message as taken, with the queue where it was, to which it goes back: not what it says about that.

        A full Redis cannot record it. The message is handled nevertheless: that is what makes room.
        """
        queue = self.channel.connection.delivering
        given = message.delivery_info
        origin = ("", queue) if queue else (given["exchange"], given["routing_key"])
        taken = dumps([message._raw, *origin])
        try:
            with self.pipe_or_acquire() as pipe:
                pipe.zadd(self.unacked_index_key, {delivery_tag: time.time()})
                pipe.hset(self.unacked_key, delivery_tag, taken)
                pipe.execute()
        except ResponseError as error:
            self._report_full(f"a taken message could not be recorded: {error}")
        virtual.QoS.append(self, message, delivery_tag)

    def restore_visible(self, start: int = 0, num: int | None = 10, interval: int | None = 10) -> None:
        """Put messages of workers that died back into their queues, where Redis has room for them."""
        try:
            if self._vrestore_count % (interval or 1) == 0:
                self._index_all()
            super().restore_visible(start=start, num=num, interval=interval)
        except ResponseError as error:
            self._report_full(f"messages of workers that died are not restored yet: {error}")

    def restore_by_tag(self, tag: Any, client: redis.Redis | None = None, leftmost: bool = False) -> None:  # noqa: FBT001, FBT002 - kombu's own
        """Put one message back into its queue in one transaction, or into quarantine."""

        def restore(pipe: Any) -> None:
            stored: bytes | None = pipe.hget(self.unacked_key, tag)
            entry, key, message = None, "", ""
            if stored:
                try:
                    key, message = self._readable(pipe, stored)
                except UnreadableError as error:
                    entry = describe(stored, self.unacked_key, error)
            pipe.multi()
            self._remove_from_indices(tag, pipe)
            if entry:
                quarantine.add(pipe, entry)
                entries.append(entry)
            elif key:
                (pipe.lpush if leftmost else pipe.rpush)(key, message)

        entries: list[quarantine.QuarantinedMessage] = []
        with self.channel.conn_or_acquire(client) as connected:
            connected.transaction(restore, self.unacked_key)
        # The transaction may have run more than once.
        for entry in entries[-1:]:
            _REPORTER.report(entry)

    def restore_unacked(self, client: redis.Redis | None = None) -> list[Any]:
        """Put all messages back; those that cannot be put back now are restored when their time is over."""
        try:
            super().restore_unacked(client)
        except RedisError as error:
            log.warning("messages are put back later", reason=str(error))
            self._delivered.clear()
        return []

    def ack(self, delivery_tag: Any) -> None:
        """Record a message as handled, also where Redis is full, which rejects transactions, or the record damaged."""
        try:
            super().ack(delivery_tag)
        except ResponseError as error:
            self._report_full(f"a message is acknowledged without a transaction: {error}")
            with self.channel.conn_or_acquire() as client:
                for remove, key in ((client.hdel, self.unacked_key), (client.zrem, self.unacked_index_key)):
                    with contextlib.suppress(ResponseError):
                        remove(key, delivery_tag)
            virtual.QoS.ack(self, delivery_tag)

    def reject(self, delivery_tag: Any, requeue: bool = False) -> None:  # noqa: FBT001, FBT002 - kombu's own
        """Record a message as handled, or put it back into its queue."""
        if requeue:
            super().reject(delivery_tag, requeue=True)
        else:
            self.ack(delivery_tag)

    def forget(self, delivery_tag: Any) -> None:
        """Count a message as handled, if it is one of this channel."""
        if delivery_tag in self._delivered:
            virtual.QoS.ack(self, delivery_tag)

    def _report_full(self, reason: str) -> None:
        # A message of a channel that was closed meanwhile is acknowledged as well.
        if self.channel.connection is not None:
            self.channel.connection.report_full(reason)

    def _index_all(self) -> None:
        """Let messages that are recorded as taken without a time be restored now: nothing holds them."""
        with self.channel.conn_or_acquire() as client:
            pipe = client.pipeline()
            pipe.hkeys(self.unacked_key)
            pipe.zrange(self.unacked_index_key, 0, -1)
            taken, timed = pipe.execute()
            if without := set(taken) - set(timed):
                client.zadd(self.unacked_index_key, dict.fromkeys(without, 0), nx=True)

    def _readable(self, pipe: Any, stored: bytes) -> tuple[str, str]:
        """Return the key of the queue of a taken message, and the message as it goes back.

        Raises:
            UnreadableError: when it is none.
        """
        taken = reading.parse(stored)
        if not (isinstance(taken, list) and len(taken) == len(("message", "exchange", "routing key"))):
            raise UnreadableError(Fault.ENVELOPE, "it is not a message that was taken")
        message, exchange, routing_key = taken
        if not isinstance(exchange, str) or not isinstance(routing_key, str):
            raise UnreadableError(Fault.ENVELOPE, "its queue is unknown")
        message = reading.read_envelope(dumps(message).encode())
        message["headers"]["redelivered"] = True
        message["properties"]["delivery_info"]["redelivered"] = True
        key = self.channel.queue_key(exchange, routing_key, message)
        if key is None:
            raise UnreadableError(Fault.ENVELOPE, "its queue is unknown")
        if pipe.type(key) not in _QUEUE_TYPES:
            raise UnreadableError(Fault.ENVELOPE, "its queue is not one")
        return key, dumps(message)


class Channel(kombu.transport.redis.Channel):
    """A channel of plain Redis."""

    QoS = QoS

    def check(self, key: bytes, raw: bytes) -> bool:
        """Return if a popped message can be handled; set it aside if not."""
        queue = bytes_to_str(key).rsplit(self.sep, 1)[0]
        try:
            (reading.read_reply if queue.endswith(_CONTROL) else reading.read_task)(raw)
        except UnreadableError as error:
            self.set_aside(raw, queue, error)
            return False
        return True

    def set_aside(self, raw: bytes, queue: str, error: UnreadableError, *, delivery_tag: Any = None) -> None:
        """Record a message in quarantine and, in the same transaction, as handled."""
        entry = describe(raw, queue, error)
        try:
            with self.conn_or_acquire() as client:
                pipe = client.pipeline()
                quarantine.add(pipe, entry)
                if delivery_tag is not None:
                    self.qos._remove_from_indices(delivery_tag, pipe)
                pipe.execute()
        except (RedisError, OSError) as trouble:
            # What was popped is in the log alone; what is recorded as taken is set aside when it is restored.
            log.warning("an unreadable message could not be recorded", reason=str(trouble))
        _REPORTER.report(entry, error.__cause__ if error.reason is Fault.UNHANDLED else None)

    def move_wrong_queues(self) -> bool:
        """Move keys of this channel's queues that hold something else out of the way; return if there were any."""
        moved = False
        with self.conn_or_acquire() as client:
            for queue in self.active_queues:
                for key in {self._q_for_pri(queue, step) for step in self.priority_steps}:
                    if (found := client.type(key)) not in _QUEUE_TYPES:
                        kept = f"{quarantine.KEY}:{key}"
                        client.rename(key, kept)
                        detail = f"the key of the queue holds a {bytes_to_str(found)}, moved to {kept}"
                        self.set_aside(b"", queue, UnreadableError(Fault.ENVELOPE, detail))
                        moved = True
        return moved

    def require_room(self) -> None:
        """Raise BrokerFullError if Redis does not accept what takes memory."""
        with self.conn_or_acquire() as client:
            try:
                client.set(_ROOM_KEY, b"", px=_ROOM_MILLISECONDS)
            except ResponseError as error:
                if not is_full(error):
                    raise
                raise BrokerFullError(
                    f"Redis is full; waiting until it has room: raise its maxmemory or remove data ({error})"
                ) from error

    def maybe_refresh_binding_expiry(self) -> None:
        """Keep the queues of the control channel alive; while Redis is full, they stay as they are."""
        try:
            super().maybe_refresh_binding_expiry()
        except ResponseError as error:
            self.connection.report_full(f"the control channel is not refreshed: {error}")

    def queue_key(self, exchange: str, routing_key: str, message: dict[str, Any]) -> str | None:
        """Return the key of the list in Redis where a message belongs; None when there is none."""
        try:
            queues = list(self._lookup(exchange, routing_key))
        except (ValueError, TypeError):  # bindings in Redis that kombu cannot unpack
            return None
        return self._q_for_pri(queues[0], self._get_message_priority(message)) if queues and queues[0] else None

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:  # noqa: FBT001, FBT002 - kombu's own
        """Return how to connect.

        Raises:
            redis.ConnectionError: when the channel or its connection was closed. Celery acknowledges a task there that
                has ended since, and takes the AttributeError that kombu would raise for a bug.
        """
        if self.connection is None or self.connection.client is None:
            raise redis.ConnectionError("the connection to Redis is closed")
        found: dict[str, Any] = super()._connparams(asynchronous=asynchronous)
        return found

    def _get_client(self) -> Callable[..., Client]:
        found = super()._get_client()
        if isinstance(found, functools.partial):
            return functools.partial(PrefixedClient, channel=self, **found.keywords)
        return functools.partial(Client, channel=self)

    def _handle_message(self, client: Any, r: Any) -> dict[str, Any]:
        """Return what was published; without its data when that is unreadable."""
        published: dict[str, Any] = super()._handle_message(client, r)
        if bytes_to_str(published["type"]).endswith("message") and published["data"]:
            channel = bytes_to_str(published["channel"])
            try:
                is_command = channel.endswith(_CONTROL)
                envelope = reading.read_broadcast(published["data"], is_command=is_command)
                if not is_command:
                    published["data"] = reading.without_arguments(published["data"], envelope)
            except UnreadableError as error:
                self.set_aside(published["data"], channel, error)
                published["data"] = None
        return published


class Transport(kombu.transport.redis.Transport):
    """The transport for `redis://`, `rediss://` and `redis+socket://`."""

    Channel = Channel
    #: The queue of the message that is being delivered.
    delivering = ""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._full_reported = -_FULL_PERIOD

    def establish_connection(self) -> Any:
        """Connect to Redis.

        Raises:
            BrokerFullError: when it has no room; kombu tries again, as with one that is away.
        """
        connection = super().establish_connection()
        try:
            self.channels[-1].require_room()
        except BaseException:
            self.close_connection(connection)
            raise
        return connection

    def report_full(self, reason: str) -> None:
        """Log that Redis does not accept something, but not too often."""
        if time.monotonic() - self._full_reported >= _FULL_PERIOD:
            self._full_reported = time.monotonic()
            log.warning("Redis is full or damaged", reason=reason)

    def _deliver(self, message: dict[str, Any], queue: str) -> None:
        """Hand a message to its consumer; whatever that raises sets it aside, unless the broker is at fault."""
        before, self.delivering = self.delivering, queue
        try:
            super()._deliver(message, queue)
        except _BROKER_ERRORS as error:
            if not isinstance(error, DataError):
                raise
            self._set_aside(message, queue, error)
        except Exception as error:  # noqa: BLE001 - one message must not end the worker; the reporter logs the traceback
            self._set_aside(message, queue, error)
        finally:
            self.delivering = before

    def _set_aside(self, message: dict[str, Any], queue: str, error: Exception) -> None:
        unhandled = UnreadableError(Fault.UNHANDLED, f"{type(error).__name__} when it was handled")
        unhandled.__cause__ = error
        delivery_tag = message["properties"]["delivery_tag"]
        self.channels[-1].set_aside(dumps(message).encode(), queue, unhandled, delivery_tag=delivery_tag)
        for channel in self.channels:
            channel.qos.forget(delivery_tag)


class CheckedConnection(Connection):
    """A connection that checks its messages, where the broker is Redis."""

    def info(self) -> dict[str, Any]:
        """Return what `celery inspect stats` shows of this connection: of a socket, kombu has the password in it."""
        found: dict[str, Any] = super().info()
        return found | {"hostname": mask(found["hostname"])} if found["hostname"] else found

    def ensure(  # type: ignore[override]  # the other options are handed on
        self, obj: Any, fun: Any, errback: Any = None, max_retries: int | None = None, **options: Any
    ) -> Callable[..., Any]:
        """Return a function that is tried again when the connection fails; not at all, unless it is said how often.

        Celery sends heartbeats and replies to remote control in the event loop of a worker, and says nothing: kombu
        would try for as long as the broker is away, and the worker would meanwhile neither stop nor replace a child.
        """
        return super().ensure(obj, fun, errback, max_retries or 0, **options)

    def get_transport_cls(self) -> Any:
        """Return the class of the transport for the URL of this connection."""
        found = super().get_transport_cls()
        return Transport if found is kombu.transport.redis.Transport else found


class CheckedAMQP(AMQP):
    """Celery's own, for an app with such connections."""

    Connection = CheckedConnection

    def as_task_v2(self, task_id: str, name: str, *arguments: Any, **options: Any) -> Any:
        """Return a message, in which monitoring sees no more of the arguments of its task than ids."""
        message = super().as_task_v2(task_id, name, *arguments, **options)
        args, kwargs = message.body[:2]
        shown = arguments_text(args), keywords_text(kwargs)
        message.headers.update(argsrepr=shown[0], kwargsrepr=shown[1])
        if message.sent_event:
            message.sent_event.update(args=shown[0], kwargs=shown[1])
        return message


def describe(raw: bytes, queue: str, error: UnreadableError) -> quarantine.QuarantinedMessage:
    """Return the entry in quarantine for a message."""
    return quarantine.describe(raw, queue=queue, reason=error.reason, detail=error.detail)


def is_full(error: ResponseError) -> bool:
    """Return if Redis rejected a command because it is at its `maxmemory`."""
    return "OOM" in str(error) or "maxmemory" in str(error)
