"""The kinds of jobs that this worker knows. A new one is a folder, a table and an entry of `JOB_KINDS`."""

from collections.abc import Mapping

from pixcrawler_worker.crawl.kind import CRAWL
from pixcrawler_worker.db.ledger.tables import JobRef
from pixcrawler_worker.export.kind import EXPORT
from pixcrawler_worker.jobs.kind import AnyJobKind
from pixcrawler_worker.validate.kind import VALIDATION

JOB_KINDS: Mapping[str, AnyJobKind] = {kind.table.name: kind for kind in (CRAWL, VALIDATION, EXPORT)}


def kind_of(ref: JobRef) -> AnyJobKind:
    """Return the kind of a job."""
    return JOB_KINDS[ref.table.name]
