"""URL lists as arguments of `pixcrawler crawl` and `build`."""

import gzip
import json
from collections.abc import Mapping
from pathlib import Path

import ledger
import pytest
import redis
from calls import call, sent
from doubles import query

from pixcrawler_worker.runtime import Runtime

URLS = ["https://example.org/1.jpg", "https://example.org/2.jpg", "https://example.org/3.jpg"]
LIST = "\n".join(URLS)


@pytest.fixture(autouse=True)
def clean(runtime: Runtime) -> None:
    ledger.execute(runtime.sessions, "DELETE FROM profiles")


@pytest.mark.parametrize(
    "content",
    [
        LIST.encode("utf-16"),
        LIST.encode("utf-8-sig"),
        LIST.replace("\n", "\r").encode(),
        "\n".join(f"<{url}>," for url in URLS).encode(),
        "\n".join(["text,url", *(f"cat,{url}" for url in URLS)]).encode(),
        gzip.compress(json.dumps([{"url": url} for url in URLS]).encode(), mtime=0),
    ],
    ids=["utf-16", "byte order mark", "carriage returns", "brackets", "csv", "compressed"],
)
def test_a_list_is_read_from_a_file_and_its_length_is_that_of_the_job(
    env: Mapping[str, str], broker: redis.Redis, runtime: Runtime, content: bytes
) -> None:
    Path("list.txt").write_bytes(content)
    call(env, "crawl", "cat", "--urls", "list.txt")
    assert query(runtime, "SELECT urls FROM pixcrawler.crawl_urls") == [(URLS,)]
    assert query(runtime, "SELECT max_images FROM crawl_jobs") == [(len(URLS),)]
    assert len(sent(broker)) == 1


def test_the_column_of_a_table_is_chosen(env: Mapping[str, str], broker: redis.Redis, runtime: Runtime) -> None:
    table = "\n".join(["small,large", *(f"https://example.org/small/{at},{url}" for at, url in enumerate(URLS))])
    Path("table.csv").write_text(table)
    result = call(env, "crawl", "cat", "--urls", "table.csv")
    assert result.exit_code == 2
    assert "table.csv has several columns with URLs: choose one with --url-column, of small, large" in result.stderr
    assert call(env, "crawl", "cat", "--urls", "table.csv", "--url-column", "large").exit_code == 0
    assert query(runtime, "SELECT urls FROM pixcrawler.crawl_urls") == [(URLS,)]
    result = call(env, "crawl", "cat", "--url-column", "large")
    assert "--url-column names a column of a list: give the list with --urls" in result.stderr
    assert len(sent(broker)) == 1


def test_captions_labels_and_columns_are_recorded(
    env: Mapping[str, str], broker: redis.Redis, runtime: Runtime
) -> None:
    rows = "\n".join(["kind,alt,url,width,more", f"cat,a red cat,{URLS[0]},640,", f",,{URLS[1]},,x"])
    Path("table.csv").write_text(rows)
    assert call(env, "crawl", "cat", "--urls", "table.csv", "--label-column", "kind").exit_code == 0
    assert query(runtime, "SELECT urls, details FROM pixcrawler.crawl_urls") == [
        (
            URLS[:2],
            [{"caption": "a red cat", "label": "cat", "columns": {"width": "640"}}, {"columns": {"more": "x"}}],
        )
    ]
    result = call(env, "crawl", "cat", "--caption-column", "alt")
    assert "--caption-column names a column of a list: give the list with --urls" in result.stderr
    assert len(sent(broker)) == 1


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (f"- [cat]({URLS[0]})\n".encode(), f'Markdown ("- [cat]({URLS[0]})")'),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF", "a JPEG image"),
        (b"example.org/1.jpg", 'a URL without https:// or http:// ("example.org/1.jpg")'),
    ],
)
def test_a_file_of_another_format_ends_with_one_line_and_creates_nothing(
    env: Mapping[str, str], broker: redis.Redis, runtime: Runtime, content: bytes, kind: str
) -> None:
    Path("list.txt").write_bytes(content)
    for command in ("crawl", "build"):
        for file, name in (("list.txt", "list.txt"), ("-", "stdin")):
            result = call(env, command, "cat", "--urls", file, stdin=content if file == "-" else None)
            assert result.exit_code == 2
            assert f"{name}, line 1: expected one URL per line, but this looks like {kind}: " in result.stderr
            assert result.stdout == ""
    assert query(runtime, "SELECT count(*) FROM crawl_jobs") == [(0,)]
    assert sent(broker) == []


@pytest.mark.parametrize(
    ("words", "options"),
    [
        (["--limit-rate", "500k"], {"limit_rate": 500 * 1024}),
        (["--limit-rate", "2M"], {"limit_rate": 2 << 20}),
        (["--limit-rate", "2.5MiB/s"], {"limit_rate": 5 << 19}),
        (["--limit-rate", "20000", "--wait", "1.5"], {"limit_rate": 20_000, "wait": 1.5}),
        (["--wait", "0"], {}),
    ],
)
def test_the_pace_of_a_job_is_recorded_with_it(
    env: Mapping[str, str], broker: redis.Redis, runtime: Runtime, words: list[str], options: dict[str, float]
) -> None:
    assert call(env, "crawl", "cat", *words).exit_code == 0
    ((recorded,),) = query(runtime, "SELECT options FROM pixcrawler.crawl_plans")
    assert recorded == {"chunk_size": 100} | options
    assert len(sent(broker)) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--limit-rate", "fast"], "expected bytes in a second, such as 500k or 2M, got 'fast'"),
        (["--limit-rate", "-1"], "expected bytes in a second"),
        (["--limit-rate", "500k-800k"], "expected bytes in a second"),
        (["--limit-rate", "1k"], "options.limit_rate: expected an integer of at least 10000, got 1024"),
        (["--limit-rate", "9G"], "options.limit_rate: expected an integer of at most 2147483647, got 9663676416"),
        (["--wait", "-1"], "options.wait: expected a number from 0 to 60, got -1.0"),
        (["--wait", "3600"], "options.wait: expected a number from 0 to 60, got 3600.0"),
        (["--wait", "nan"], "options.wait: expected a number from 0 to 60"),
    ],
)
def test_another_pace_is_rejected(env: Mapping[str, str], words: list[str], message: str) -> None:
    result = call(env, "crawl", "cat", *words)
    assert result.exit_code == 2
    assert message in result.stderr
