"""What the Smithsonian's API does that others do not."""

from datetime import UTC, datetime, timedelta

import pytest
from fakes.api import KEY
from fakes.smithsonian import Smithsonian
from source_client import search_with

from pixcrawler_worker.errors import PermanentError, TransientError
from pixcrawler_worker.sources import protocol
from pixcrawler_worker.sources.protocol import Page, SourceConfig

NAMES = [f"{number}.jpg" for number in range(8)]


def test_only_images_that_are_free_are_offered() -> None:
    with Smithsonian(NAMES).serving() as api:
        source = protocol.load("smithsonian", SourceConfig(base_url=api.url, api_key=KEY))
        found = search_with(source).candidates
        assert search_with(source, licenses=("cc-by",)) == Page((), more=False)
    assert [one.url for one in found] == [f"{api.host}/ids/{name}" for name in NAMES]
    assert [one.credit.author for one in found[:2]] == [None, "Ada Example"]
    assert found[1].credit.attribution == "A Cat by Ada Example, National Museum of Examples, Smithsonian, CC0"
    assert api.queries[0]["q"] == "cat AND online_media_type:Images AND media_usage:CC0"


def test_a_quota_that_runs_out_stops_the_paging_and_resumes() -> None:
    now = datetime(2026, 5, 1, 12, tzinfo=UTC)
    with Smithsonian(NAMES).serving() as api:
        api.remaining = 1
        source = protocol.SOURCES.load("smithsonian")(SourceConfig(base_url=api.url, api_key=KEY), now=lambda: now)
        assert search_with(source, page_size=5).more
        with pytest.raises(TransientError) as caught:
            search_with(source, page_size=5, page=1)
        assert caught.value.retry_after == timedelta(hours=1)
        now, api.remaining = now + timedelta(hours=1), 1
        assert len(search_with(source, page_size=5, page=1).candidates) == 3
        assert len(api.requests) == 2


def test_a_wrong_key_is_named_and_not_shown() -> None:
    with Smithsonian(NAMES).serving() as api:
        source = protocol.load("smithsonian", SourceConfig(base_url=api.url, api_key="hunter3"))
        with pytest.raises(PermanentError, match="PIXCRAWLER_SMITHSONIAN_API_KEY right") as caught:
            search_with(source)
    assert "hunter3" not in str(caught.value)
