"""Which images the other jobs of a project have, by URL and by bytes, for jobs that leave them out.

A job knows the jobs that its dataset extends, or all of its project. What jobs of other projects have is never seen.
"""

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import TextClause, func, select, text
from sqlalchemy.orm import Session

from pixcrawler_worker.db.models import CrawlJob

#: First half of the keys of the advisory locks, of which the second is a project: the ASCII codes of "pixk".
_LOCKS = 0x7069786B
# An index finds the images with a hash; the limit keeps the planner from reading all images of a project instead.
_KNOWN = """
WITH own AS (
    SELECT job.project_id, plan.bases FROM crawl_jobs AS job
    LEFT JOIN pixcrawler.crawl_plans AS plan ON plan.crawl_job_id = job.id WHERE job.id = :job
)
SELECT wanted.hash FROM own, unnest(CAST(:hashes AS bytea[])) AS wanted (hash), LATERAL (
    SELECT FROM pixcrawler.image_facts AS fact JOIN crawl_jobs AS other ON other.id = fact.crawl_job_id
    WHERE fact.{column} = wanted.hash AND other.id <> :job AND other.project_id = own.project_id
        AND (:of_project OR other.id = ANY(own.bases))
    LIMIT 1
) AS known
"""
#: For URLs, and for files.
STATEMENTS = _BY_URL, _BY_BYTES = tuple(text(_KNOWN.format(column=column)) for column in ("url_hash", "sha256"))


@dataclass(frozen=True, slots=True)
class Known:
    """What other jobs have.

    Attributes:
        urls: hashes of URLs.
        digests: SHA-256 of files.
    """

    urls: frozenset[bytes] = frozenset()
    digests: frozenset[bytes] = frozenset()


def known(
    session: Session,
    job_id: int,
    *,
    urls: Collection[bytes] = (),
    digests: Collection[bytes] = (),
    of_project: bool,
) -> Known:
    """Return which of these URLs and files other jobs have as images.

    Args:
        session: any transaction.
        job_id: the crawl job that asks.
        urls: hashes of URLs.
        digests: SHA-256 of files.
        of_project: ask for all jobs of its project; otherwise only for those that its dataset extends.
    """

    def found(statement: TextClause, hashes: Collection[bytes]) -> frozenset[bytes]:
        if not hashes:
            return frozenset()
        values = {"job": job_id, "hashes": list(hashes), "of_project": of_project}
        return frozenset(session.scalars(statement, values))

    return Known(found(_BY_URL, urls), found(_BY_BYTES, digests))


def lock(session: Session, job_id: int) -> None:
    """Let no other job of the project that leaves known images out write images until the transaction ends.

    Two of them that find the same image at the same time would both keep it. What is known has to be read afterwards.
    """
    project = session.scalar(select(CrawlJob.project_id).where(CrawlJob.id == job_id))
    session.execute(select(func.pg_advisory_xact_lock(_LOCKS, project)))
