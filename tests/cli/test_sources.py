"""`pixcrawler sources`."""

import json

from calls import call


def test_sources_are_listed_with_what_they_need() -> None:
    output = call({}, "sources").stdout
    assert "commons    ready" in output
    assert "gallery    set PIXCRAWLER_GALLERY_URL" in output
    assert "20 candidates per result page, 240 per keyword" in output
    assert "https://docs.openverse.org/terms_of_service.html" in output.replace("\n           ", "")


def test_sources_are_listed_as_json() -> None:
    output = json.loads(call({"PIXCRAWLER_GALLERY_URL": "http://pictures.example"}, "sources", "--json").stdout)
    assert [source["name"] for source in output] == ["commons", "gallery", "openverse", "urls"]
    assert all(source["ready"] for source in output)
    assert output[0]["depth"] == 10_000
