"""What Europeana does that others do not."""

import pytest
from aiohttp import web
from fakes.api import KEY
from fakes.europeana import Europeana
from source_client import search_with

from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.sources import protocol
from pixcrawler_worker.sources.protocol import Source, SourceConfig


def names(count: int) -> list[str]:
    return [f"{number}.jpg" for number in range(count)]


def europeana(api: Europeana, key: str = KEY) -> Source:
    return protocol.load("europeana", SourceConfig(base_url=api.url, api_key=key))


def test_beyond_a_thousand_its_sizes_are_searched() -> None:
    with Europeana(names(1100)).serving() as api:
        source = europeana(api)
        found = [search_with(source, page_size=100, page=9)]
        while found[-1].more:
            found.append(search_with(source, page_size=100, page=9 + len(found)))
    assert len({one.url for page in found for one in page.candidates}) == 1100


def test_images_come_with_license_author_and_museum() -> None:
    with Europeana(names(3)).serving() as api:
        found = search_with(europeana(api)).candidates
    assert [one.credit.license for one in found] == ["cc-by-sa-4.0", "cc-pdm-1.0", "cc0-1.0"]
    assert [one.credit.author for one in found] == ["Ada Example", None, "Ada Example"]
    assert found[0].credit.attribution == "A Cat by Ada Example, Museum of Examples, cc-by-sa-4.0, via Europeana"
    assert found[0].credit.page_url == "https://www.europeana.eu/item/1/0"


@pytest.mark.parametrize(
    ("licenses", "sent"),
    [(None, "open"), (("cc-by-sa",), "open"), (("cc0", "cc-by-nc-4.0"), "open,restricted"), (("licenseref-x",), None)],
)
def test_only_what_may_have_licenses_of_the_query_is_searched(
    licenses: tuple[str, ...] | None, sent: str | None
) -> None:
    with Europeana(names(3)).serving() as api:
        search_with(europeana(api), licenses=licenses)
    assert [one["reusability"] for one in api.queries] == ([sent] if sent else [])


def test_a_wrong_key_is_named_and_not_shown() -> None:
    with Europeana().serving() as api, pytest.raises(PermanentError, match="EUROPEANA_API_KEY right") as caught:
        search_with(europeana(api, "hunter3"))
    assert "hunter3" not in str(caught.value)


def test_an_error_with_status_200_is_one() -> None:
    api = Europeana(names(1), trouble=lambda _: web.json_response({"success": False, "error": "no rows"}))
    with api.serving(), pytest.raises(PermanentError, match="answered: no rows"):
        search_with(europeana(api))
