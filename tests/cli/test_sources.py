"""`pixcrawler sources`."""

import json

from calls import call


def test_sources_tell_what_is_ready_and_what_is_missing() -> None:
    told = call({}, "sources").stdout
    assert "commons    ready" in told
    assert "gallery    set PIXCRAWLER_GALLERY_URL" in told
    assert "20 candidates per result page, 240 per keyword" in told
    assert "https://docs.openverse.org/terms_of_service.html" in told.replace("\n           ", "")


def test_sources_are_told_to_machines() -> None:
    told = json.loads(call({"PIXCRAWLER_GALLERY_URL": "http://pictures.example"}, "sources", "--json").stdout)
    assert [source["name"] for source in told] == ["commons", "gallery", "openverse", "urls"]
    assert all(source["ready"] for source in told)
    assert told[0]["depth"] == 10_000
