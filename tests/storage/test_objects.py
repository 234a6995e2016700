"""Objects that a user names, on a real S3 server; see `fakes.s3`."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes import s3

from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.storage.objects import StoredObject


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with s3.serving(tmp_path) as server:
        for variable, value in server.variables.items():
            monkeypatch.setenv(variable, value)
        yield server.bucket


def read(url: str) -> bytes:
    found = StoredObject(url)
    content = b""
    while len(content) < found.size:
        content += found.read(len(content), 1)
    with pytest.raises(PermanentError, match=f"ends after {found.size:,} of its {found.size:,} bytes: try again"):
        found.read(found.size, 1)
    return content


def test_an_object_is_read_whole_whatever_its_key_looks_like(bucket: Path) -> None:
    content = bytes(range(256)) * 40_000
    (bucket / "lists of cats").mkdir()
    (bucket / "lists of cats" / "\u00e9.txt").write_bytes(content)
    (bucket / "empty").write_bytes(b"")
    assert read("s3://bucket/lists of cats/\u00e9.txt") == content
    assert read("s3://bucket/lists%20of%20cats/%C3%A9.txt") == content
    assert read("s3://bucket/empty") == b""


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://bucket/no.txt", "s3://bucket/no.txt could not be read: there is no such file"),
        ("s3://none/no.txt", "s3://none/no.txt could not be read: there is no such bucket"),
        ("s3://bucket", "s3://bucket names no object: expected s3://bucket/key"),
        ("s3:///no.txt", "s3:///no.txt names no object: expected s3://bucket/key"),
    ],
)
def test_what_is_not_there_is_an_error_that_says_so(bucket: Path, url: str, message: str) -> None:
    assert bucket.is_dir()
    with pytest.raises(PermanentError) as raised:
        StoredObject(url)
    assert str(raised.value) == message


def test_what_is_not_set_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:1")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ALLOW_HTTP"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(PermanentError, match=r"s3://bucket/a could not be read: .*: set AWS_ACCESS_KEY_ID and "):
        StoredObject("s3://bucket/a")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    with pytest.raises(PermanentError, match=r": set AWS_ALLOW_HTTP=true for an endpoint without https\Z"):
        StoredObject("s3://bucket/a")
