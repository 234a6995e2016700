import asyncio
import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from fakes import hosts
from pydantic import SecretStr
from sqlalchemy import text

from pixcrawler_worker import runtime
from pixcrawler_worker import settings as configuration
from pixcrawler_worker.db.session import transact
from pixcrawler_worker.domain.reasons import Reason, RejectedError
from pixcrawler_worker.embedded.services import Services
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.runtime import Runtime
from pixcrawler_worker.settings import Settings

FORK = """
import os, sys, traceback
from sqlalchemy import text
from pixcrawler_worker import runtime
from pixcrawler_worker.db.session import transact

def session_of(opened):
    return transact(opened.sessions, lambda session: session.scalar(text("SELECT pg_backend_pid()")))

parent = runtime.current()
assert runtime.current() is parent
before = session_of(parent)
child = os.fork()
if not child:
    try:
        own = runtime.current()
        assert own is not parent and own.loop is not parent.loop and own.decoder is not parent.decoder
        assert session_of(own) != before, "a connection was shared"
        runtime.close_current()
        runtime.close_current()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
assert os.waitpid(child, 0)[1] == 0
assert session_of(parent) == before, "the end of the child closed the connection of the parent"
runtime.close_current()
assert parent.loop.is_closed()
print("done")
"""


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    return configuration.load(
        database_url=database_url, data_dir=tmp_path, storage_url="memory://", allowed_networks="127.0.0.0/8"
    )


@pytest.fixture
def opened(settings: Settings) -> Iterator[Runtime]:
    with closing(runtime.connect(settings)) as opened:
        yield opened


def children() -> set[int]:
    return {int(pid) for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()}


def test_a_forked_child_opens_a_runtime_of_its_own(database_url: str) -> None:
    environment = os.environ | {"PIXCRAWLER_DATABASE_URL": database_url, "PIXCRAWLER_STORAGE_URL": "memory://"}
    done = subprocess.run([sys.executable, "-c", FORK], check=False, env=environment, capture_output=True, text=True)
    assert (done.stdout, done.stderr, done.returncode) == ("done\n", "", 0)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc of Linux")
def test_nothing_is_started_or_connected_before_it_is_used(settings: Settings) -> None:
    before = children()
    unreachable = settings.model_copy(update={"database_url": SecretStr("postgresql:///?host=/nowhere")})
    with closing(runtime.connect(unreachable)) as opened:
        assert opened.decoder.pid is None
        assert children() == before


def test_closing_ends_the_decoder_and_every_connection(settings: Settings) -> None:
    opened = runtime.connect(settings)
    with hosts.serving() as server:
        body = opened.run(opened.downloader.fetch(server.url("/good/1.jpg"))).body
    assert opened.run(opened.decoder.inspect(body)).width == 96
    pid = opened.decoder.pid
    assert pid is not None
    os.kill(pid, 0)
    backend = transact(opened.sessions, lambda session: session.scalar(text("SELECT pg_backend_pid()")))
    opened.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert opened.loop.is_closed()
    with psycopg.connect(settings.require_database(), autocommit=True) as connection:
        deadline = time.monotonic() + 5
        while connection.execute("SELECT FROM pg_stat_activity WHERE pid = %s", [backend]).fetchone() is not None:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_closing_twice_does_no_harm(settings: Settings) -> None:
    opened = runtime.connect(settings)
    opened.close()
    opened.close()
    runtime.close_current()


def test_asynchronous_work_shares_one_event_loop(opened: Runtime) -> None:
    async def loop() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    assert opened.run(loop()) is opened.run(loop()) is opened.loop


def test_work_that_a_time_limit_interrupts_does_not_continue_in_the_next_run(opened: Runtime) -> None:
    continued: list[str] = []

    async def work() -> None:
        await asyncio.sleep(0.1)
        continued.append("here")

    def limit(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, limit)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        with pytest.raises(TimeoutError):
            opened.run(work())
    finally:
        signal.signal(signal.SIGALRM, before)
    opened.run(asyncio.sleep(0.2))
    assert not continued


def test_all_tasks_of_interrupted_work_end_and_the_interrupt_is_raised_once(
    opened: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    ended = []

    async def one(number: int) -> None:
        try:
            await asyncio.sleep(0.01 if number == 1 else 60)
            raise KeyboardInterrupt
        finally:
            ended.append(number)

    async def work() -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(3):
                group.create_task(one(number))

    with pytest.raises(KeyboardInterrupt):
        opened.run(work())
    gc.collect()
    assert sorted(ended) == [0, 1, 2]
    # asyncio logs the exception of a task that is collected before anything has retrieved it.
    assert caplog.records == []


def test_a_source_is_created_once_and_with_its_configuration(settings: Settings) -> None:
    assert settings.gallery_url is None
    with closing(runtime.connect(settings.model_copy(update={"gallery_url": "http://images.example"}))) as opened:
        assert opened.source("gallery") is opened.source("gallery")
        assert opened.source("gallery").missing() is None
    with closing(runtime.connect(settings)) as opened:
        missing = opened.source("gallery").missing()
        assert missing is not None
        assert "PIXCRAWLER_GALLERY_URL" in missing


def test_a_source_of_another_package_gets_its_configuration_from_the_environment(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIXCRAWLER_NASA_URL", "https://mirror.example/")
    monkeypatch.setenv("PIXCRAWLER_NASA_API_KEY", "hunter2")
    found = runtime.source_config(settings, "nasa")
    assert (found.base_url, found.api_key) == ("https://mirror.example/", "hunter2")
    assert runtime.source_config(settings, "commons").api_key is None
    monkeypatch.setenv("PIXCRAWLER_OPENVERSE_API_KEY", "ada:hunter2")
    assert runtime.source_config(settings, "openverse").api_key == "ada:hunter2"


def test_the_error_for_a_source_that_is_not_installed_names_the_installed_ones(opened: Runtime) -> None:
    with pytest.raises(PermanentError, match="there is no source 'aquarium'; known are commons, "):
        opened.source("aquarium")


def test_the_downloader_follows_the_settings(settings: Settings) -> None:
    narrow = settings.model_copy(update={"max_image_bytes": 1024, "user_agent_contact": "mailto:me@example.org"})
    with hosts.serving() as server, closing(runtime.connect(narrow)) as opened:
        with pytest.raises(RejectedError) as caught:
            opened.run(opened.downloader.fetch(server.url("/good/1.jpg")))
        assert caught.value.reason is Reason.TOO_MANY_BYTES
        assert "PixCrawler/" in server.heads["/good/1.jpg"]
        assert "(+mailto:me@example.org)" in server.heads["/good/1.jpg"]


def test_processes_with_a_broker_share_what_robots_txt_says(settings: Settings, services: Services) -> None:
    disallow = b"User-agent: PixCrawler\nDisallow: /good/"
    response = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(disallow), disallow)
    with_broker = settings.model_copy(update={"broker_url": SecretStr(services.broker_url)})
    with hosts.serving(responses={"/robots.txt": response}) as server:
        for _ in range(2):
            with closing(runtime.connect(with_broker)) as opened:
                with pytest.raises(RejectedError) as caught:
                    opened.run(opened.downloader.fetch(server.url("/good/1.jpg"), respect_robots=True))
                assert caught.value.reason is Reason.ROBOTS_DISALLOWED
        assert server.hits == {"/robots.txt": 1}


def test_private_networks_are_not_fetched_from_unless_allowed(settings: Settings) -> None:
    with hosts.serving() as server, closing(runtime.connect(settings.model_copy(update={"allowed_networks": ()}))) as o:
        with pytest.raises(RejectedError) as caught:
            o.run(o.downloader.fetch(server.url("/good/1.jpg")))
        assert caught.value.reason is Reason.FORBIDDEN_ADDRESS
        assert not server.hits


def test_files_are_stored_in_the_configured_directory(database_url: str, tmp_path: Path) -> None:
    loaded = configuration.load(database_url=database_url, data_dir=tmp_path / "with space")
    with closing(runtime.connect(loaded)) as opened:
        opened.run(opened.storage.put("a.jpg", b"x"))
    assert (tmp_path / "with space" / "storage" / "a.jpg").read_bytes() == b"x"


@pytest.mark.parametrize(
    ("invalid", "message"),
    [
        ({"database_url": "mysql://user:hunter2@db/x"}, "invalid database URL: it must begin with postgresql://"),
        ({"database_url": "postgresql://user:hunter2@db:port/x"}, "invalid database URL: expected"),
        ({"storage_url": "ftp://host/x"}, "the storage ftp://host/x cannot be opened"),
    ],
)
def test_an_invalid_setting_is_an_error_of_one_line(invalid: dict[str, str], message: str, database_url: str) -> None:
    with pytest.raises(PermanentError, match=message) as caught:
        runtime.connect(configuration.load(**{"database_url": database_url} | invalid))
    assert "\n" not in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("pixels", "decoded"), [(50_000_000, 150_000_000), (12_000_000, 150_000_000), (100_000_000, 300_000_000)]
)
def test_images_may_take_memory_in_proportion_to_their_pixels_and_never_less_than_by_default(
    pixels: int, decoded: int
) -> None:
    limits = runtime.image_limits(configuration.load(max_image_pixels=pixels, max_image_frames=7, decode_seconds=3))

    assert (limits.max_pixels, limits.max_decoded_bytes, limits.max_frames, limits.seconds) == (pixels, decoded, 7, 3)
