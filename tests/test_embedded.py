"""Real servers, real processes, real kills."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import kombu
import psycopg
import pytest
import redis
import sqlalchemy

from pixcrawler_worker import embedded
from pixcrawler_worker.embedded import FAKE_REDIS, EmbeddedError, Pids, Services, processes

USER = """
import sys
from pathlib import Path
from pixcrawler_worker import embedded
with embedded.running(Path(sys.argv[1]), durable=False) as services:
    print(services.to_json(), flush=True)
    sys.stdin.read()
"""


@contextmanager
def other_user(data_dir: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that uses the services until its standard input is closed, or until it is killed."""
    command = [sys.executable, "-c", USER, str(data_dir)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process


def used_by(process: subprocess.Popen[str]) -> Services:
    assert process.stdout is not None
    return Services.from_json(process.stdout.readline())


def both_answer(services: Services) -> bool:
    with (
        psycopg.connect(services.database_url) as connection,
        redis.Redis.from_url(services.redis_url) as client,
    ):
        row = connection.execute("SELECT current_database()").fetchone()
        return row == ("pixcrawler",) and client.ping() is True


def lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        # The corpse of an orphan waits for process 1, which in a container may never look (proc_pid_stat(5)).
        return not Path("/proc/self/stat").exists() or " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except (ProcessLookupError, FileNotFoundError):
        return False


def all_end(pids: Pids) -> bool:
    deadline = time.monotonic() + 20
    while any(map(lives, (pids.guardian, pids.postgres, pids.redis))):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def without_redis(program: str) -> Path | None:
    return None if program == "redis-server" else embedded.locate(program)


@pytest.fixture(scope="module")
def used_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory that was served before: a start takes a fifth of the time there."""
    data_dir = tmp_path_factory.mktemp("embedded")
    with embedded.running(data_dir, durable=False):
        pass
    return data_dir


def test_both_servers_answer_by_every_url_and_stop_with_the_context(used_dir: Path) -> None:
    with embedded.running(used_dir, durable=False) as services:
        assert both_answer(services)
        engine = sqlalchemy.create_engine(services.database_url.replace("postgresql:", "postgresql+psycopg:"))
        with engine.connect() as connection:
            assert connection.scalar(sqlalchemy.text("SHOW server_encoding")) == "UTF8"
        engine.dispose()
        with kombu.Connection(services.broker_url) as broker, closing(broker.SimpleQueue("errand")) as queue:
            queue.put({"id": 1})
            assert queue.get(timeout=5).payload == {"id": 1}
    assert all_end(services.pids)
    assert not services.sockets.exists()
    assert embedded.find(used_dir) is None


def test_the_servers_listen_on_no_network_and_never_evict_a_message(used_dir: Path) -> None:
    with embedded.running(used_dir, durable=False) as services:
        with psycopg.connect(services.database_url) as connection:
            assert connection.execute("SHOW listen_addresses").fetchone() == ("",)
        with redis.Redis.from_url(services.redis_url) as client:
            assert client.config_get("port") == {"port": "0"}
            assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}


def test_a_second_user_finds_the_services_and_keeps_them_when_the_first_leaves(used_dir: Path) -> None:
    with other_user(used_dir) as first:
        started = used_by(first)
        assert embedded.find(used_dir) == started
        with embedded.running(used_dir, durable=False) as found:
            assert found == started
            first.communicate(timeout=30)
            assert first.returncode == 0
            assert both_answer(found)
        assert all_end(started.pids)


def test_users_within_one_process_may_nest(used_dir: Path) -> None:
    with embedded.running(used_dir, durable=False) as outer:
        with embedded.running(used_dir, durable=False) as inner:
            assert inner == outer
        assert both_answer(outer)


def test_looking_for_services_neither_starts_nor_stops_them(used_dir: Path, tmp_path: Path) -> None:
    assert embedded.find(tmp_path / "nothing") is None
    assert not (tmp_path / "nothing").exists()
    with embedded.running(used_dir, durable=False) as services:
        assert embedded.find(used_dir) == services
        assert both_answer(services)


def test_of_users_that_come_at_once_one_starts_and_the_others_find(tmp_path: Path) -> None:
    with ExitStack() as stack:
        users = [stack.enter_context(other_user(tmp_path)) for _ in range(3)]
        assert len({used_by(user).pids for user in users}) == 1


def test_nothing_outlives_an_owner_that_was_killed(used_dir: Path) -> None:
    with other_user(used_dir) as owner:
        services = used_by(owner)
        owner.kill()
        assert all_end(services.pids)
        assert embedded.find(used_dir) is None


def test_a_user_that_comes_while_the_services_stop_gets_new_ones(used_dir: Path) -> None:
    with other_user(used_dir) as owner:
        before = used_by(owner)
        owner.kill()
        with embedded.running(used_dir, durable=False) as after:
            assert both_answer(after)
            assert both_answer(after) if after == before else all_end(before.pids)


def test_a_killed_guardian_leaves_nothing_in_the_way_of_the_next_start(used_dir: Path) -> None:
    with embedded.running(used_dir, durable=False) as before:
        os.kill(before.pids.guardian, signal.SIGKILL)
        with embedded.running(used_dir, durable=False) as after:
            assert both_answer(after)
            assert all_end(before.pids)


@pytest.mark.skipif(processes.setpriv() is None, reason="the kernel's farewell signal is set by util-linux")
def test_the_servers_die_with_a_killed_guardian(used_dir: Path) -> None:
    with embedded.running(used_dir, durable=False) as services:
        os.kill(services.pids.guardian, signal.SIGKILL)
        assert all_end(services.pids)


def test_the_death_of_one_server_ends_the_other_and_the_next_start_has_both(used_dir: Path) -> None:
    with embedded.running(used_dir, durable=False) as before:
        os.kill(before.pids.redis, signal.SIGKILL)
        assert all_end(before.pids)
        with embedded.running(used_dir, durable=False) as after:
            assert both_answer(after)


def test_a_lock_that_an_orphan_holds_names_the_orphan_and_is_taken_from_it(tmp_path: Path) -> None:
    with processes.lock(tmp_path / "server.lock", stop_with=signal.SIGTERM) as lock:
        orphan = processes.spawn(["sleep", "60"], lock=lock)
    with processes.lock(tmp_path / "server.lock", stop_with=signal.SIGTERM):
        assert orphan.wait(timeout=5) == -signal.SIGTERM


def test_a_lock_that_nobody_holds_harms_no_process_with_the_id_it_names(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as bystander:
        (tmp_path / "server.lock").write_text(str(bystander.pid))
        with (
            processes.lock(tmp_path / "server.lock", stop_with=signal.SIGTERM),
            pytest.raises(subprocess.TimeoutExpired),
        ):
            bystander.wait(timeout=0.2)
        bystander.kill()


def test_ctrl_c_reaches_the_users_alone(used_dir: Path) -> None:
    with embedded.running(used_dir, durable=False) as services:
        groups = {os.getpgid(pid) for pid in (services.pids.guardian, services.pids.postgres, services.pids.redis)}
    assert os.getpgrp() not in groups


def test_a_note_that_was_copied_or_cut_short_is_not_believed(used_dir: Path, tmp_path: Path) -> None:
    with embedded.running(used_dir, durable=False):
        note = (used_dir / "services.json").read_text()
        (tmp_path / "services.json").write_text(note)
        assert embedded.find(tmp_path) is None
        (tmp_path / "services.json").write_text(note[:20])
        assert embedded.find(tmp_path) is None


@pytest.mark.parametrize("name", ["deep/" * 20, "comma, colon: and %20"])
def test_a_directory_unfit_for_sockets_is_served_through_a_private_temporary_one(tmp_path: Path, name: str) -> None:
    data_dir = tmp_path / name
    with embedded.running(data_dir, durable=False) as services:
        assert both_answer(services)
        assert services.sockets.stat().st_mode & 0o777 == 0o700
        assert embedded.find(data_dir) == services
    assert not services.sockets.exists()


def test_what_should_last_survives_a_stop_and_a_killed_guardian(tmp_path: Path) -> None:
    with embedded.running(tmp_path) as services:
        with psycopg.connect(services.database_url) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 1 AS number")
        with redis.Redis.from_url(services.redis_url) as client:
            client.set("kept", "1")
    with embedded.running(tmp_path) as services:
        with psycopg.connect(services.database_url) as connection:
            connection.execute("INSERT INTO kept VALUES (2)")
        with redis.Redis.from_url(services.redis_url, decode_responses=True) as client:
            assert client.incr("kept") == 2
        os.kill(services.pids.guardian, signal.SIGKILL)
    with embedded.running(tmp_path) as services:
        with psycopg.connect(services.database_url) as connection:
            assert connection.execute("SELECT number FROM kept ORDER BY 1").fetchall() == [(1,), (2,)]
        with redis.Redis.from_url(services.redis_url, decode_responses=True) as client:
            assert client.get("kept") == "2"


@pytest.mark.parametrize("missing", ["postgres", "redis-server"])
def test_a_missing_program_is_answered_by_how_to_install_it(tmp_path: Path, missing: str) -> None:
    def locate(program: str) -> Path | None:
        return None if program == missing else embedded.locate(program)

    with (
        pytest.raises(EmbeddedError, match=r"pip install 'pixcrawler-worker\[embedded\]'"),
        embedded.running(tmp_path, locate=locate),
    ):
        pass


def test_a_server_that_does_not_start_is_reported_with_its_last_words(used_dir: Path, tmp_path: Path) -> None:
    broken = tmp_path / "redis-server"
    broken.write_text("#!/bin/sh\necho no room left >&2\nexit 1\n")
    broken.chmod(0o755)

    def locate(program: str) -> Path | None:
        return broken if program == "redis-server" else embedded.locate(program)

    with (
        pytest.raises(EmbeddedError, match=r"redis did not start: .*no room left"),
        embedded.running(used_dir, durable=False, locate=locate),
    ):
        pass
    assert embedded.find(used_dir) is None


def test_a_directory_that_cannot_be_made_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EmbeddedError, match="cannot hold the services"), embedded.running(tmp_path / "file" / "data"):
        pass


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can take what belongs to another user")
def test_root_refuses_a_directory_that_somebody_else_prepared(tmp_path: Path) -> None:
    (tmp_path / "postgres").mkdir()
    os.chown(tmp_path / "postgres", 1, 1)
    with pytest.raises(EmbeddedError, match="start as that user"), embedded.running(tmp_path):
        pass


def test_the_fake_redis_serves_only_those_who_allow_it(used_dir: Path) -> None:
    with embedded.running(used_dir, durable=False, allow_fake=True, locate=without_redis) as services:
        assert services.redis_server == FAKE_REDIS
        assert services.redis_url.startswith("redis://127.0.0.1:")
        assert both_answer(services)
        with pytest.raises(EmbeddedError, match="fake Redis"), embedded.running(used_dir, durable=False):
            pass
        assert both_answer(services)


def test_services_that_may_lose_data_are_refused_to_those_who_want_to_keep_it(used_dir: Path) -> None:
    with embedded.running(used_dir, durable=False) as services:
        with pytest.raises(EmbeddedError, match="without durability"), embedded.running(used_dir, durable=True):
            pass
        assert both_answer(services)
