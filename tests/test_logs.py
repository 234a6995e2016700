import json
import logging
import re
import sys
from collections.abc import Iterator
from typing import Any, Literal

import pytest
import structlog

from pixcrawler_worker import logs
from pixcrawler_worker.db import server, session
from pixcrawler_worker.errors import TransientError

UNREACHABLE = "postgresql://user:hunter2@127.0.0.1:1/pixcrawler?connect_timeout=2"


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Restore the handlers of pytest, and clear the bound variables."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    root.handlers, root.level = handlers, level
    structlog.contextvars.clear_contextvars()
    structlog.reset_defaults()


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
