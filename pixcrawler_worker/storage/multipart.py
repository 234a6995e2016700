"""Uploads to S3 that nobody will end: what a killed worker began takes up room, and no list of files shows it.

obstore can neither list nor abort them, so these are two requests of ours, signed as AWS documents it (Signature
Version 4). Addresses and credentials are read from the variables that obstore reads.
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

from pixcrawler_worker.errors import PermanentError, TransientError

#: SHA-256 of no bytes: neither request has a body.
_NOTHING = hashlib.sha256(b"").hexdigest()
#: A page of a thousand uploads whose keys are as long as keys may be takes half of it.
_MOST_BYTES = 4 * 1024 * 1024
#: Pages that are read at a time; what is behind them is left to the next sweep.
_MOST_PAGES = 20
_PATIENCE = aiohttp.ClientTimeout(total=60, connect=5, sock_read=20)
#: Answers of servers that have no such request.
_NOT_OFFERED = {HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.NOT_IMPLEMENTED}


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """What signs requests.

    Attributes:
        name: of the key.
        secret: never leaves this machine.
        token: of credentials that last for a while.
        region: of the bucket.
    """

    name: str
    secret: str = field(repr=False)
    token: str | None = field(default=None, repr=False)
    region: str = "us-east-1"

    def scope(self, when: datetime) -> str:
        """Return what a signature holds for."""
        return f"{when:%Y%m%d}/{self.region}/s3/aws4_request"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is signed.

    Attributes:
        method: as in HTTP.
        path: quoted, from the host's root.
        query: quoted, its names in order.
        headers: by their names in lower case.
        payload: SHA-256 of the body, or what stands in its place.
    """

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    payload: str = _NOTHING


@dataclass(frozen=True, slots=True)
class _Upload:
    key: str
    id: str
    began: datetime


async def abort(bucket: str, prefix: str, *, older: timedelta, page: int = 1000) -> int:
    """Abort unfinished uploads to keys below the prefix, and return how many there were.

    Does nothing where no keys stand in the environment, or where the server has no such request.

    Args:
        bucket: they were for.
        prefix: of their keys, from the bucket's root; ends at a `/`.
        older: how long ago they must have begun, by the server's clock.
        page: how many are asked for at a time.

    Raises:
        TransientError: when the server does not answer, or not now.
        PermanentError: when it refuses us.
    """
    keys = _keys(os.environ)
    if keys is None:
        return 0
    aborted = 0
    async with aiohttp.ClientSession(timeout=_PATIENCE, trust_env=True) as http:
        server = _Server(http, _address(os.environ, bucket, keys.region), keys)
        # They are all read before the first one goes, so that no page moves under the reader.
        for upload in [one async for one in server.uploads(prefix, page=page, older=older)]:
            aborted += await server.abort(upload)
    return aborted


def signature(request: Request, keys: Keys, when: datetime) -> str:
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
    scope = keys.scope(when)
    text = f"AWS4-HMAC-SHA256\n{when:%Y%m%dT%H%M%SZ}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    key = f"AWS4{keys.secret}".encode()
    for word in scope.split("/"):
        key = hmac.digest(key, word.encode(), "sha256")
    return hmac.digest(key, text.encode(), "sha256").hex()


def signed(method: str, url: str, keys: Keys, when: datetime) -> dict[str, str]:
    """Return the headers of a request that has no body; its address is quoted, and the names of its query in order."""
    parts = urlsplit(url)
    headers = {"host": parts.netloc, "x-amz-content-sha256": _NOTHING, "x-amz-date": f"{when:%Y%m%dT%H%M%SZ}"}
    if keys.token:
        headers["x-amz-security-token"] = keys.token
    request = Request(method=method, path=parts.path or "/", query=parts.query, headers=headers)
    authorization = (
        f"AWS4-HMAC-SHA256 Credential={keys.name}/{keys.scope(when)},"
        f"SignedHeaders={';'.join(sorted(headers))},Signature={signature(request, keys, when)}"
    )
    return {**headers, "authorization": authorization}


class _Server:
    """A bucket by its address."""

    def __init__(self, http: aiohttp.ClientSession, address: str, keys: Keys) -> None:
        self._http, self._address, self._keys = http, address, keys

    async def uploads(self, prefix: str, *, page: int, older: timedelta) -> AsyncIterator[_Upload]:
        """Yield the uploads below the prefix that began so long ago."""
        after: dict[str, str] = {}
        for _ in range(_MOST_PAGES):
            asked = {**after, "max-uploads": str(page), "prefix": prefix, "uploads": ""}
            status, body, now = await self._ask("GET", self._address, asked)
            # Some say so when there is none at all.
            if status in _NOT_OFFERED or (status == HTTPStatus.NOT_FOUND and b"<Code>NoSuchUpload</Code>" in body):
                return
            if status != HTTPStatus.OK:
                raise _refused("unfinished uploads could not be listed", status, body)
            found = _parsed(body)
            for upload in _uploads(found):
                # A server that knows no prefixes must not lose us uploads of others.
                if upload.key.startswith(prefix) and upload.began < now - older:
                    yield upload
            if found.findtext("{*}IsTruncated") != "true":
                return
            after = {
                "key-marker": found.findtext("{*}NextKeyMarker") or "",
                "upload-id-marker": found.findtext("{*}NextUploadIdMarker") or "",
            }

    async def abort(self, upload: _Upload) -> bool:
        """Abort an upload, and tell whether it was still there."""
        where = f"{self._address}/{quote(upload.key, safe='/')}"
        status, body, _ = await self._ask("DELETE", where, {"uploadId": upload.id})
        if status == HTTPStatus.NOT_FOUND:
            return False
        if status not in {HTTPStatus.OK, HTTPStatus.NO_CONTENT}:
            raise _refused("an unfinished upload could not be aborted", status, body)
        return True

    async def _ask(self, method: str, where: str, query: Mapping[str, str]) -> tuple[int, bytes, datetime]:
        """Send a request; return the status, the body, and the time on the server's clock."""
        url = f"{where}?{urlencode(sorted(query.items()), quote_via=quote, safe='')}"
        headers = signed(method, url, self._keys, datetime.now(UTC))
        body = bytearray()
        try:
            # As it was signed: yarl would quote it in its own way, and a redirect leads to where it is not valid.
            async with self._http.request(
                method, URL(url, encoded=True), headers=headers, allow_redirects=False
            ) as answer:
                async for block in answer.content.iter_any():
                    body += block
                    if len(body) > _MOST_BYTES:
                        raise PermanentError("the storage's list of unfinished uploads is too long to be one")
                return answer.status, bytes(body), _time(answer.headers.get("Date"))
        except (aiohttp.ClientError, TimeoutError) as error:
            raise TransientError(f"the storage does not answer for its unfinished uploads: {error!r}") from error


def _keys(environ: Mapping[str, str]) -> Keys | None:
    name, secret = environ.get("AWS_ACCESS_KEY_ID"), environ.get("AWS_SECRET_ACCESS_KEY")
    if not name or not secret:
        return None
    return Keys(
        name=name,
        secret=secret,
        token=environ.get("AWS_SESSION_TOKEN") or environ.get("AWS_TOKEN"),
        region=environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION") or "us-east-1",
    )


def _address(environ: Mapping[str, str], bucket: str, region: str) -> str:
    """Return a bucket's address, without a slash at its end."""
    names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
    endpoint = next((found.rstrip("/") for name in names if (found := environ.get(name))), None)
    if environ.get("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "").lower() in {"1", "true", "on", "yes", "y"}:
        return endpoint or f"https://{bucket}.s3.{region}.amazonaws.com"
    return f"{endpoint or f'https://s3.{region}.amazonaws.com'}/{bucket}"


def _parsed(body: bytes) -> ET.Element:
    # Entities, which can grow without bounds, are declared in a document type; S3's answers have none.
    if b"<!" in body:
        raise PermanentError("the storage's list of unfinished uploads cannot be read: it has declarations")
    try:
        return ET.fromstring(body)  # noqa: S314 - it is short, and has no entities
    except ET.ParseError as error:
        raise PermanentError(f"the storage's list of unfinished uploads cannot be read: {error}") from error


def _uploads(found: ET.Element) -> list[_Upload]:
    try:
        return [
            _Upload(
                one.findtext("{*}Key") or "",
                one.findtext("{*}UploadId") or "",
                datetime.fromisoformat(one.findtext("{*}Initiated") or "").astimezone(UTC),
            )
            for one in found.iterfind("{*}Upload")
        ]
    except ValueError as error:
        raise PermanentError(f"the storage's list of unfinished uploads cannot be read: {error}") from error


def _time(date: str | None) -> datetime:
    """Return a server's time; ours where it tells none."""
    try:
        return datetime.now(UTC) if date is None else parsedate_to_datetime(date).astimezone(UTC)
    except ValueError:
        return datetime.now(UTC)


def _refused(what: str, status: int, body: bytes) -> TransientError | PermanentError:
    _, _, rest = body.decode(errors="replace").partition("<Code>")
    code, end, _ = rest.partition("</Code>")
    told = f"{what}: the storage answered {status}{f' {code}' if end and code.isalnum() else ''}"
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status == HTTPStatus.TOO_MANY_REQUESTS:
        return TransientError(told)
    return PermanentError(told)
