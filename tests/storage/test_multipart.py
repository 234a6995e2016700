"""Signatures of the examples of AWS, and unfinished uploads of killed workers."""

import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from fakes import s3, threaded
from fakes.s3 import Server

from pixcrawler_worker.errors import OutageError, PermanentError, TransientError
from pixcrawler_worker.storage import multipart
from pixcrawler_worker.storage.facade import Storage
from pixcrawler_worker.storage.multipart import CanonicalRequest, Credentials

# AWS, "Examples: Signature Calculations in AWS Signature Version 4" and "Authenticating Requests: Using Query
# Parameters": credentials, requests and signatures.
EXAMPLE = Credentials(key_id="AKIAIOSFODNN7EXAMPLE", secret="wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
WHEN = datetime(2013, 5, 24, tzinfo=UTC)
HOST = "examplebucket.s3.amazonaws.com"

KILLED = """
import asyncio, sys
from pixcrawler_worker.storage.facade import Storage

async def write():
    async with Storage(sys.argv[1]).writing(sys.argv[2]) as sink:
        for number in range(40):
            await sink.write([bytes([number]) * 1_000_000])
        print(flush=True)
        await asyncio.sleep(600)

asyncio.run(write())
"""

LISTED = """<?xml version="1.0" encoding="UTF-8"?>
<ListMultipartUploadsResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">
  <IsTruncated>false</IsTruncated>
  <Upload>
    <Key>{key}</Key><UploadId>{id}</UploadId>
    <Initiator><ID>arn:aws:iam::1:user/x</ID></Initiator>
    <Initiated>{initiated}</Initiated>
  </Upload>
</ListMultipartUploadsResult>"""


# Signatures


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("lifecycle=", "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"),
        ("max-keys=2&prefix=J", "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"),
    ],
)
def test_requests_are_signed_as_in_the_examples_of_aws(query: str, expected: str) -> None:
    headers = multipart.signed("GET", f"https://{HOST}/?{query}", EXAMPLE, WHEN)
    assert headers["host"] == HOST
    assert headers["x-amz-date"] == "20130524T000000Z"
    assert headers["authorization"] == (
        "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,"
        f"SignedHeaders=host;x-amz-content-sha256;x-amz-date,Signature={expected}"
    )


def test_a_link_has_the_signature_of_the_example_of_aws() -> None:
    query = (
        "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2F"
        "aws4_request&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host"
    )
    request = CanonicalRequest(
        method="GET", path="/test.txt", query=query, headers={"host": HOST}, payload="UNSIGNED-PAYLOAD"
    )
    expected = "aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
    assert multipart.signature(request, EXAMPLE, WHEN) == expected


def test_a_token_is_signed_and_not_printed_and_neither_is_the_secret() -> None:
    credentials = Credentials(key_id="a", secret="hunter2", token="passing")
    headers = multipart.signed("GET", f"https://{HOST}/?uploads=", credentials, WHEN)
    assert headers["x-amz-security-token"] == "passing"
    assert "SignedHeaders=host;x-amz-content-sha256;x-amz-date;x-amz-security-token," in headers["authorization"]
    assert "hunter2" not in f"{credentials}{headers}"
    assert "passing" not in str(credentials)


# Uploads of killed workers


def abort(url: str, prefix: str, *, older: timedelta) -> int:
    return asyncio.run(Storage(url).abort_uploads(prefix, older=older))


def start_and_kill(server: Server, url: str, key: str) -> None:
    """Kill a process in the middle of an upload."""
    before = len(server.unfinished())
    with subprocess.Popen([sys.executable, "-c", KILLED, url, key], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "\n"
        deadline = time.monotonic() + 30
        while len(server.unfinished()) == before and time.monotonic() < deadline:
            time.sleep(0.05)
        writer.kill()
    assert len(server.unfinished()) == before + 1
    # The server reports times in whole seconds.
    time.sleep(1.1)


def test_an_upload_of_a_killed_worker_is_aborted_once_it_is_old_enough(s3: Server, s3_url: str) -> None:
    start_and_kill(s3, s3_url, "exports/1/archive.zip")
    store = Storage(s3_url)
    assert asyncio.run(store.size("exports/1/archive.zip")) is None, "no list of files has it"
    assert abort(s3_url, "exports/", older=timedelta(minutes=20)) == 0, "its writer may still be running"
    assert abort(s3_url, "exports/10/", older=timedelta(0)) == 0, "it is not below that prefix"
    assert abort(s3_url.replace("bucket/", "bucket/x"), "exports/", older=timedelta(0)) == 0, (
        "it belongs to another storage"
    )
    assert len(s3.unfinished()) == 1
    assert abort(s3_url, "exports/", older=timedelta(0)) == 1
    assert s3.unfinished() == []
    assert abort(s3_url, "exports/", older=timedelta(0)) == 0


def test_uploads_on_several_pages_of_a_list_are_all_aborted(s3: Server, s3_url: str) -> None:
    for number in range(3):
        start_and_kill(s3, s3_url, f"exports/{number}/archive.zip")
    prefix = f"{s3_url.removeprefix('s3://bucket/')}/exports/"
    assert asyncio.run(multipart.abort("bucket", prefix, older=timedelta(0), page=1)) == 3
    assert s3.unfinished() == []


def test_without_credentials_in_the_environment_no_request_is_sent(
    s3: Server, s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_and_kill(s3, s3_url, "exports/1/archive.zip")
    with monkeypatch.context() as without:
        without.delenv("AWS_ACCESS_KEY_ID")
        without.delenv("AWS_SECRET_ACCESS_KEY")
        assert abort(s3_url, "exports/", older=timedelta(0)) == 0
    assert abort(s3_url, "exports/", older=timedelta(0)) == 1


def test_other_storages_have_no_unfinished_uploads(tmp_path: Path) -> None:
    assert abort(tmp_path.as_uri(), "exports/", older=timedelta(0)) == 0
    assert abort("memory://", "exports/", older=timedelta(0)) == 0


# Unusual servers


class Responses:
    """What a server responds to a request for a list, and the requests that it received."""

    def __init__(self, body: str, *, status: int = 200, date: str = "") -> None:
        self.requests: list[str] = []
        self.body, self.status, self.date = body, status, date


@contextlib.contextmanager
def serving(responses: Responses) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(responses.status, responses.body.encode())

        def do_DELETE(self) -> None:
            self._send(404, b"<Error><Code>NoSuchUpload</Code></Error>")

        def _send(self, status: int, body: bytes) -> None:
            responses.requests.append(f"{self.command} {self.path}")
            self.send_response_only(status)
            self.send_header("Date", responses.date or self.date_time_string())
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
            pass

    with threaded.serving(Handler) as url:
        yield url


def aborted_at(responses: Responses, monkeypatch: pytest.MonkeyPatch, more: Mapping[str, str] | None = None) -> int:
    with serving(responses) as endpoint:
        for name, value in {**s3.variables(endpoint), **(more or {})}.items():
            monkeypatch.setenv(name, value)
        return asyncio.run(multipart.abort("bucket", "exports/", older=timedelta(minutes=20)))


def test_an_upload_that_no_longer_exists_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    responses = Responses(
        LISTED.format(key="exports/1/a&amp;b %.zip", id="x/y==", initiated="2013-05-24T00:00:00.000Z")
    )
    assert aborted_at(responses, monkeypatch) == 0
    assert responses.requests == [
        "GET /bucket?max-uploads=1000&prefix=exports%2F&uploads=",
        "DELETE /bucket/exports/1/a%26b%20%25.zip?uploadId=x%2Fy%3D%3D",
    ]


def test_uploads_to_other_keys_are_kept_when_the_server_ignores_the_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    responses = Responses(LISTED.format(key="backups/1.tar", id="x", initiated="2013-05-24T00:00:00Z"))
    assert aborted_at(responses, monkeypatch) == 0
    assert len(responses.requests) == 1


def test_a_404_that_says_no_such_upload_means_that_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert aborted_at(Responses("<Error><Code>NoSuchUpload</Code></Error>", status=404), monkeypatch) == 0
    with pytest.raises(PermanentError, match="404 NoSuchBucket"):
        aborted_at(Responses("<Error><Code>NoSuchBucket</Code></Error>", status=404), monkeypatch)


def test_the_age_is_computed_with_the_clock_of_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    body = LISTED.format(key="exports/1/a.zip", id="x", initiated="2013-05-24T00:00:00Z")
    responses = Responses(body, date="Fri, 24 May 2013 00:19:00 GMT")
    aborted_at(responses, monkeypatch)
    assert len(responses.requests) == 1
    responses = Responses(body, date="Fri, 24 May 2013 00:21:00 GMT")
    aborted_at(responses, monkeypatch)
    assert len(responses.requests) == 2


@pytest.mark.parametrize("status", [405, 501])
def test_a_server_without_lists_of_uploads_is_not_an_error(monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    assert aborted_at(Responses("", status=status), monkeypatch) == 0


@pytest.mark.parametrize(
    ("status", "error", "message"),
    [
        (403, OutageError, r"could not be listed: the storage responded with 403 AccessDenied$"),
        (301, PermanentError, r"the storage responded with 301 AccessDenied$"),
        (429, TransientError, r"the storage responded with 429 AccessDenied$"),
        (503, TransientError, r"the storage responded with 503 AccessDenied$"),
    ],
)
def test_an_error_is_reported_with_its_code(
    monkeypatch: pytest.MonkeyPatch, status: int, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        aborted_at(Responses("<Error><Code>AccessDenied</Code></Error>", status=status), monkeypatch)


@pytest.mark.parametrize(
    "body",
    [
        "",
        "<html>",
        '<!DOCTYPE x [<!ENTITY a "aaaa">]><x>&a;</x>',
        LISTED.format(key="exports/1/a.zip", id="x", initiated="yesterday"),
        "<x>" + "a" * 5_000_000 + "</x>",
    ],
)
def test_an_invalid_list_is_an_error(monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    with pytest.raises(PermanentError, match=r"cannot be read|is too long"):
        aborted_at(Responses(body), monkeypatch)


def test_the_url_of_the_bucket_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    responses = Responses("<ListMultipartUploadsResult/>")
    with serving(Responses("")) as closed:
        pass
    with serving(responses) as endpoint:
        for name, value in {**s3.variables(closed), "AWS_ENDPOINT_URL_S3": endpoint}.items():
            monkeypatch.setenv(name, value)
        assert asyncio.run(multipart.abort("bucket", "exports/", older=timedelta(0))) == 0
    aborted_at(responses, monkeypatch, {"AWS_ENDPOINT_URL_S3": "", "AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "true"})
    assert [line.partition("?")[0] for line in responses.requests] == ["GET /bucket", "GET /"]
