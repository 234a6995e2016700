from pathlib import Path

import pytest

from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.storage.facade import Storage


@pytest.mark.parametrize(
    "url",
    [
        *("", "/srv/pixcrawler", "srv", "ftp://host/folder", "s3://", "s3://[bucket/"),
        # Two slashes: the first folder would be taken for a host, and files would be stored elsewhere.
        *("file://srv/pixcrawler", "file:srv", "file:"),
    ],
)
def test_an_invalid_url_is_rejected_with_one_line(url: str) -> None:
    with pytest.raises(PermanentError, match="file:///srv/pixcrawler") as caught:
        Storage(url)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "s3://key:hunter2@bucket/prefix",
        "https://hunter2@host/prefix",
        "az://container/prefix?sig=hunter2",
        "file:///srv/pixcrawler#hunter2",
    ],
)
def test_a_url_with_credentials_is_rejected_and_not_printed(url: str) -> None:
    with pytest.raises(PermanentError, match="credentials belong in the environment") as caught:
        Storage(url)
    assert "hunter2" not in str(caught.value)


def test_a_folder_that_cannot_be_created_is_rejected_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PermanentError, match=r"cannot be opened \(Not a directory") as caught:
        Storage((tmp_path / "file" / "folder").as_uri())
    assert "\n" not in str(caught.value)
