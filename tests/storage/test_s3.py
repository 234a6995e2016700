"""What `Storage` promises, kept by a real S3 server; and what it says of servers that are away, busy or strict.

The server is rclone's: see `fakes.s3`.
"""

import asyncio
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit

import pytest
from fakes import s3
from fakes.s3 import Server

from pixcrawler_worker.domain.reasons import Reason, RejectedError
from pixcrawler_worker.errors import PermanentError, TransientError
from pixcrawler_worker.storage.facade import Storage
from pixcrawler_worker.storage.failures import FileMissingError

T = TypeVar("T")

MEGABYTE = 1_000_000


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


async def listed(store: Storage, prefix: str = "") -> list[str]:
    return sorted([key async for key in store.keys(prefix)])


async def write(store: Storage, key: str, blocks: list[bytes]) -> None:
    async with store.writing(key) as sink:
        await sink.write(blocks)


async def read(store: Storage, key: str) -> bytes:
    return b"".join([block async for block in store.blocks(key)])


def fetched(url: str) -> bytes:
    """What anybody gets who knows the link and nothing else."""
    with urllib.request.urlopen(url, timeout=10) as answer:
        body: bytes = answer.read()
    return body


def refused(url: str) -> bool:
    try:
        fetched(url)
    except urllib.error.HTTPError as error:
        with error:
            return 400 <= error.code < 500
    return False


@pytest.fixture
def store(s3_url: str) -> Storage:
    return Storage(s3_url)


# What is promised


def test_what_was_put_is_got_measured_listed_and_deleted(store: Storage) -> None:
    async def story() -> None:
        await store.put("crawl_jobs/1/cat/a.jpg", b"first")
        await store.put("crawl_jobs/1/cat/a.jpg", b"second")
        await store.put("crawl_jobs/1/dog/b.jpg", b"")
        await store.put("crawl_jobs/10/cat/a.jpg", b"a neighbor")
        assert await store.get("crawl_jobs/1/cat/a.jpg") == b"second"
        assert await store.get("crawl_jobs/1/dog/b.jpg") == b""
        assert await store.size("crawl_jobs/1/cat/a.jpg") == 6
        assert await listed(store, "crawl_jobs/1/") == ["crawl_jobs/1/cat/a.jpg", "crawl_jobs/1/dog/b.jpg"]
        assert await listed(store, "crawl_jobs/2/") == []
        await store.delete(["crawl_jobs/1/cat/a.jpg"])
        assert await listed(store) == ["crawl_jobs/1/dog/b.jpg", "crawl_jobs/10/cat/a.jpg"]

    run(story())


def test_what_is_not_there_is_missing_to_readers_and_no_error_to_delete(store: Storage) -> None:
    async def story() -> None:
        keys = [f"crawl_jobs/1/{number:03}.jpg" for number in range(40)]
        for key in keys[1::2]:
            await store.put(key, b"x")
        with pytest.raises(FileMissingError, match=r"000\.jpg could not be read: there is no such file"):
            await store.get(keys[0])
        with pytest.raises(FileMissingError):
            await read(store, keys[0])
        assert await store.size(keys[0]) is None
        await store.delete(keys)
        await store.delete(keys[:1])
        await store.delete([])
        assert await listed(store) == []

    run(story())


def test_many_files_are_read_at_once_and_each_is_told_of(store: Storage) -> None:
    async def story() -> list[Any]:
        await store.put("a.jpg", b"12345")
        await store.put("b.jpg", b"123456")
        with pytest.raises(RejectedError):
            await store.get("b.jpg", max_bytes=5)
        return await store.get_all(["a.jpg", "gone.jpg", "b.jpg"], len, max_bytes=5)

    read, missing, large = run(story())
    assert read == 5
    assert isinstance(missing, FileMissingError)
    assert isinstance(large, RejectedError)
    assert large.reason is Reason.TOO_MANY_BYTES


@pytest.mark.parametrize("megabytes", [0, 1, 40])
def test_a_file_of_any_size_is_written_from_front_to_back_and_read_in_pieces(
    s3: Server, store: Storage, megabytes: int
) -> None:
    blocks = [bytes([number]) * MEGABYTE for number in range(megabytes)]

    async def story() -> None:
        async with store.writing("exports/1/archive.zip") as sink:
            for first in range(0, megabytes, 3):
                await sink.write(blocks[first : first + 3])
            assert await listed(store) == [], "it is there as a whole once it has ended"
        assert await store.size("exports/1/archive.zip") == megabytes * MEGABYTE
        assert await read(store, "exports/1/archive.zip") == b"".join(blocks)

    run(story())
    assert s3.unfinished() == []


@pytest.mark.parametrize("megabytes", [1, 40])
@pytest.mark.parametrize("error", [RuntimeError, asyncio.CancelledError])
def test_a_file_whose_writer_gives_up_is_not_there_and_takes_no_room(
    s3: Server, store: Storage, megabytes: int, error: type[BaseException]
) -> None:
    async def give_up(key: str) -> None:
        async with store.writing(key) as sink:
            await sink.write([bytes(MEGABYTE)] * megabytes)
            raise error

    async def story() -> None:
        await store.put("a.zip", b"before")
        for key in ("a.zip", "b.zip"):
            with pytest.raises(error):
                await give_up(key)
        assert await store.get("a.zip") == b"before"
        assert await listed(store) == ["a.zip"]

    run(story())
    assert s3.unfinished() == []


def test_a_file_has_an_address_and_none_on_this_machine(store: Storage, s3_url: str) -> None:
    run(store.put("a/b.jpg", b"x"))
    assert store.url("a/b.jpg") == f"{s3_url}/a/b.jpg"
    assert store.key(store.url("a/b.jpg")) == "a/b.jpg"
    with store.opened("a/b.jpg") as file:
        assert file is None


# Links


def test_a_link_is_for_anybody_until_it_expires(store: Storage) -> None:
    run(store.put("exports/1/a.zip", b"archive"))
    url, lives = store.link("exports/1/a.zip", ttl=timedelta(seconds=2))
    assert lives == timedelta(seconds=2)
    assert fetched(url) == b"archive"
    late = time.monotonic() + 10
    while not refused(url) and time.monotonic() < late:
        time.sleep(0.2)
    assert refused(url)


def test_a_link_is_for_one_file_and_holds_no_secret(store: Storage) -> None:
    run(store.put("exports/1/a.zip", b"archive"))
    run(store.put("exports/2/a.zip", b"of somebody else"))
    url, _ = store.link("exports/1/a.zip", ttl=timedelta(hours=1))
    assert s3.KEYS.secret not in url
    last = {"0": "1"}.get(url[-1], "0")
    for tampered in (
        url.replace("exports/1", "exports/2"),
        url.replace("X-Amz-Expires=3600", "X-Amz-Expires=36000"),
        url[:-1] + last,
        url.partition("?")[0],
    ):
        assert tampered != url
        assert refused(tampered), tampered
    assert fetched(url) == b"archive"


def test_a_link_works_for_a_week_at_most(store: Storage) -> None:
    run(store.put("a.zip", b"archive"))
    url, lives = store.link("a.zip", ttl=timedelta(days=90))
    assert lives == timedelta(days=7)
    assert parse_qs(urlsplit(url).query)["X-Amz-Expires"] == ["604800"]
    assert fetched(url) == b"archive"


# Trouble

#: All that can be asked of a storage.
ASKED: dict[str, Callable[[Storage], Awaitable[object]]] = {
    "put": lambda store: store.put("a.jpg", b"x"),
    "get": lambda store: store.get("a.jpg"),
    "get_all": lambda store: store.get_all(["a.jpg", "b.jpg"], len, max_bytes=5),
    "size": lambda store: store.size("a.jpg"),
    "keys": lambda store: listed(store, "a/"),
    "delete": lambda store: store.delete(["a.jpg", "b.jpg"]),
    "blocks": lambda store: read(store, "a.jpg"),
    "writing": lambda store: write(store, "a.jpg", [bytes(MEGABYTE)]),
    "writing much": lambda store: write(store, "a.jpg", [bytes(MEGABYTE)] * 40),
    "abort_uploads": lambda store: store.abort_uploads("a/", older=timedelta(0)),
}


async def answers(store: Storage) -> dict[str, object]:
    """What each request gives or raises, all of them sent at once."""
    given = await asyncio.gather(*(ask(store) for ask in ASKED.values()), return_exceptions=True)
    return dict(zip(ASKED, given, strict=True))


def secretless(errors: dict[str, object]) -> bool:
    return not any(secret in str(error) for error in errors.values() for secret in (s3.KEYS.secret, "guessed"))


def test_a_wrong_secret_is_told_by_its_code_and_never_shown(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "guessed")
    errors = run(answers(Storage(s3_url)))
    assert {name: type(error) for name, error in errors.items()} == dict.fromkeys(ASKED, PermanentError)
    assert secretless(errors)
    assert all("\n" not in str(error) for error in errors.values())
    assert str(errors["put"]).endswith("403 Forbidden: SignatureDoesNotMatch")


def test_a_bucket_that_is_not_there_is_not_taken_for_a_missing_file(s3_url: str) -> None:
    store = Storage(s3_url.replace("bucket", "buckets"))
    for name in ("put", "get", "blocks", "writing", "writing much", "keys"):
        with pytest.raises(PermanentError, match="there is no such bucket") as caught:
            run(ASKED[name](store))  # type: ignore[arg-type] # each of them is a coroutine
        assert not isinstance(caught.value, FileMissingError)


def test_a_server_that_is_busy_is_transient_and_told_soon(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with s3.refusing(503) as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        began = time.monotonic()
        errors = run(answers(Storage(s3_url)))
    assert {name: type(error) for name, error in errors.items()} == dict.fromkeys(ASKED, TransientError)
    assert time.monotonic() - began < 30
    assert secretless(errors)


def test_a_server_that_is_not_there_is_transient_and_told_soon(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    began = time.monotonic()
    errors = run(answers(Storage(s3_url)))
    assert {name: type(error) for name, error in errors.items()} == dict.fromkeys(ASKED, TransientError)
    assert time.monotonic() - began < 30


def test_a_server_that_takes_requests_and_is_silent_is_transient_within_half_a_minute(
    s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nobody accepts: the system does so, as for a server whose process hangs.
    with socket.create_server(("127.0.0.1", 0), backlog=64) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        began = time.monotonic()
        errors = run(answers(Storage(s3_url)))
    assert {name: type(error) for name, error in errors.items()} == dict.fromkeys(ASKED, TransientError)
    assert time.monotonic() - began < 35
    assert secretless(errors)


def test_what_the_environment_says_of_the_client_counts(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://storage.invalid")
    with s3.refusing(418) as proxy:
        monkeypatch.setenv("AWS_PROXY_URL", proxy)
        with pytest.raises(TransientError, match="418"):
            run(Storage(s3_url).get("a.jpg"))


def test_plain_http_is_refused_unless_the_environment_allows_it(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ALLOW_HTTP")
    with pytest.raises(TransientError):
        run(Storage(s3_url).put("a.jpg", b"x"))


# Endpoints with a path, as Supabase's is


@pytest.fixture
def below_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Storage]:
    with s3.serving(tmp_path, checks=False) as server, s3.mounted(server, "/storage/v1/s3") as endpoint:
        for name, value in s3.variables(endpoint).items():
            monkeypatch.setenv(name, value)
        yield Storage("s3://bucket/some/prefix")


def test_an_endpoint_may_have_a_path(below_a_path: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    store = below_a_path

    async def story() -> None:
        await store.put("a/b.jpg", b"picture")
        await write(store, "a/c.zip", [bytes(MEGABYTE)] * 40)
        assert await store.get("a/b.jpg") == b"picture"
        assert await store.size("a/c.zip") == 40 * MEGABYTE
        assert await listed(store, "a/") == ["a/b.jpg", "a/c.zip"]
        assert await store.abort_uploads("a/", older=timedelta(0)) == 0
        await store.delete(["a/c.zip", "a/gone.zip"])
        assert await listed(store) == ["a/b.jpg"]

    run(story())
    url, _ = store.link("a/b.jpg", ttl=timedelta(minutes=1))
    assert urlsplit(url).path == "/storage/v1/s3/bucket/some/prefix/a/b.jpg"
    assert fetched(url) == b"picture"
    assert refused(url.replace("/a/b.jpg", "/a/c.jpg"))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "guessed")
    with pytest.raises(PermanentError, match="SignatureDoesNotMatch"):
        run(Storage("s3://bucket/some/prefix").put("a/b.jpg", b"x"))
