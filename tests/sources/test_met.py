"""What The Met does that others do not."""

from typing import Any

import source_client
from fakes.api import Api
from fakes.met import Met

from pixcrawler_worker.sources.protocol import Page

NAMES = [f"{number}.jpg" for number in range(8)]
NOTHING = Page((), more=False)


def search_in(api: Api, **values: Any) -> Page:
    return source_client.search("met", api.url, **{"page_size": 20} | values)


def numbers(api: Api, page: Page) -> list[int]:
    return [int(api.name_of(candidate.url).partition(".")[0]) for candidate in page.candidates]


def test_works_of_the_met_that_cannot_be_had_are_counted() -> None:
    api = Met(NAMES[:2])
    api.restricted, api.gone = (1500,), (1600,)
    with api.serving():
        page = search_in(api)
    assert (numbers(api, page), page.invalid, page.more) == ([0, 1], 2, False)
    assert page.candidates[0].credit.license == "cc0-1.0"
    assert [one.credit.author for one in page.candidates] == ["Ada Example", None]


def test_the_met_is_not_asked_for_other_licenses_than_it_has() -> None:
    with Met(NAMES).serving() as api:
        assert search_in(api, licenses=("cc-by",)) == NOTHING
        assert api.requests == []
        assert len(search_in(api, licenses=("cc0",)).candidates) == 8
