"""How the kinds of jobs are shown: the displays of `registry.JOB_KINDS`, without what runs their chunks.

A command that shows jobs imports no worker, which takes longer than the rest of the command.
"""

from collections.abc import Mapping

from pixcrawler_worker.crawl.display import CRAWL_DISPLAY
from pixcrawler_worker.db.ledger.tables import JobRef
from pixcrawler_worker.export.display import EXPORT_DISPLAY
from pixcrawler_worker.jobs.display import AnyJobDisplay
from pixcrawler_worker.validate.display import VALIDATION_DISPLAY

DISPLAYS: Mapping[str, AnyJobDisplay] = {
    one.view.table.name: one for one in (CRAWL_DISPLAY, VALIDATION_DISPLAY, EXPORT_DISPLAY)
}


def display_of(ref: JobRef) -> AnyJobDisplay:
    """Return how a job is shown."""
    return DISPLAYS[ref.table.name]
