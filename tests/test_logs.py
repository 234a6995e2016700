import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Literal

import preloaded
import pytest
import redis
import structlog
from acceptance_stack import children
from celery import Celery

from pixcrawler_worker import logs
from pixcrawler_worker.db import server, session
from pixcrawler_worker.embedded.services import Services
from pixcrawler_worker.errors import TransientError

UNREACHABLE = "postgresql://user:hunter2@127.0.0.1:1/pixcrawler?connect_timeout=2"


def entries(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    captured = capsys.readouterr()
    assert captured.out == "", "standard output is for what a command prints"
    return [json.loads(line) for line in captured.err.splitlines()]


def fail() -> None:
    password = "hunter2"
    raise LookupError(f"a word of {len(password)} letters\nis not here")


def log_a_bug() -> None:
    try:
        fail()
    except LookupError:
        structlog.get_logger("ours").exception("sweep failed", job=7)
        logging.getLogger("theirs").exception("task failed")


def test_an_entry_for_machines_is_one_json_object_per_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("json")
    structlog.get_logger("ours").info("chunk released", reason="two\nlines", odd=object, half="\ud800")
    logging.getLogger("theirs").warning("lost %s\n%d times", "connection", 3)
    ours, theirs = entries(capsys)
    assert ours["event"] == "chunk released"
    assert (ours["level"], ours["logger"], ours["reason"]) == ("info", "ours", "two\nlines")
    assert theirs["event"] == "lost connection\n3 times"
    assert (theirs["level"], theirs["logger"]) == ("warning", "theirs")
    for entry in (ours, theirs):
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", entry["timestamp"])


def test_an_entry_for_people_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("console")
    structlog.get_logger("ours").info("chunk released", reason="two\nlines", job=7)
    logging.getLogger("theirs").warning("lost %s", "connection")
    ours, theirs = capsys.readouterr().err.splitlines()
    assert re.search(r"\[info +\] chunk released +\[ours\] job=7 reason='two\\nlines'$", ours)
    assert re.search(r"\[warning +\] lost connection +\[theirs\]", theirs)
    assert "\x1b" not in ours, "no colors where there is no terminal"


def test_untrusted_texts_of_an_entry_cannot_control_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("console")
    hostile = "\x1b]0;owned\x07\x9b2J\u202ea\nforged line"
    structlog.get_logger().info(f"event {hostile}", detail=hostile, other=[hostile])
    logging.getLogger("theirs").warning("entry %s", hostile)
    try:
        raise ValueError(hostile)  # noqa: TRY301 - a traceback is wanted
    except ValueError:
        structlog.get_logger().exception("failed")
    written = capsys.readouterr().err
    assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(written)
    assert written.count("\nforged line") == 1, "in a traceback"


@pytest.mark.parametrize("style", ["console", "json"])
def test_bound_variables_are_in_every_entry(
    style: Literal["console", "json"], capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure(style)
    structlog.contextvars.bind_contextvars(chunk=4711)
    structlog.get_logger("ours").info("one")
    logging.getLogger("theirs").warning("two")
    structlog.contextvars.clear_contextvars()
    structlog.get_logger("ours").info("three")
    one, two, three = capsys.readouterr().err.splitlines()
    assert "4711" in one
    assert "4711" in two
    assert "4711" not in three


def test_a_bug_is_one_json_object_with_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("json")
    log_a_bug()
    ours, theirs = entries(capsys)
    assert (ours["event"], ours["job"], ours["level"]) == ("sweep failed", 7, "error")
    assert theirs["event"] == "task failed"
    for entry in (ours, theirs):
        assert entry["exception"].startswith("Traceback (most recent call last):")
        assert entry["exception"].endswith("LookupError: a word of 7 letters\nis not here")


@pytest.mark.parametrize("style", ["console", "json"])
def test_a_traceback_shows_no_local_variable(
    style: Literal["console", "json"], capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure(style)
    log_a_bug()
    text = capsys.readouterr().err
    assert "fail" in text
    assert "LookupError: a word of 7 letters" in text
    # The source line of the assignment is not part of a traceback; a formatter that shows locals would print it.
    assert "hunter2" not in text


@pytest.mark.parametrize("style", ["console", "json"])
def test_the_error_of_an_unreachable_database_has_no_password(
    style: Literal["console", "json"], capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure(style, level=logging.DEBUG)
    engine = session.connect(UNREACHABLE)
    try:
        server.version(engine)
    except TransientError as error:
        structlog.get_logger("ours").exception("sweep postponed", reason=str(error), engine=engine)
    engine.dispose()
    text = capsys.readouterr().err
    assert "sweep postponed" in text
    assert "the database does not answer" in text
    assert "Traceback" in text
    assert "hunter2" not in text


def test_entries_below_the_level_are_not_written(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("json", level=logging.WARNING)
    structlog.get_logger("ours").info("no")
    logging.getLogger("theirs").info("no")
    structlog.get_logger("ours").warning("yes")
    assert [entry["event"] for entry in entries(capsys)] == ["yes"]


def test_of_noisy_libraries_only_warnings_are_written(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logs.configure("json")
    logging.getLogger("kombu").info("heartbeat")
    logging.getLogger("kombu").warning("connection lost")
    assert [entry["event"] for entry in entries(capsys)] == ["connection lost"]


def test_configuring_twice_writes_every_entry_once(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("json")
    logs.configure("json")
    structlog.get_logger("ours").info("once")
    assert len(entries(capsys)) == 1
    assert logging.getLogger().handlers[0].stream is sys.stderr  # type: ignore[attr-defined]  # a StreamHandler


@pytest.fixture
def worker_environment(services: Services, database_url: str, tmp_path: Path) -> dict[str, str]:
    """The environment of a worker that logs JSON, and would log warnings of Python and of Celery."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PIXCRAWLER_")}
    return kept | {
        "PIXCRAWLER_DATABASE_URL": database_url,
        "PIXCRAWLER_BROKER_URL": services.broker_url.replace("virtual_host=0", "virtual_host=6"),
        "PIXCRAWLER_DATA_DIR": str(tmp_path),
        "PIXCRAWLER_ALLOWED_NETWORKS": "127.0.0.0/8",
        "PIXCRAWLER_LOG_FORMAT": "json",
        "PIXCRAWLER_SWEEP_SECONDS": "0.5",
        "PIXCRAWLER_LEASE_SECONDS": "2",
    }


def worker_command(*words: str) -> list[str]:
    return [sys.executable, "-m", "celery", "--app", "pixcrawler_worker", "worker", *words]


def parsed(log: str) -> list[dict[str, Any]]:
    found = []
    for number, line in enumerate(log.splitlines(), 1):
        try:
            found.append(json.loads(line))
        except ValueError:
            pytest.fail(f"line {number} is no JSON: {line!r}")
    assert all(isinstance(entry, dict) and {"event", "level", "timestamp"} <= entry.keys() for entry in found)
    return found


def test_each_line_of_a_workers_output_is_json_from_start_to_stop(
    worker_environment: dict[str, str], services: Services, tmp_path: Path
) -> None:
    """With a lost connection, a killed child, and whatever Celery has to say about all that."""
    path = tmp_path / "log"
    output = path.open("wb")

    def wait_for(*texts: str) -> None:
        deadline = time.monotonic() + 60
        while not all(text in path.read_text() for text in texts):
            assert time.monotonic() < deadline, f"not logged: {texts}\n{path.read_text()[-3000:]}"
            time.sleep(0.05)

    words = ("--concurrency", "1", "--loglevel", "INFO", "--hostname", "json@test")
    with (
        output,
        subprocess.Popen(
            worker_command(*words), env=worker_environment, cwd=tmp_path, stdout=output, stderr=output
        ) as worker,
    ):
        try:
            wait_for("ready.")
            (child,) = children(worker.pid)
            os.kill(child, signal.SIGKILL)
            with redis.Redis.from_url(services.redis_url.replace("db=0", "db=6")) as server:
                for client in server.client_list():
                    if client["db"] == "6" and "CLIENT" not in client["cmd"].upper():
                        server.client_kill_filter(_id=client["id"])
            wait_for("PendingDeprecationWarning")
            with Celery(broker=worker_environment["PIXCRAWLER_BROKER_URL"]) as app:
                app.send_task("pixcrawler.crawl.start", args=[77], queue="crawl")
            wait_for("message dropped")
            worker.send_signal(signal.SIGINT)
            wait_for("the worker stops")
            worker.send_signal(signal.SIGTERM)
            worker.wait(timeout=60)
        finally:
            worker.kill()
    found = parsed(path.read_text())
    events = [entry["event"] for entry in found]
    stops = [(entry["signal"], entry["how"]) for entry in found if entry["event"] == "the worker stops"]
    assert stops[0] == ("SIGINT", "Warm")
    assert any("json@test ready." in event for event in events)
    assert any("connection" in event.lower() for event in events)
    if os.geteuid() == 0:
        assert any("superuser" in event for event in events)


@pytest.mark.parametrize(
    ("changed", "words", "reason"),
    [
        ({"PIXCRAWLER_LEASE_SECONDS": "soon"}, (), "PIXCRAWLER_LEASE_SECONDS is invalid: "),
        ({}, ("--pool", "threads"), "chunks cannot run in the pool thread"),
    ],
)
def test_a_worker_that_does_not_start_says_so_in_one_line_of_json(
    worker_environment: dict[str, str], tmp_path: Path, changed: dict[str, str], words: tuple[str, ...], reason: str
) -> None:
    command = ["celery", "--app", "pixcrawler_worker", "worker", *words]
    done = preloaded.run(command, env=worker_environment | changed, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    *_, entry = parsed(done.stderr)
    assert (entry["event"], entry["level"]) == ("the worker does not start", "critical")
    assert entry["reason"].startswith(reason)
    assert len([one for one in parsed(done.stderr) if "does not start" in one["event"]]) == 1


def test_whatever_a_process_writes_past_its_log_becomes_an_entry() -> None:
    program = """
import os, sys, threading, warnings
from pixcrawler_worker import logs
logs.configure("json")
logs.capture()
logs.capture()
logs.configure("json")
print("of print", end="")
print(" in two parts")
sys.stderr.write("two\\nlines\\n")
sys.__stdout__.write("of Celery\\n")
warnings.warn("of Python")
class Broken:
    def __del__(self):
        raise ValueError("unraisable")
Broken()
thread = threading.Thread(target=lambda: 1 / 0)
thread.start()
thread.join()
import logging
class Unprintable:
    def __str__(self):
        raise ValueError("unprintable")
logging.getLogger("theirs").warning("%s", Unprintable())
print("without an end", end="")
raise LookupError("uncaught")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    found = parsed(done.stderr)
    events = [entry["event"] for entry in found]
    for expected in ("of print in two parts", "two", "lines", "of Celery", "without an end"):
        assert events.count(expected) == 1
    assert sum("of Python" in event for event in events) == 1
    assert sum("unraisable" in event for event in events) == 1
    assert [entry["exception"].splitlines()[-1] for entry in found if entry["event"] == "uncaught exception"] == [
        "ZeroDivisionError: division by zero",
        "LookupError: uncaught",
    ]
