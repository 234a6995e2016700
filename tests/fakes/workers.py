"""A worker that only says which queues it consumes, over a real broker."""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from celery import Celery


@contextlib.contextmanager
def responding(broker_url: str, *queues: str, name: str = "worker@test") -> Iterator[None]:
    """Respond as a Celery worker does that consumes these queues, while the context is open."""
    listening, ended = threading.Event(), threading.Event()
    with Celery("pixcrawler", broker=broker_url, set_as_current=False) as app, app.connection() as connection:
        control: Any = app.control
        mailbox = control.mailbox
        active_queues = [{"name": queue} for queue in queues]
        node = mailbox.Node(
            name, handlers={"active_queues": lambda *_, **__: active_queues}, channel=connection.channel()
        )

        def respond() -> None:
            with node.listen(callback=node.handle_message):
                listening.set()
                while not ended.is_set():
                    with contextlib.suppress(TimeoutError):
                        connection.drain_events(timeout=0.05)

        thread = threading.Thread(target=respond)
        thread.start()
        try:
            # A test may fill or stop the broker then.
            assert listening.wait(10)
            yield
        finally:
            ended.set()
            thread.join()
