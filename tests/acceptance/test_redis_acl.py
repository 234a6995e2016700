"""Redis with the users of `deploy/redis-acl.conf`: a worker, commands and an API, and what they may not do."""

import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from acceptance_stack import Stack

from pixcrawler_worker import client
from pixcrawler_worker.broker import rights
from pixcrawler_worker.embedded import launcher
from pixcrawler_worker.errors import PermanentError

CONF = Path(__file__).parents[2] / "deploy" / "redis-acl.conf"
PASSWORDS = {"pixcrawler_worker": "CHANGE-THIS-WORKER-PASSWORD", "pixcrawler_api": "CHANGE-THIS-API-PASSWORD"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a Redis with these users, and one of the test that may do everything."""
    program = launcher.locate("redis-server")
    assert program is not None
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = int(found.getsockname()[1])
    directory = tmp_path_factory.mktemp("redis")
    (directory / "redis.conf").write_text(
        f'include {CONF}\nuser test on >test ~* &* +@all\nport {port}\nbind 127.0.0.1\nsave ""\ndir {directory}\n'
    )
    with subprocess.Popen([program, directory / "redis.conf"], stdout=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 20
            while True:
                try:
                    connected(port, "test").ping()
                    break
                except redis.ConnectionError:
                    assert time.monotonic() < deadline
                    time.sleep(0.02)
            yield port
        finally:
            process.terminate()
            process.wait(10)


def url(port: int, user: str) -> str:
    return f"redis://{user}:{PASSWORDS.get(user, user)}@127.0.0.1:{port}/0"


def limited(port: int, *rules: str) -> str:
    """Return the URL of a user with the rights of a worker, changed by these rules."""
    (line,) = (line for line in CONF.read_text().splitlines() if line.startswith("user pixcrawler_worker "))
    given = [word for word in line.split()[2:] if not word.startswith(">")]
    everything: Any = connected(port, "test")
    everything.execute_command("ACL", "SETUSER", "limited", "reset", *given, ">limited", *rules)
    return url(port, "limited")


def connected(port: int, user: str) -> redis.Redis:
    return redis.Redis.from_url(url(port, user), decode_responses=True)


def test_jobs_and_commands_need_no_more_than_the_user_of_workers_may(
    stack: Stack, server: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    restricted = stack.with_broker(url(server, "pixcrawler_worker"))
    monkeypatch.setenv("PIXCRAWLER_BROKER_URL", url(server, "pixcrawler_api"))
    connected(server, "test").acl_log_reset()
    # Malformed, for the quarantine.
    connected(server, "pixcrawler_api").lpush("maintenance", "not a message")

    def denied() -> list[str]:
        # CLIENT SETINFO is of later versions of Redis: clients do without it.
        log = connected(server, "test").acl_log()
        return [str(entry) for entry in log if entry["object"] != "client"]

    with restricted.worker():
        job_id = stack.make_job(max_images=5)
        client.start_crawl(job_id, {"sources": ["urls"], "urls": [f"{stack.host}/good/{n}.jpg" for n in range(8)]})
        stack.wait(job_id, seconds=20, until=lambda row: row["status"] == "completed" or bool(denied()))
        assert denied() == []
        assert stack.job(job_id)["valid_images"] == 5
        client.cancel_crawl(job_id)
        for command in (["doctor", "--json"], ["quarantine", "--clear"]):
            ran = restricted.run("pixcrawler", *command)
            assert ran.returncode == 0, ran.stdout + ran.stderr
            if command[0] == "doctor":
                # Behind a pooler there is one line more.
                details = [check["detail"] for check in json.loads(ran.stdout)]
                assert any("1 consuming all queues" in detail for detail in details), details
    assert denied() == []


def test_a_worker_without_a_right_does_not_start_and_names_it(stack: Stack, server: int) -> None:
    restricted = stack.with_broker(limited(server, "-brpop"))
    command = [sys.executable, "-m", "celery", "-A", "pixcrawler_worker", "worker"]
    ran = subprocess.run(command, env=restricted.env, capture_output=True, text=True, check=False, timeout=60)
    assert ran.returncode != 0
    assert ran.stderr.splitlines()[-1] == (
        "pixcrawler: the user of Redis may not run BRPOP crawl, BRPOP validation, BRPOP export, BRPOP maintenance: "
        "grant it with ACL SETUSER, see deploy/redis-acl.conf"
    )


@pytest.mark.parametrize(
    ("rule", "named"),
    [
        ("-@all", "PING"),
        ("-multi", "MULTI"),
        ("-exec", "EXEC"),
        ("-watch", "WATCH unacked"),
        ("-info", "INFO server"),
        ("-hset", "HSET unacked"),
        ("-publish", "PUBLISH /0.celery.pidbox, PUBLISH /0.celeryev/worker.heartbeat"),
        ("-@scripting", "EVAL unacked_mutex, EVALSHA pixcrawler:x"),
        ("resetkeys ~crawl* ~unacked*", "BRPOP validation"),
        ("resetchannels &/0.celery.pidbox", "PUBLISH /0.celeryev/worker.heartbeat"),
    ],
)
def test_each_missing_right_is_named(server: int, rule: str, named: str) -> None:
    before = connected(server, "test").dbsize()
    with pytest.raises(PermanentError, match=rf"may not run {re.escape(named)}"):
        rights.require(limited(server, *rule.split()))
    assert connected(server, "test").dbsize() == before


def test_asking_for_rights_changes_nothing_and_finds_none_missing_in_the_shipped_user(server: int) -> None:
    with connected(server, "test") as everything:
        everything.flushdb()
        rights.require(url(server, "pixcrawler_worker"))
        rights.require(url(server, "test"))
        assert everything.keys() == []
    with pytest.raises(PermanentError, match="may not run"):
        rights.require(url(server, "pixcrawler_api"))


@pytest.mark.parametrize("user", PASSWORDS)
@pytest.mark.parametrize(
    "command",
    [
        "FLUSHALL",
        "FLUSHDB",
        "CONFIG GET maxmemory",
        "CONFIG SET maxmemory 1",
        "SHUTDOWN NOSAVE",
        "SAVE",
        "KEYS *",
        "MONITOR",
        "ACL LIST",
        "DEBUG SLEEP 0",
        "CLIENT KILL TYPE normal",
        "SLAVEOF 127.0.0.1 1",
        "GET of-another-service",
        "LPUSH other 1",
        "PUBLISH other 1",
    ],
)
def test_a_forbidden_command_is_denied(server: int, user: str, command: str) -> None:
    with connected(server, user) as connection, pytest.raises(redis.exceptions.NoPermissionError):
        connection.execute_command(*command.split(" "))


@pytest.mark.parametrize(
    "command", ["BRPOP crawl 1", "LRANGE crawl 0 -1", "DEL crawl", "EVAL return 0", "GET pixcrawler:marker"]
)
def test_an_api_only_sends(server: int, command: str) -> None:
    with connected(server, "pixcrawler_api") as connection, pytest.raises(redis.exceptions.NoPermissionError):
        connection.execute_command(*command.split(" "))


def test_no_one_is_let_in_without_a_password(server: int) -> None:
    for wrong in (f"redis://127.0.0.1:{server}/0", f"redis://pixcrawler_worker:x@127.0.0.1:{server}/0"):
        with redis.Redis.from_url(wrong) as connection, pytest.raises(redis.RedisError):
            connection.ping()
