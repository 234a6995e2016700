"""The counts of candidates add up, whatever the row and the ledger say; `test_report.py` counts real crawls."""

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st
from reports import adds_up, parse

from pixcrawler_worker.crawl.accounting import Accounting
from pixcrawler_worker.db.crawls import CandidateCounts
from pixcrawler_worker.db.job_views import CrawlView
from pixcrawler_worker.domain.reasons import Reason
from pixcrawler_worker.html_report import Table

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@given(
    images=st.tuples(st.integers(0, 50), st.integers(0, 60), st.integers(0, 60)),
    candidates=st.tuples(st.integers(0, 2**31 - 1), st.integers(0, 90)),
    reasons=st.dictionaries(st.sampled_from([*map(str, Reason), "of_a_later_version"]), st.integers(1, 99)),
)
def test_any_counts_add_up(images: tuple[int, int, int], candidates: tuple[int, int], reasons: dict[str, int]) -> None:
    (valid, existing, stored), (total, left) = images, candidates
    job = CrawlView(
        id=1, name="a", status="completed", progress=100, created_at=NOW, started_at=None, completed_at=None,
        total_chunks=1, completed_chunks=1, failed_chunks=0, keywords=["a"], max_images=50, total_images=total,
        downloaded_images=0, valid_images=valid, active_chunks=0, live_images=0,
    )  # fmt: skip
    counted = Accounting.of(job, CandidateCounts(stored, reasons, left), images=existing)
    assert counted.candidates[0][1] == total
    html = [
        Table(heading=heading, counts=counts, column="<&>").html()
        for heading, counts in (("a", counted.outcomes), ("b", counted.candidates), ("c", list(reasons.items())))
    ]
    found = parse("".join(html))
    adds_up(found)
    assert found.tables["a"]["total"] == found.tables["b"]["distinct URLs that were processed"] == total
