"""Open the object store of a URL, with timeouts."""

import os
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

from obstore import parse_scheme
from obstore.exceptions import BaseError
from obstore.store import LocalStore, MemoryStore, ObjectStore, from_url

from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.masking import mask_url
from pixcrawler_worker.storage import local
from pixcrawler_worker.storage.failures import first_line

_EXAMPLES = "file:///srv/pixcrawler, s3://bucket/prefix or memory://"
#: Timeouts of requests. By default, obstore reports an unavailable store after three minutes, and limits a request to
#: 30 seconds in all, which is too short for large files.
_TIMEOUTS = {"connect_timeout": "5s", "read_timeout": "25s", "timeout": "1h"}
_RETRIES = {"retry_timeout": timedelta(seconds=20), "backoff": {"max_backoff": timedelta(seconds=5)}}
#: Prefixes of the variables of each provider, and the options of obstore's HTTP clients that can follow them.
_VARIABLES = {"s3": "AWS", "gcs": "GOOGLE", "azure": "AZURE"}
_CLIENT_OPTIONS = (
    *("allow_http", "allow_invalid_certificates", "connect_timeout", "http1_only", "http2_only", "pool_idle_timeout"),
    *("pool_max_idle_per_host", "proxy_ca_certificate", "proxy_excludes", "proxy_url", "read_timeout", "timeout"),
    "user_agent",
)


def open_store(url: str) -> ObjectStore:
    """Return the store of a URL; a folder is created when it is missing.

    Raises:
        PermanentError: when the URL is invalid, or the folder cannot be created.
    """
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise PermanentError(f"the storage's URL is invalid; use {_EXAMPLES}") from error
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise PermanentError(
            "the storage's URL must not contain credentials, `?` or `#`: credentials belong in the environment, "
            f"and `#` in a name is written as %23; use {_EXAMPLES}"
        )
    if parts.scheme == "memory":
        return MemoryStore()
    if parts.scheme == "file" and (parts.netloc or not parts.path.startswith("/")):
        raise PermanentError(
            f"the storage {mask_url(url)} has no absolute path: write three slashes, as in file:///srv/pixcrawler"
        )
    try:
        if folder := local.path_of(url):
            return LocalStore(folder, mkdir=True)
        return from_url(url, **_options(parse_scheme(url)))
    except (BaseError, OSError, ValueError) as error:
        shown = mask_url(url)
        reason = first_line(error).replace(url, shown)
        raise PermanentError(f"the storage {shown} cannot be opened ({reason}); use {_EXAMPLES}") from None


def _options(scheme: str) -> dict[str, Any]:
    """Return the options of a client: those of the environment, else the defaults above.

    Client options that are passed replace all that obstore would read from the environment.
    """
    variables = {name: os.environ.get(f"{_VARIABLES.get(scheme, '')}_{name.upper()}") for name in _CLIENT_OPTIONS}
    return {
        "client_options": _TIMEOUTS | {name: value for name, value in variables.items() if value},
        "retry_config": _RETRIES,
    }
