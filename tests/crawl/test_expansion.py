"""Jobs whose keywords are searched by variants and synonyms, run in this process."""

from collections import Counter
from typing import Any

import ledger
import pytest
from doubles import StubSource, drive, image_urls, last_details, make_job, page_of, query, start, status, with_sources
from fakes.hosts import HostileServer

from pixcrawler_worker.crawl.kind import CRAWL
from pixcrawler_worker.domain.lifecycle import JobStatus
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.jobs import submission
from pixcrawler_worker.runtime import Runtime
from pixcrawler_worker.sources.protocol import Page, Query

pytestmark = pytest.mark.usefixtures("sound")

SYNONYMS = {"cat": ["kitten", "Katze"]}
VARIANTS = ["{keyword} close-up"]


def test_every_search_brings_its_share_and_each_image_has_its_label_and_query(
    runtime: Runtime, host: HostileServer
) -> None:
    def answer(search: Query) -> Page:
        return page_of(image_urls(host, f"expansion-{search.text.replace(' ', '-')}", 20), search)

    there = with_sources(runtime, shelf=StubSource(answer))
    job: dict[str, Any] = {"keywords": ["cat", "dog"], "max_images": 24}
    ref, messages = start(there, sources=["shelf"], job=job, variants=VARIANTS, synonyms=SYNONYMS)
    drive(there, messages)
    counts = query(runtime, "SELECT label, query, count(*) FROM pixcrawler.image_facts GROUP BY 1, 2 ORDER BY 1, 2")
    assert counts == [
        ("cat", "Katze", 3),
        ("cat", "cat", 3),
        ("cat", "cat close-up", 3),
        ("cat", "kitten", 3),
        ("dog", "dog", 6),
        ("dog", "dog close-up", 6),
    ]
    assert status(runtime, ref) is JobStatus.COMPLETED


def test_what_several_searches_find_is_downloaded_and_counted_once(runtime: Runtime, host: HostileServer) -> None:
    shared = image_urls(host, "found-again", 6)
    own = {text: image_urls(host, f"found-by-{text}", 2) for text in ("cat", "kitten", "Katze")}
    source = StubSource(lambda search: page_of([*shared, *own[search.text]], search))
    there = with_sources(runtime, shelf=source)
    ref, messages = start(there, sources=["shelf"], job={"max_images": 12}, synonyms=SYNONYMS)
    drive(there, messages)
    job = ledger.crawl_job(runtime.sessions, ref)
    assert (job.total_images, job.downloaded_images, job.valid_images) == (12, 12, 12)
    downloads = "SELECT DISTINCT downloads FROM pixcrawler.crawl_candidates WHERE crawl_job_id = :id"
    assert query(runtime, downloads, id=ref.id) == [(1,)]
    assert last_details(runtime, ref)["reasons"].keys() == {"duplicate_url"}
    assert Counter(search.text for search in source.searches).keys() == {"cat", "kitten", "Katze"}


def test_the_options_are_recorded_and_a_retry_goes_on_with_them(runtime: Runtime, host: HostileServer) -> None:
    found = {"cat": image_urls(host, "again-cat", 2), "kitten": [host.url("/fault/flaky/again")] * 1, "Katze": []}
    calm: list[bool] = []

    def answer(search: Query) -> Page:
        if search.text == "kitten" and not calm:
            raise PermanentError("closed today")
        return page_of(found[search.text], search)

    there = with_sources(runtime, shelf=StubSource(answer))
    ref, messages = start(there, sources=["shelf"], job={"max_images": 9}, synonyms=SYNONYMS)
    drive(there, messages)
    assert ledger.crawl_job(runtime.sessions, ref).valid_images == 2
    ((options,),) = query(runtime, "SELECT options FROM pixcrawler.crawl_plans WHERE crawl_job_id = :id", id=ref.id)
    assert options["synonyms"] == SYNONYMS
    assert "variants" not in options
    calm.append(True)
    drive(there, submission.retry(there, CRAWL, ref.id))
    assert query(runtime, "SELECT query FROM pixcrawler.image_facts ORDER BY 1") == [("cat",), ("cat",), ("kitten",)]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"synonyms": {"cats": ["kitten"]}}, "there is no keyword 'cats' in the job, did you mean 'cat'?"),
        ({"variants": ["close-up"]}, "options.variants[0]: expected {keyword} in it"),
        ({"variants": ["{keyword} {size}"]}, "options.variants[0]: there is no placeholder {size}"),
        ({"variants": ["{keyword}"] * 21}, "options.variants: expected at most 20 entries"),
        ({"variants": "{keyword}"}, "options.variants: expected an array"),
        ({"synonyms": {"cat": ["x"] * 101}}, "options.synonyms.cat: expected at most 100 entries"),
        ({"synonyms": {"cat": "kitten"}}, "options.synonyms.cat: expected an array"),
        ({"synonyms": {"cat": [7]}}, "options.synonyms.cat[0]: expected a string"),
        ({"synonyms": ["cat"]}, "options.synonyms: expected an object"),
    ],
)
def test_options_that_are_wrong_fail_the_job_with_the_reason(
    runtime: Runtime, options: dict[str, Any], said: str
) -> None:
    ref = make_job(runtime)
    there = with_sources(runtime, shelf=StubSource(lambda search: page_of([], search)))
    submission.start(there, CRAWL, ref.id, {"sources": ["shelf"]} | options)
    assert status(runtime, ref) is JobStatus.FAILED
    assert said in last_details(runtime, ref)["reason"]


def test_a_url_list_has_no_further_searches(runtime: Runtime, host: HostileServer) -> None:
    ref, _ = start(runtime, image_urls(host, "listed", 2), variants=VARIANTS)
    assert status(runtime, ref) is JobStatus.FAILED
    assert "options.variants: nothing is searched for a URL list" in last_details(runtime, ref)["reason"]
