"""What The Met does that others do not."""

from typing import Any

import pytest
import source_client
from aiohttp import web
from fakes.api import Api
from fakes.met import Met

from pixcrawler_worker.errors import PermanentError, TransientError
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


class FailingMet(Met):
    """Answers requests for some works with an error of the server, always."""

    failing: tuple[int, ...] = ()

    def respond(self, request: web.Request) -> web.Response:
        if request.path.rpartition("/")[2] in {str(1000 + number) for number in self.failing}:
            return web.Response(status=self.status, text="<h1>Oops</h1>", content_type="text/html")
        return super().respond(request)

    status = 500


@pytest.mark.parametrize("status", [200, 403, 500])
def test_a_work_that_always_fails_does_not_cost_the_others(status: int) -> None:
    api = FailingMet(NAMES)
    api.failing, api.status = (2,), status
    with api.serving():
        page = search_in(api)
    assert (numbers(api, page), page.invalid) == ([0, 1, 3, 4, 5, 6, 7], 1)


@pytest.mark.parametrize(("status", "error"), [(500, TransientError), (200, PermanentError)])
def test_where_many_works_fail_it_is_the_provider(status: int, error: type[Exception]) -> None:
    api = FailingMet(NAMES)
    api.failing, api.status = tuple(range(1, 8)), status
    with api.serving(), pytest.raises(error, match="met"):
        search_in(api)


def test_when_it_wants_a_pause_no_further_work_is_requested() -> None:
    api = FailingMet([f"{number}.jpg" for number in range(40)])
    api.failing, api.status = (0,), 429
    with api.serving(), pytest.raises(TransientError) as caught:
        search_in(api, page_size=40)
    assert caught.value.retry_after
    assert len(api.requests) < 15
