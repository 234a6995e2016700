"""What Pexels does that others do not."""

from datetime import UTC, datetime, timedelta

import pytest
from fakes.api import KEY
from fakes.pexels import Pexels
from source_client import search_with

from pixcrawler_worker.errors import PermanentError, TransientError
from pixcrawler_worker.sources import protocol
from pixcrawler_worker.sources.protocol import Page, SourceConfig

NAMES = [f"{number}.jpg" for number in range(25)]
START = datetime(2026, 5, 1, 12, tzinfo=UTC)


def test_a_quota_that_runs_out_stops_the_paging_and_resumes_the_next_day() -> None:
    now = START
    with Pexels(NAMES).serving() as api:
        api.remaining, api.resets_at = 2, int(START.timestamp()) + 86_400
        source = protocol.SOURCES.load("pexels")(SourceConfig(base_url=api.url, api_key=KEY), now=lambda: now)

        def page(number: int) -> Page:
            return search_with(source, name="pexels", page=number, page_size=10)

        found = [page(0), page(1)]
        for _ in range(3):
            with pytest.raises(
                TransientError, match="pexels has no requests left until 2026-05-02 12:00 UTC"
            ) as caught:
                page(2)
            assert caught.value.retry_after == timedelta(days=1)
        assert len(api.requests) == 2, "nothing is requested in vain"
        now, api.remaining = START + timedelta(days=1), 200
        found.append(page(2))
    assert [api.name_of(one.url) for one_page in found for one in one_page.candidates] == NAMES
    assert [one_page.more for one_page in found] == [True, True, False]


def test_without_headers_too_many_requests_wait_for_an_hour() -> None:
    with Pexels(NAMES).serving() as api:
        api.remaining = 0
        source = protocol.SOURCES.load("pexels")(SourceConfig(base_url=api.url, api_key=KEY), now=lambda: START)
        with pytest.raises(TransientError) as caught:
            search_with(source, name="pexels")
    assert caught.value.retry_after == timedelta(hours=1)


def test_photos_come_scaled_with_photographer() -> None:
    with Pexels(NAMES[:1]).serving() as api:
        source = protocol.load("pexels", SourceConfig(base_url=api.url, api_key=KEY))
        ((usual,), (large,), (huge,)) = (search_with(source, min_width=width).candidates for width in (1, 1900, 3900))
        assert search_with(source, licenses=("cc-by",)) == Page((), more=False)
        assert len(search_with(source, licenses=("licenseref-pexels",)).candidates) == 1
    assert (usual.url.rpartition("&")[2], usual.width, usual.height) == ("w=1280", 1280, 960)
    assert (large.width, huge.width, huge.url.rpartition("?")[0]) == (1920, 4000, "")
    assert usual.credit.license == "licenseref-pexels"
    assert usual.credit.attribution == "Photo by Ada Example on Pexels"


def test_a_wrong_key_is_named_and_not_shown() -> None:
    with Pexels(NAMES).serving() as api:
        source = protocol.load("pexels", SourceConfig(base_url=api.url, api_key="hunter3"))
        with pytest.raises(PermanentError, match=r"answered 401: .*is PIXCRAWLER_PEXELS_API_KEY right") as caught:
            search_with(source, name="pexels")
    assert "hunter3" not in str(caught.value)
