"""The server of a page: only for who has its URL, only on loopback, and nothing of it is left."""

import contextlib
import http.client
import os
import queue
import signal
import socket
import threading
from dataclasses import replace
from io import BytesIO

import pytest
from browse.browsing import data_of, job_of
from doubles import query
from export.exporting import StoredImage, crawl_of, image_bytes
from PIL import Image

from pixcrawler_worker.browse import server
from pixcrawler_worker.errors import OutageError, PermanentError
from pixcrawler_worker.runtime import Runtime
from pixcrawler_worker.storage.facade import Storage

#: Status, headers and body.
Answer = tuple[int, dict[str, str], bytes]


def get(port: int, path: str, *, host: str | None = None, method: str = "GET") -> Answer:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.putrequest(method, path, skip_host=host is not None)
        if host is not None:
            connection.putheader("Host", host)
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()


def visit(runtime: Runtime, job: int, *requests: tuple[str, dict[str, str]]) -> list[Answer]:
    """Serve a page in this thread, make requests from another one, and interrupt the server as Ctrl-C does.

    `TOKEN` in a path, and `PORT` in a host, stand for those of the server.
    """
    urls: queue.Queue[str] = queue.Queue()
    found: list[Answer] = []
    failed: list[BaseException] = []
    ports: list[int] = []

    def look() -> None:
        try:
            url = urls.get(timeout=60)
            port, token = int(url.split(":")[2].split("/")[0]), url.split("/")[3]
            assert url == f"http://127.0.0.1:{port}/{token}/"
            ports.append(port)
            for path, more in requests:
                how = {name: value.replace("PORT", str(port)) for name, value in more.items()}
                found.append(get(port, path.replace("TOKEN", token), **how))
        except BaseException as error:  # noqa: BLE001 - raised below
            failed.append(error)
        finally:
            os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=look)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        server.serve(runtime, job, port=0, started=urls.put)
    thread.join()
    if failed:
        raise failed[0]
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", *ports)) != 0, "nothing listens any more"
    assert not [one for one in threading.enumerate() if one.name == "browse"]
    return found


def test_the_page_thumbnails_and_large_images_are_served(runtime: Runtime) -> None:
    large = StoredImage(image_bytes(1, size=(2400, 1800)))
    job = crawl_of(runtime, [large])
    ((image_id,),) = query(runtime, "SELECT id FROM images WHERE crawl_job_id = :id", id=job)
    page, head, thumbnail, whole = visit(
        runtime, job, ("/TOKEN/", {}), ("/TOKEN/", {"method": "HEAD"}), (f"/TOKEN/thumbnail/{image_id}", {}),
        (f"/TOKEN/large/{image_id}", {"host": "localhost:PORT"}),
    )  # fmt: skip
    assert (page[0], page[1]["content-type"], page[1]["cache-control"]) == (200, "text/html; charset=utf-8", "no-store")
    data = data_of(page[2].decode())
    assert (data["serve"], [one["id"] for one in data["images"]]) == (True, [image_id])
    assert (head[0], head[1]["content-length"], head[2]) == (200, str(len(page[2])), b"")
    assert (thumbnail[1]["content-type"], thumbnail[1]["x-content-type-options"]) == ("image/jpeg", "nosniff")
    assert Image.open(BytesIO(thumbnail[2])).size == (320, 240)
    assert Image.open(BytesIO(whole[2])).size == (1600, 1200)


def test_images_that_are_gone_have_a_reason_and_an_outage_passes(runtime: Runtime) -> None:
    class Away(Storage):
        async def get(self, key: str, *, max_bytes: int | None = None) -> bytes:
            del key, max_bytes
            raise OutageError("the storage does not respond")

    job, other = job_of(runtime, 1, first=10), job_of(runtime, 1, first=11)
    ((image_id, url),) = query(runtime, "SELECT id, storage_url FROM images WHERE crawl_job_id = :id", id=job)
    ((foreign,),) = query(runtime, "SELECT id FROM images WHERE crawl_job_id = :id", id=other)
    away = replace(runtime, storage=Away(runtime.storage.url("x")[:-2]))
    (outage,) = visit(away, job, (f"/TOKEN/thumbnail/{image_id}", {}))
    assert (outage[0], outage[2]) == (503, b"the storage does not respond")
    runtime.run(runtime.storage.delete([runtime.storage.key(url)]))
    gone, unknown, of_another = visit(
        runtime, job, *((f"/TOKEN/thumbnail/{one}", {}) for one in (image_id, 999_999_999_999, foreign))
    )
    assert (gone[0], gone[2]) == (404, b"file missing in the storage")
    assert (unknown[0], of_another[0]) == (404, 404), "only images of the job"


def test_other_paths_are_not_found(runtime: Runtime) -> None:
    paths = [
        "/", "/TOKEN", "/TOKEN/../", "/x/", "/TOKENx/", "/TOKEN/thumbnail/", "/TOKEN/thumbnail/x",
        "/TOKEN/thumbnail/1/2", "/TOKEN/thumbnail/-1", "/TOKEN/thumbnail/99999999999999999999", "/TOKEN/other/1",
        "/TOKEN/thumbnail/%31", "/TOKEN/?x", "/%ff",
    ]  # fmt: skip
    answers = visit(runtime, job_of(runtime, 1, first=100), *((path, {}) for path in paths))
    for path, (status, headers, body) in zip(paths, answers, strict=True):
        assert (status, headers["content-type"]) == (404, "text/plain; charset=utf-8"), path
        assert body.startswith(b"not found"), path


def test_another_host_name_is_rejected(runtime: Runtime) -> None:
    hosts = ["evil.example", "evil.example:PORT", "127.0.0.1", "127.0.0.1:1", "[::1]:PORT", "localhost:PORT.evil", ""]
    answers = visit(runtime, job_of(runtime, 1, first=200), *(("/TOKEN/", {"host": host}) for host in hosts))
    for host, (status, _, body) in zip(hosts, answers, strict=True):
        assert (status, body) == (421, b"this server is 127.0.0.1"), host


def test_nothing_can_be_changed(runtime: Runtime) -> None:
    methods = ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH"]
    answers = visit(runtime, job_of(runtime, 1, first=300), *(("/TOKEN/", {"method": method}) for method in methods))
    assert [status for status, _, _ in answers] == [501] * len(methods)


def test_it_listens_on_loopback_only_and_says_when_a_port_is_taken(runtime: Runtime) -> None:
    job = job_of(runtime, 1, first=400)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PermanentError, match=rf"port {port} of 127\.0\.0\.1 cannot be served on .* another --port"):
            server.serve(runtime, job, port=port, started=lambda _: None)
    with pytest.raises(PermanentError, match="there is no crawl job 123456"):
        server.serve(runtime, 123_456, port=0, started=lambda _: None)
