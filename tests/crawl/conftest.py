"""A web server with valid and broken images, and what must hold after every test that runs chunks."""

from collections.abc import Iterator

import ledger
import pytest
from doubles import query
from fakes.hosts import HostileServer, serving

from pixcrawler_worker.runtime import Runtime


@pytest.fixture(scope="module")
def host() -> Iterator[HostileServer]:
    with serving() as server:
        yield server


@pytest.fixture
def sound(runtime: Runtime) -> Iterator[None]:
    """Only the jobs of the test are there; after it the ledger's invariants hold, and no row is without its file."""
    ledger.execute(runtime.sessions, "DELETE FROM crawl_jobs")
    yield
    with runtime.sessions.begin() as checked:
        for (job_id,) in query(runtime, "SELECT id FROM crawl_jobs"):
            ledger.check_invariants(checked, job_id)
    for (url,) in query(runtime, "SELECT storage_url FROM images"):
        assert runtime.run(runtime.storage.get(runtime.storage.key(url)))
