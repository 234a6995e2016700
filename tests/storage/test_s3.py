"""`Storage` on a real S3 server, and its errors for servers that are unavailable, busy, or deny access.

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
from pixcrawler_worker.errors import OutageError, PermanentError, TransientError
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
    """Return the response to a request without credentials."""
    with urllib.request.urlopen(url, timeout=10) as response:
        body: bytes = response.read()
    return body


def is_rejected(url: str) -> bool:
    try:
        fetched(url)
    except urllib.error.HTTPError as error:
        with error:
            return 400 <= error.code < 500
    return False


@pytest.fixture
def store(s3_url: str) -> Storage:
    return Storage(s3_url)


# Files


def test_files_are_put_read_measured_listed_and_deleted(store: Storage) -> None:
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


def test_a_missing_file_is_an_error_to_read_and_not_to_delete(store: Storage) -> None:
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


def test_many_files_are_read_at_once_and_each_has_its_own_result(store: Storage) -> None:
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
            assert await listed(store) == [], "it exists once the context has ended"
        assert await store.size("exports/1/archive.zip") == megabytes * MEGABYTE
        assert await read(store, "exports/1/archive.zip") == b"".join(blocks)

    run(story())
    assert s3.unfinished() == []


@pytest.mark.parametrize("megabytes", [1, 40])
@pytest.mark.parametrize("error", [RuntimeError, asyncio.CancelledError])
def test_a_file_whose_writer_fails_does_not_exist_and_leaves_no_parts(
    s3: Server, store: Storage, megabytes: int, error: type[BaseException]
) -> None:
    async def fail(key: str) -> None:
        async with store.writing(key) as sink:
            await sink.write([bytes(MEGABYTE)] * megabytes)
            raise error

    async def story() -> None:
        await store.put("a.zip", b"before")
        for key in ("a.zip", "b.zip"):
            with pytest.raises(error):
                await fail(key)
        assert await store.get("a.zip") == b"before"
        assert await listed(store) == ["a.zip"]

    run(story())
    assert s3.unfinished() == []


def test_a_file_has_a_url_and_no_local_file(store: Storage, s3_url: str) -> None:
    run(store.put("a/b.jpg", b"x"))
    assert store.url("a/b.jpg") == f"{s3_url}/a/b.jpg"
    assert store.key(store.url("a/b.jpg")) == "a/b.jpg"
    with store.opened("a/b.jpg") as file:
        assert file is None


# Links


def test_a_link_needs_no_credentials_and_expires(store: Storage) -> None:
    run(store.put("exports/1/a.zip", b"archive"))
    url, link_ttl = store.link("exports/1/a.zip", ttl=timedelta(seconds=2))
    assert link_ttl == timedelta(seconds=2)
    assert fetched(url) == b"archive"
    deadline = time.monotonic() + 10
    while not is_rejected(url) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert is_rejected(url)


def test_a_link_is_for_one_file_and_contains_no_secret(store: Storage) -> None:
    run(store.put("exports/1/a.zip", b"archive"))
    run(store.put("exports/2/a.zip", b"of another job"))
    url, _ = store.link("exports/1/a.zip", ttl=timedelta(hours=1))
    assert s3.CREDENTIALS.secret not in url
    last = {"0": "1"}.get(url[-1], "0")
    for tampered in (
        url.replace("exports/1", "exports/2"),
        url.replace("X-Amz-Expires=3600", "X-Amz-Expires=36000"),
        url[:-1] + last,
        url.partition("?")[0],
    ):
        assert tampered != url
        assert is_rejected(tampered), tampered
    assert fetched(url) == b"archive"


def test_a_link_works_for_a_week_at_most(store: Storage) -> None:
    run(store.put("a.zip", b"archive"))
    url, link_ttl = store.link("a.zip", ttl=timedelta(days=90))
    assert link_ttl == timedelta(days=7)
    assert parse_qs(urlsplit(url).query)["X-Amz-Expires"] == ["604800"]
    assert fetched(url) == b"archive"


# Errors

#: All operations of a storage.
OPERATIONS: dict[str, Callable[[Storage], Awaitable[object]]] = {
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


async def results(store: Storage) -> dict[str, object]:
    """Run all operations at once; return their results or errors."""
    given = await asyncio.gather(*(operation(store) for operation in OPERATIONS.values()), return_exceptions=True)
    return dict(zip(OPERATIONS, given, strict=True))


def contain_no_secret(errors: dict[str, object]) -> bool:
    return not any(secret in str(error) for error in errors.values() for secret in (s3.CREDENTIALS.secret, "guessed"))


def test_a_wrong_secret_is_reported_with_its_code_and_never_printed(
    s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "guessed")
    errors = run(results(Storage(s3_url)))
    assert {name: type(error) for name, error in errors.items()} == dict.fromkeys(OPERATIONS, OutageError)
    assert contain_no_secret(errors)
    assert all("\n" not in str(error) for error in errors.values())
    assert str(errors["put"]).endswith("403 Forbidden: SignatureDoesNotMatch")


def test_a_missing_bucket_is_not_reported_as_a_missing_file(s3_url: str) -> None:
    store = Storage(s3_url.replace("bucket", "buckets"))
    for name in ("put", "get", "blocks", "writing", "writing much", "keys"):
        with pytest.raises(PermanentError, match="there is no such bucket") as caught:
            run(OPERATIONS[name](store))  # type: ignore[arg-type] # each of them is a coroutine
        assert not isinstance(caught.value, FileMissingError)


def test_a_busy_server_is_an_outage_within_half_a_minute(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with s3.responding(503) as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        started = time.monotonic()
        errors = run(results(Storage(s3_url)))
    assert {name: type(error) for name, error in errors.items()} == dict.fromkeys(OPERATIONS, OutageError)
    assert time.monotonic() - started < 30
    assert contain_no_secret(errors)


def test_a_closed_port_is_an_outage_within_half_a_minute(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    started = time.monotonic()
    errors = run(results(Storage(s3_url)))
    assert {name: type(error) for name, error in errors.items()} == dict.fromkeys(OPERATIONS, OutageError)
    assert time.monotonic() - started < 30


def test_a_server_that_never_responds_is_an_outage_within_half_a_minute(
    s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No process accepts: the system does so, as for a server whose process hangs.
    with socket.create_server(("127.0.0.1", 0), backlog=64) as hanging:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{hanging.getsockname()[1]}")
        started = time.monotonic()
        errors = run(results(Storage(s3_url)))
    assert {name: type(error) for name, error in errors.items()} == dict.fromkeys(OPERATIONS, OutageError)
    assert time.monotonic() - started < 35
    assert contain_no_secret(errors)


def test_the_environment_configures_the_client(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://storage.invalid")
    with s3.responding(418) as proxy:
        monkeypatch.setenv("AWS_PROXY_URL", proxy)
        with pytest.raises(TransientError, match="418"):
            run(Storage(s3_url).get("a.jpg"))


def test_plain_http_is_rejected_unless_the_environment_allows_it(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ALLOW_HTTP")
    with pytest.raises(TransientError):
        run(Storage(s3_url).put("a.jpg", b"x"))


# Endpoints with a path, as that of Supabase


@pytest.fixture
def below_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Storage]:
    with s3.serving(tmp_path, checks=False) as server, s3.mounted(server, "/storage/v1/s3") as endpoint:
        for name, value in s3.variables(endpoint).items():
            monkeypatch.setenv(name, value)
        yield Storage("s3://bucket/some/prefix")


def test_an_endpoint_may_have_a_path(below_a_path: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    store = below_a_path

    async def story() -> None:
        await store.put("a/b.jpg", b"image")
        await write(store, "a/c.zip", [bytes(MEGABYTE)] * 40)
        assert await store.get("a/b.jpg") == b"image"
        assert await store.size("a/c.zip") == 40 * MEGABYTE
        assert await listed(store, "a/") == ["a/b.jpg", "a/c.zip"]
        assert await store.abort_uploads("a/", older=timedelta(0)) == 0
        await store.delete(["a/c.zip", "a/gone.zip"])
        assert await listed(store) == ["a/b.jpg"]

    run(story())
    url, _ = store.link("a/b.jpg", ttl=timedelta(minutes=1))
    assert urlsplit(url).path == "/storage/v1/s3/bucket/some/prefix/a/b.jpg"
    assert fetched(url) == b"image"
    assert is_rejected(url.replace("/a/b.jpg", "/a/c.jpg"))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "guessed")
    with pytest.raises(OutageError, match="SignatureDoesNotMatch"):
        run(Storage("s3://bucket/some/prefix").put("a/b.jpg", b"x"))
