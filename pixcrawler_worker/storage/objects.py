"""One object of an object store, read from front to back: what a user names by its URL, whatever its key looks like."""

import contextlib
import os
from collections.abc import Iterator
from urllib.parse import unquote, urlsplit

import obstore

from pixcrawler_worker.errors import PermanentError, TransientError
from pixcrawler_worker.storage.failures import translated
from pixcrawler_worker.storage.stores import open_store

#: Bytes that are read at a time, at least.
_BLOCK = 4 << 20


class StoredObject:
    """An object of a bucket.

    Args:
        url: `s3://bucket/key`. Credentials and the endpoint come from the environment, as those of a storage.

    Attributes:
        size: in bytes.

    Raises:
        PermanentError: when there is no such object, or the store cannot be read.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._key, self._shown = unquote(parts.path.lstrip("/")), f"{parts.scheme}://{parts.netloc}{parts.path}"
        if not parts.netloc or not self._key:
            raise PermanentError(f"{self._shown} names no object: expected s3://bucket/key")
        self._store = open_store(f"{parts.scheme}://{parts.netloc}")
        with self._translated():
            found = obstore.get(self._store, self._key)
            self.size = found.meta["size"]
            self._blocks = iter(found.stream(min_chunk_size=_BLOCK))

    def read(self, start: int, size: int) -> bytes:
        """Return the next bytes of the object, which is read once and from its start.

        Args:
            start: number of bytes that were read before.
            size: is a hint.

        Raises:
            PermanentError: when it cannot be read any more, or ends early.
        """
        del size
        with self._translated():
            block = bytes(next(self._blocks, b""))
        if not block:
            raise PermanentError(f"{self._shown} ends after {start:,} of its {self.size:,} bytes: try again")
        return block

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            with translated(f"{self._shown} could not be read"):
                yield
        except TransientError as error:
            raise PermanentError(f"{error}{_advice(str(error))}") from error


def _advice(error: str) -> str:
    """Return what to do when requests cannot even be made, as with nothing but a URL."""
    if "builder error" in error and os.environ.get("AWS_ENDPOINT_URL", "").startswith("http:"):
        return ": set AWS_ALLOW_HTTP=true for an endpoint without https"
    if not os.environ.get("AWS_ACCESS_KEY_ID"):
        return ": set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_SKIP_SIGNATURE=true for a public bucket"
    return ""
