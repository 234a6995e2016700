"""Abort multipart uploads to S3 that killed workers left unfinished: they use storage, and no list of files has them.

obstore can neither list nor abort them, so this module sends these two requests itself, signed as AWS documents it
(Signature Version 4). Endpoint and credentials come from the variables that obstore reads.
"""

import hashlib
import hmac
import os
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from urllib.parse import quote, urlencode, urlsplit
from xml.etree import ElementTree as ET

import aiohttp
from yarl import URL

from pixcrawler_worker.errors import OutageError, PermanentError
from pixcrawler_worker.storage.failures import outage

#: SHA-256 of an empty body: neither request has one.
_EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
#: A list of a thousand uploads with keys of the maximum length takes half of it.
_MAX_LIST_BYTES = 4 * 1024 * 1024
#: Lists that are read at a time; the uploads after them are left to the next sweep.
_MAX_LISTS = 20
_TIMEOUT = aiohttp.ClientTimeout(total=60, connect=5, sock_read=20)
#: Responses of servers that do not implement the request.
_NOT_IMPLEMENTED = {HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.NOT_IMPLEMENTED}
#: Responses that later ones may differ from, besides the errors of the server: credentials are rotated.
_PASSING = {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS}


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What requests are signed with.

    Attributes:
        key_id: id of the access key.
        secret: the secret access key; it is never sent.
        token: session token of temporary credentials.
        region: of the bucket.
    """

    key_id: str
    secret: str = field(repr=False)
    token: str | None = field(default=None, repr=False)
    region: str = "us-east-1"

    def scope(self, when: datetime) -> str:
        """Return the credential scope of a signature."""
        return f"{when:%Y%m%d}/{self.region}/s3/aws4_request"


@dataclass(frozen=True, slots=True, kw_only=True)
class CanonicalRequest:
    """The parts of a request that are signed.

    Attributes:
        method: as in HTTP.
        path: quoted, absolute.
        query: quoted, sorted by name.
        headers: by their names in lower case.
        payload: SHA-256 of the body, or `UNSIGNED-PAYLOAD`.
    """

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    payload: str = _EMPTY_SHA256


@dataclass(frozen=True, slots=True)
class _UnfinishedUpload:
    key: str
    id: str
    started_at: datetime


async def abort(bucket: str, prefix: str, *, older: timedelta, page: int = 1000) -> int:
    """Abort unfinished uploads to keys below the prefix, and return how many there were.

    Does nothing when the environment has no access key, or when the server does not implement the requests.

    Args:
        bucket: of the uploads.
        prefix: of their keys in the bucket; ends with a `/`.
        older: their minimum age, by the server's clock.
        page: the number of uploads in a list.

    Raises:
        OutageError: when the server is unavailable or denies access.
        PermanentError: when it sends an invalid list.
    """
    credentials = _credentials(os.environ)
    if credentials is None:
        return 0
    aborted = 0
    async with aiohttp.ClientSession(timeout=_TIMEOUT, trust_env=True) as http:
        target = _Bucket(http, _bucket_url(os.environ, bucket, credentials.region), credentials)
        # All lists are read before the first abort: aborting would shift their contents.
        for upload in [one async for one in target.uploads(prefix, page=page, older=older)]:
            aborted += await target.abort(upload)
    return aborted


def signature(request: CanonicalRequest, credentials: Credentials, when: datetime) -> str:
    """Return a request's signature (AWS, "Signature calculations for the Authorization header")."""
    names = sorted(request.headers)
    canonical = "\n".join(
        [
            request.method,
            request.path,
            request.query,
            *(f"{name}:{request.headers[name].strip()}" for name in names),
            "",
            ";".join(names),
            request.payload,
        ]
    )
    scope = credentials.scope(when)
    text = f"AWS4-HMAC-SHA256\n{when:%Y%m%dT%H%M%SZ}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    key = f"AWS4{credentials.secret}".encode()
    for word in scope.split("/"):
        key = hmac.digest(key, word.encode(), "sha256")
    return hmac.digest(key, text.encode(), "sha256").hex()


def signed(method: str, url: str, credentials: Credentials, when: datetime) -> dict[str, str]:
    """Return the headers of a request without a body; its URL is quoted, and its query is sorted by name."""
    parts = urlsplit(url)
    headers = {"host": parts.netloc, "x-amz-content-sha256": _EMPTY_SHA256, "x-amz-date": f"{when:%Y%m%dT%H%M%SZ}"}
    if credentials.token:
        headers["x-amz-security-token"] = credentials.token
    request = CanonicalRequest(method=method, path=parts.path or "/", query=parts.query, headers=headers)
    authorization = (
        f"AWS4-HMAC-SHA256 Credential={credentials.key_id}/{credentials.scope(when)},"
        f"SignedHeaders={';'.join(sorted(headers))},Signature={signature(request, credentials, when)}"
    )
    return {**headers, "authorization": authorization}


class _Bucket:
    """The unfinished uploads to a bucket."""

    def __init__(self, http: aiohttp.ClientSession, url: str, credentials: Credentials) -> None:
        self._http, self._url, self._credentials = http, url, credentials

    async def uploads(self, prefix: str, *, page: int, older: timedelta) -> AsyncIterator[_UnfinishedUpload]:
        """Yield the uploads below the prefix that are older than that."""
        after: dict[str, str] = {}
        for _ in range(_MAX_LISTS):
            query = {**after, "max-uploads": str(page), "prefix": prefix, "uploads": ""}
            status, body, now = await self._send("GET", self._url, query)
            # Some servers respond with 404 when there are no uploads.
            if status in _NOT_IMPLEMENTED or (status == HTTPStatus.NOT_FOUND and b"<Code>NoSuchUpload</Code>" in body):
                return
            if status != HTTPStatus.OK:
                raise _failure("unfinished uploads could not be listed", status, body)
            found = _parsed(body)
            for upload in _uploads(found):
                # A server may ignore the prefix: uploads to other keys must be kept.
                if upload.key.startswith(prefix) and upload.started_at < now - older:
                    yield upload
            if found.findtext("{*}IsTruncated") != "true":
                return
            after = {
                "key-marker": found.findtext("{*}NextKeyMarker") or "",
                "upload-id-marker": found.findtext("{*}NextUploadIdMarker") or "",
            }

    async def abort(self, upload: _UnfinishedUpload) -> bool:
        """Abort an upload; return whether it still existed."""
        url = f"{self._url}/{quote(upload.key, safe='/')}"
        status, body, _ = await self._send("DELETE", url, {"uploadId": upload.id})
        if status == HTTPStatus.NOT_FOUND:
            return False
        if status not in {HTTPStatus.OK, HTTPStatus.NO_CONTENT}:
            raise _failure("an unfinished upload could not be aborted", status, body)
        return True

    async def _send(self, method: str, url: str, query: Mapping[str, str]) -> tuple[int, bytes, datetime]:
        """Send a request; return the status, the body, and the server's time."""
        full_url = f"{url}?{urlencode(sorted(query.items()), quote_via=quote, safe='')}"
        headers = signed(method, full_url, self._credentials, datetime.now(UTC))
        body = bytearray()
        try:
            # The URL as it was signed: yarl would quote it differently, and a redirect would invalidate the signature.
            async with self._http.request(
                method, URL(full_url, encoded=True), headers=headers, allow_redirects=False
            ) as response:
                async for block in response.content.iter_any():
                    body += block
                    if len(body) > _MAX_LIST_BYTES:
                        raise PermanentError("the storage's list of unfinished uploads is too long")
                return response.status, bytes(body), _time(response.headers.get("Date"))
        except (aiohttp.ClientError, TimeoutError) as error:
            raise outage(f"the storage did not respond to a request about unfinished uploads: {error!r}") from error


def _credentials(environ: Mapping[str, str]) -> Credentials | None:
    key_id, secret = environ.get("AWS_ACCESS_KEY_ID"), environ.get("AWS_SECRET_ACCESS_KEY")
    if not key_id or not secret:
        return None
    return Credentials(
        key_id=key_id,
        secret=secret,
        token=environ.get("AWS_SESSION_TOKEN") or environ.get("AWS_TOKEN"),
        region=environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION") or "us-east-1",
    )


def _bucket_url(environ: Mapping[str, str], bucket: str, region: str) -> str:
    """Return the URL of a bucket, without a slash at its end."""
    names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
    endpoint = next((found.rstrip("/") for name in names if (found := environ.get(name))), None)
    if environ.get("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "").lower() in {"1", "true", "on", "yes", "y"}:
        return endpoint or f"https://{bucket}.s3.{region}.amazonaws.com"
    return f"{endpoint or f'https://s3.{region}.amazonaws.com'}/{bucket}"


def _parsed(body: bytes) -> ET.Element:
    # Entities, which can expand without limit, are declared in a document type; responses of S3 have none.
    if b"<!" in body:
        raise PermanentError("the storage's list of unfinished uploads cannot be read: it has declarations")
    try:
        return ET.fromstring(body)  # noqa: S314 - its size is limited, and it has no entities
    except ET.ParseError as error:
        raise PermanentError(f"the storage's list of unfinished uploads cannot be read: {error}") from error


def _uploads(found: ET.Element) -> list[_UnfinishedUpload]:
    try:
        return [
            _UnfinishedUpload(
                one.findtext("{*}Key") or "",
                one.findtext("{*}UploadId") or "",
                datetime.fromisoformat(one.findtext("{*}Initiated") or "").astimezone(UTC),
            )
            for one in found.iterfind("{*}Upload")
        ]
    except ValueError as error:
        raise PermanentError(f"the storage's list of unfinished uploads cannot be read: {error}") from error


def _time(date: str | None) -> datetime:
    """Return a server's time; the time of this machine when it sends none."""
    try:
        return datetime.now(UTC) if date is None else parsedate_to_datetime(date).astimezone(UTC)
    except ValueError:
        return datetime.now(UTC)


def _failure(what: str, status: int, body: bytes) -> OutageError | PermanentError:
    _, _, rest = body.decode(errors="replace").partition("<Code>")
    code, end, _ = rest.partition("</Code>")
    message = f"{what}: the storage responded with {status}{f' {code}' if end and code.isalnum() else ''}"
    passes = status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in _PASSING
    return outage(message) if passes else PermanentError(message)
