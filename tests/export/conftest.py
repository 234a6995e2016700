import ledger
import pytest

from pixcrawler_worker import maintenance
from pixcrawler_worker.runtime import Runtime


@pytest.fixture
def nothing_else(runtime: Runtime) -> None:
    """Leave no job and no file of an earlier test."""
    ledger.execute(runtime.sessions, "DELETE FROM profiles")
    maintenance.tidy_exports(runtime)
