"""What the chunks of a validation have found."""

from collections import Counter

from pixcrawler_worker.db.ledger import chunk_results
from pixcrawler_worker.db.session import Session
from pixcrawler_worker.db.validations import VALIDATION_JOBS
from pixcrawler_worker.validate.payloads import ValidationChunkResult


def counts(session: Session, job_id: int) -> Counter[str]:
    """Return in how many images each check found something, the most frequent first."""
    total: Counter[str] = Counter()
    for chunk in chunk_results.ended(session, VALIDATION_JOBS.ref(job_id)):
        total.update(ValidationChunkResult.from_json(chunk.result).counts)
    return Counter(dict(total.most_common()))
