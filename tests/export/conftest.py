import ledger
import pytest

from pixcrawler_worker.export import cleanup
from pixcrawler_worker.jobs.limits import LIMITS
from pixcrawler_worker.runtime import Runtime


@pytest.fixture
def nothing_else(runtime: Runtime) -> None:
    """Leave no job and no file of an earlier test."""
    ledger.execute(runtime.sessions, "DELETE FROM profiles")
    cleanup.clean_up(runtime, LIMITS)
