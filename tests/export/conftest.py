import ledger
import pytest

from pixcrawler_worker.export import cleanup
from pixcrawler_worker.jobs.limits import LIMITS
from pixcrawler_worker.runtime import Runtime


@pytest.fixture
def nothing_else(runtime: Runtime) -> None:
    """Delete the jobs and files of earlier tests."""
    ledger.execute(runtime.sessions, "DELETE FROM profiles")
    cleanup.clean_up(runtime, LIMITS)
