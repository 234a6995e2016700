"""`pixcrawler sources`."""

import json

from calls import call


def test_sources_are_listed_with_what_they_need() -> None:
    output = call({}, "sources").stdout
    assert "commons           ready" in output
    assert "gallery           set PIXCRAWLER_GALLERY_URL" in output
    assert "20 candidates per result page, 17,520 per keyword" in output
    assert "ready, for jobs that name it" in output
    assert "https://docs.openverse.org/terms_of_service.html" in output.replace("\n" + " " * 18, "")


def test_what_to_set_is_in_one_line_where_there_is_no_terminal() -> None:
    lines = call({}, "sources").stdout.splitlines()
    where = "set PIXCRAWLER_FLICKR_API_KEY (https://www.flickr.com/services/apps/create/)"
    assert f"flickr            {where}" in lines
    assert [line for line in lines if line.startswith(" ")] == [line for line in lines if line.startswith(" " * 18)]


def test_sources_are_listed_as_json() -> None:
    output = json.loads(call({"PIXCRAWLER_GALLERY_URL": "http://pictures.example"}, "sources", "--json").stdout)
    found = {source["name"]: source for source in output}
    assert all(found[name]["ready"] for name in ("commons", "gallery", "inaturalist", "openverse", "urls"))
    assert found["nasa"]["depth"] == 10_000
    assert (found["commons"]["by_default"], found["inaturalist"]["by_default"]) == (True, False)
