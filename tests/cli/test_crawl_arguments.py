"""URL lists as arguments of `pixcrawler crawl` and `build`."""

import contextlib
import functools
import gzip
import http.server
import io
import json
from collections.abc import Mapping
from pathlib import Path

import ledger
import pyarrow as pa
import pytest
import redis
from calls import call, sent
from doubles import query
from fakes import threaded
from pyarrow import parquet

from pixcrawler_worker.errors import PermanentError
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


def served(folder: Path) -> contextlib.AbstractContextManager[str]:
    """Serve a folder as Python does, which sends every file as a whole."""
    return threaded.serving(functools.partial(Quiet, directory=str(folder)))


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("name", ["cats.csv.gz", "cats.parquet"])
def test_a_list_gives_the_same_rows_from_a_file_stdin_and_a_url(
    env: Mapping[str, str], broker: redis.Redis, runtime: Runtime, name: str
) -> None:
    captions = [f"a red cat, {at}" for at in range(250)]
    urls = [f"https://example.org/{at}.jpg" for at in range(250)]
    if name.endswith(".gz"):
        rows = "\n".join(["URL,TEXT", *(f'{url},"{text}"' for url, text in zip(urls, captions, strict=True))])
        content = gzip.compress(rows.encode(), mtime=0)
    else:
        file = io.BytesIO()
        parquet.write_table(pa.table({"URL": urls, "TEXT": captions}), file)
        content = file.getvalue()
    Path(name).write_bytes(content)
    with served(Path.cwd()) as url:
        for where in (name, "-", f"{url}/{name}?v=1"):
            allowed = {**env, "PIXCRAWLER_ALLOWED_NETWORKS": "127.0.0.0/8"}
            result = call(allowed, "crawl", "cat", "--urls", where, stdin=content if where == "-" else None)
            assert (result.exit_code, result.stderr) == (0, "")
        result = call(env, "crawl", "cat", "--urls", f"{url}/{name}")
        assert (result.exit_code, "PIXCRAWLER_ALLOWED_NETWORKS" in result.stderr) == (2, True)
    found = query(runtime, "SELECT crawl_job_id, page, urls, details FROM pixcrawler.crawl_urls ORDER BY 1, 2")
    assert [(page, urls[at], details[at]["caption"]) for _, page, urls, details in found for at in (0,)] == 3 * [
        (page, urls[100 * page], captions[100 * page]) for page in range(3)
    ]
    assert [row[1:] for row in found[:3]] == [row[1:] for row in found[3:6]] == [row[1:] for row in found[6:]]
    assert query(runtime, "SELECT DISTINCT max_images FROM crawl_jobs") == [(250,)]
    assert len(sent(broker)) == 3


def test_a_url_that_may_have_a_secret_is_written_into_no_recipe(env: Mapping[str, str], runtime: Runtime) -> None:
    before = query(runtime, "SELECT count(*) FROM crawl_jobs")
    Path("cats.txt").write_text(URLS[0])
    allowed = {**env, "PIXCRAWLER_ALLOWED_NETWORKS": "127.0.0.0/8"}
    with served(Path.cwd()) as url, pytest.raises(PermanentError, match="a recipe names its URL list") as raised:
        call(allowed, "build", "cat", "--urls", f"{url}/cats.txt?sig=hunter2", "--save-recipe", "n.toml")
    assert "hunter2" not in str(raised.value)
    assert not Path("n.toml").exists()
    assert query(runtime, "SELECT count(*) FROM crawl_jobs") == before


def test_what_is_changed_in_a_list_is_said_once(env: Mapping[str, str], broker: redis.Redis, runtime: Runtime) -> None:
    Path("cats.csv").write_bytes(f"url,caption\n{URLS[0]},caf\xe9\n{URLS[1]},\xe9\n".encode("latin-1"))
    result = call(env, "crawl", "cat", "--urls", "cats.csv")
    assert result.exit_code == 0
    assert result.stderr == (
        "pixcrawler: cats.csv, line 2: bytes that are not UTF-8 are read as Windows-1252: save the list as UTF-8 if "
        "that is wrong (2 rows in all)\n"
    )
    assert query(runtime, "SELECT details[1]->'caption' FROM pixcrawler.crawl_urls") == [("caf\xe9",)]
    assert len(sent(broker)) == 1


def test_a_scheme_that_is_not_read_is_named(env: Mapping[str, str]) -> None:
    result = call(env, "crawl", "cat", "--urls", "ftp://example.org/cats.txt")
    assert result.exit_code == 2
    assert "a URL with http://, https:// or s3://, not ftp://" in result.stderr


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
