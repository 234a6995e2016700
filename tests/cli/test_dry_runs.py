"""`pixcrawler build --dry-run`: what a build would find, from a list, a gallery and providers on loopback."""

import asyncio
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from calls import call
from fakes import providers
from fakes.providers import Catalog

from pixcrawler_worker import settings
from pixcrawler_worker.crawl.lists.stored import StoredList
from pixcrawler_worker.crawl.options import parse
from pixcrawler_worker.crawl.preview import Preview, preview
from pixcrawler_worker.domain.list_rows import ListRow
from pixcrawler_worker.runtime import SearchRuntime
from pixcrawler_worker.sources.protocol import Page, Query, Source, SourceConfig
from pixcrawler_worker.web.http import AsyncClient

LOOPBACK = {"PIXCRAWLER_ALLOWED_NETWORKS": "127.0.0.0/8"}
LIST = """# cats
https://a.example/1.jpg
https://a.example/1.jpg

https://b.example/2.jpg
http://10.0.0.1/secret.jpg
https://a.example:8080/1.jpg
ftp://a.example/1.jpg
https://a.example/3.jpg
"""


def as_json(env: Mapping[str, str], *words: str, code: int = 0) -> dict[str, Any]:
    result = call(env, "build", *words, "--dry-run", "--json")
    assert result.exit_code == code, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_one_url_is_no_several() -> None:
    Path("cat.txt").write_text("https://a.example/1.jpg\n", encoding="utf-8")
    result = call({}, "build", "cat", "--urls", "cat.txt", "--dry-run")
    assert result.stdout.endswith("\n1 URL would be downloaded, for 1 image at most\n")


def test_a_list_has_its_counts_hosts_and_bad_lines_without_a_request() -> None:
    Path("cats.txt").write_text(LIST, encoding="utf-8")
    result = call({"COLUMNS": "80"}, "build", "cat", "--urls", "cats.txt", "--dry-run")
    assert result.exit_code == 0
    lines = [line.rstrip() for line in result.stdout.splitlines()]
    assert "urls    cat               7         1         3       3" in lines
    assert {"   2  a.example", "   1  b.example"} <= set(lines)
    assert [line for line in lines if line.startswith("line ")] == [
        "line 6: forbidden_address: http://10.0.0.1/secret.jpg",
        "line 7: forbidden_port: https://a.example:8080/1.jpg",
        "line 8: bad_url: ftp://a.example/1.jpg",
    ]
    assert lines[-1] == "3 URLs would be downloaded, for 7 images at most"
    assert max(map(len, lines)) <= 80
    # No service, no directory, no dataset.
    assert [path.name for path in Path().iterdir()] == ["cats.txt"]


def test_the_candidates_of_a_dry_run_are_in_the_order_of_the_list() -> None:
    Path("cats.txt").write_text(LIST, encoding="utf-8")
    found = as_json({}, "cat", "--urls", "cats.txt", "--max-images", "2")
    assert [one["url"] for one in found["candidates"]] == [
        "https://a.example/1.jpg",
        "https://b.example/2.jpg",
        "https://a.example/3.jpg",
    ]
    assert [one["line"] for one in found["bad"]] == [6, 7, 8]
    assert found["searches"][0]["reasons"] == found["reasons"]


def test_a_license_filter_shows_what_it_drops_from_each_source() -> None:
    catalog = Catalog.of("red panda", "cat", count=30)
    with providers.serving(catalog) as server:
        env = {**LOOPBACK, **server.settings}
        words = ("red panda", "cat", "--source", "commons", "--source", "openverse", "--max-images", "40")
        everything = as_json(env, *words)
        some = as_json(env, *words, "--license", "cc-by")
        text = call({**env, "COLUMNS": "80"}, "build", *words, "--license", "cc0", "--dry-run").stdout
        requests = set(server.requests)
    assert {(one["source"], one["keyword"]) for one in everything["searches"]} == {
        (source, keyword) for source in ("commons", "openverse") for keyword in ("red panda", "cat")
    }
    assert everything["usable"] >= 40
    assert {"cc-by-sa-4.0", "cc-by-2.0", "cc0-1.0"} < set(everything["licenses"])
    # Openverse searches for the license itself; Commons cannot, and its candidates are dropped here.
    dropped = Counter({one["source"]: 0 for one in some["searches"]})
    for one in some["searches"]:
        dropped[one["source"]] += one["reasons"].get("license_not_wanted", 0)
    assert dropped["commons"] > 0
    assert dropped["openverse"] == 0
    assert {one["license"] for one in some["candidates"]} == {"cc-by-2.0"}
    assert "cc-by-sa-4.0, not accepted by --license" in text
    assert max(map(len, text.splitlines())) <= 80
    assert requests == {"commons", "openverse"}  # and no file


def test_a_gallery_is_read_and_its_repeated_and_empty_entries_are_counted() -> None:
    index = {"cat": ["1.jpg", "2.jpg", "1.jpg", {"title": "no file"}], "dog": ["3.jpg"]}
    with providers.application(lambda _: web.json_response(index)) as base:
        env = {**LOOPBACK, "PIXCRAWLER_GALLERY_URL": base}
        found = as_json(env, "cat", "dog", "--source", "gallery")
    assert [(one["keyword"], one["candidates"], one["usable"]) for one in found["searches"]] == [
        ("cat", 4, 2),
        ("dog", 1, 1),
    ]
    assert found["reasons"] == {"duplicate_url": 1, "invalid_entry": 1}


def test_the_searches_of_a_keyword_are_made_and_each_candidate_has_its_own() -> None:
    index = {"cat": ["1.jpg"], "kitten": ["2.jpg", "1.jpg"], "cat close-up": ["3.jpg"], "dog": ["4.jpg"]}
    Path("words.csv").write_text("cat,kitten\n")
    words = ("--source", "gallery", "--synonyms", "words.csv", "--variant", "{keyword} close-up", "--max-images", "50")
    with providers.application(lambda _: web.json_response(index)) as base:
        env = {**LOOPBACK, "PIXCRAWLER_GALLERY_URL": base}
        found = as_json(env, "cat", "dog", *words)
    assert sorted((one["label"], one["query"], one["url"][-5]) for one in found["candidates"]) == [
        ("cat", "cat", "1"),
        ("cat", "cat close-up", "3"),
        ("cat", "kitten", "2"),
        ("dog", "dog", "4"),
    ]
    assert found["reasons"] == {"duplicate_url": 1}
    assert {(one["keyword"], one["candidates"]) for one in found["searches"]} == {("cat", 4), ("dog", 1)}


def test_a_source_that_fails_is_named_and_without_candidates_the_exit_code_is_1() -> None:
    with providers.application(lambda _: web.Response(status=403, text="no")) as base:
        env = {**LOOPBACK, "PIXCRAWLER_GALLERY_URL": base}
        result = call(env, "build", "cat", "--source", "gallery", "--dry-run")
    assert result.exit_code == 1
    assert "pixcrawler: gallery, cat: gallery at http://127.0.0.1" in result.stderr
    assert result.stdout.endswith("nothing would be downloaded\n")


def test_a_bug_of_one_source_leaves_the_others() -> None:
    class Broken(Source):
        async def search(self, query: Query, http: AsyncClient) -> Page:
            raise KeyError(query.text, http.params)

    async def search() -> Preview:
        async with SearchRuntime.of(settings.load()) as runtime:
            runtime.sources["gallery"] = Broken(SourceConfig())
            with StoredList([ListRow("https://a.example/1.jpg")]) as listed:
                options = parse({"sources": ["gallery", "urls"]})
                return await preview(runtime, ["cat"], options, listed, max_images=2, keeps_candidates=True)

    found = asyncio.run(search())
    assert found.count == 1
    assert found.searches["gallery", "cat"].errors == ["internal error: KeyError('cat', QueryParams(''))"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--job", "3", "--dry-run"), "a job has its keywords and options already"),
        (("cat", "--json"), "--json is for --dry-run"),
        (("cat", "--dry-run", "--license", "cc9"), "cc9"),
        (("cat", "--dry-run", "--layout", "imagfolder"), "did you mean 'imagefolder'?"),
    ],
)
def test_what_a_build_would_reject_its_dry_run_rejects(words: tuple[str, ...], message: str) -> None:
    result = call({}, "build", *words)
    assert result.exit_code == 2
    assert message in result.stderr


def test_long_urls_and_hosts_do_not_make_lines_longer_than_the_terminal() -> None:
    hosts = [f"https://{'a' * 60}{number}.example.org/{'x' * 200}.jpg" for number in range(30)]
    Path("cats.txt").write_text("\n".join([*hosts, f"ftp://{'b' * 300}/1.jpg"]), encoding="utf-8")
    result = call({"COLUMNS": "80"}, "build", "cat" * 40, "--urls", "cats.txt", "--dry-run")
    assert result.exit_code == 0
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert "in 20 more rows, which --json has" in result.stdout
