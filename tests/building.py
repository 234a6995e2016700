"""Jobs that run in a thread of this process, in place of a worker, while a test calls what waits for them."""

import contextlib
import threading
import time
from collections.abc import Iterator

import pytest

from pixcrawler_worker.jobs import executor, sweeper
from pixcrawler_worker.registry import JOB_KINDS
from pixcrawler_worker.runtime import Runtime, connect


@contextlib.contextmanager
def working(runtime: Runtime) -> Iterator[None]:
    """Sweep and run all chunks meanwhile. Pending crawl jobs are started without their options."""
    ended = threading.Event()
    eager = runtime.settings.model_copy(update={"start_pending": True, "lease_seconds": 1.0})
    opened = connect(eager)

    def work() -> None:
        while not ended.is_set():
            messages = list(sweeper.sweep(opened, JOB_KINDS.values()).messages)
            while messages:
                message = messages.pop(0)
                messages += executor.run(opened, JOB_KINDS[message.queue], message.chunk_id)
            time.sleep(0.05)

    thread = threading.Thread(target=work)
    thread.start()
    with pytest.MonkeyPatch.context() as environment:
        # No broker responds there, so the sweep starts the jobs.
        environment.setenv("PIXCRAWLER_BROKER_URL", "redis://127.0.0.1:1/0")
        try:
            yield
        finally:
            ended.set()
            thread.join()
            opened.close()
