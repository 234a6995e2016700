"""Which crawl jobs may run again."""

from pixcrawler_worker.db import crawls
from pixcrawler_worker.db.ledger.tables import JobRef
from pixcrawler_worker.db.session import Session


def not_again(session: Session, ref: JobRef) -> str | None:
    """Return why a job with chunks must not run again: it would complete what was not requested."""
    known = crawls.recorded_options(session, ref.id)
    if known is None or not known.as_given:
        return None
    return (
        "it was started before its message, without the options in it: insert a new job with its options in the row, "
        "or create it with pixcrawler crawl"
    )
