"""What Unsplash does that others do not."""

from datetime import UTC, datetime, timedelta

import pytest
from fakes.api import KEY
from fakes.unsplash import Unsplash
from source_client import search_with, with_client

from pixcrawler_worker.errors import PermanentError, TransientError
from pixcrawler_worker.sources import protocol
from pixcrawler_worker.sources.protocol import Page, SourceConfig

NAMES = [f"{number}.jpg" for number in range(25)]


def test_a_quota_that_runs_out_is_not_taken_for_a_wrong_key() -> None:
    now = datetime(2026, 5, 1, 12, tzinfo=UTC)
    with Unsplash(NAMES).serving() as api:
        api.remaining = 0
        source = protocol.SOURCES.load("unsplash")(SourceConfig(base_url=api.url, api_key=KEY), now=lambda: now)
        for _ in range(2):
            with pytest.raises(TransientError, match="unsplash has no requests left") as caught:
                search_with(source, page_size=10)
            assert caught.value.retry_after == timedelta(hours=1)
        assert len(api.requests) == 1
        now, api.remaining = now + timedelta(hours=1), 50
        assert len(search_with(source, page_size=10).candidates) == 10


def test_each_photo_that_is_used_can_be_reported_with_the_key() -> None:
    with Unsplash(NAMES[:2]).serving() as api:
        source = protocol.load("unsplash", SourceConfig(base_url=api.url, api_key=KEY))
        used = search_with(source).candidates[1].use_url
        assert used == f"{api.url}/photos/id1/download?ixid=M3w1"
        with_client(lambda client: source.report_use(used, client))
        assert api.used == ["id1"]


def test_the_key_goes_to_no_other_host() -> None:
    with Unsplash(NAMES).serving() as api, Unsplash(NAMES).serving() as other:
        source = protocol.load("unsplash", SourceConfig(base_url=api.url, api_key=KEY))
        with pytest.raises(PermanentError, match="another host"):
            with_client(lambda client: source.report_use(f"{other.url}/photos/id1/download", client))
        assert other.requests == []


def test_photos_keep_the_parameter_that_counts_views() -> None:
    with Unsplash(NAMES[:1]).serving() as api:
        source = protocol.load("unsplash", SourceConfig(base_url=api.url, api_key=KEY))
        (usual,) = search_with(source).candidates
        (large,) = search_with(source, min_width=2000, safe_search=False).candidates
        assert search_with(source, licenses=("cc0",)) == Page((), more=False)
    assert "ixid=M3w0" in usual.url
    assert (usual.width, usual.height, large.width, large.height) == (1080, 810, 4000, 3000)
    assert usual.credit.attribution == "Photo by Ada Example on Unsplash"
    assert usual.credit.license == "licenseref-unsplash"
    assert [one["content_filter"] for one in api.queries] == ["high", "low"]


def test_a_wrong_key_is_named() -> None:
    with Unsplash(NAMES).serving() as api:
        source = protocol.load("unsplash", SourceConfig(base_url=api.url, api_key="hunter3"))
        with pytest.raises(PermanentError, match="access token is invalid; is PIXCRAWLER_UNSPLASH_API_KEY right"):
            search_with(source)
