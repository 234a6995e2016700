import json

import malformed
import pytest
import redis
from structlog.testing import capture_logs

from pixcrawler_worker.broker import quarantine
from pixcrawler_worker.broker.faults import Fault
from pixcrawler_worker.errors import TransientError


def entry(detail: str = "it is invalid", raw: bytes = b"{}") -> quarantine.QuarantinedMessage:
    return quarantine.describe(raw, queue="crawl", reason=Fault.BODY, detail=detail)


def add(url: str, *entries: quarantine.QuarantinedMessage) -> None:
    with redis.Redis.from_url(url) as server, server.pipeline() as pipe:
        for one in entries:
            quarantine.add(pipe, one)
        pipe.execute()


def test_the_newest_entries_are_read_first_and_all_are_cleared(redis_url: str) -> None:
    add(redis_url, *(entry(str(number)) for number in range(5)))
    count, newest = quarantine.read(redis_url, limit=2)
    assert (count, [one.detail for one in newest]) == (5, ["4", "3"])
    assert quarantine.clear(redis_url) == 5
    assert quarantine.read(redis_url, limit=2) == (0, [])


def test_the_list_is_bounded(redis_url: str) -> None:
    add(redis_url, *[entry()] * (quarantine.MAX_ENTRIES + 5))
    assert quarantine.read(redis_url, limit=1)[0] == quarantine.MAX_ENTRIES


@pytest.mark.parametrize("content", [b"junk", b"5", b"{}", b'{"time": 1}', b"[" * 100_000])
def test_what_else_is_in_the_list_does_no_harm(redis_url: str, content: bytes) -> None:
    with redis.Redis.from_url(redis_url) as server:
        server.lpush(quarantine.KEY, content)
    _, (found,) = quarantine.read(redis_url, limit=1)
    assert found.detail == "not an entry of the quarantine"


def test_an_absent_redis_is_a_passing_trouble() -> None:
    with pytest.raises(TransientError):
        quarantine.read("redis://127.0.0.1:1/0", limit=1)
    with pytest.raises(TransientError):
        quarantine.clear("redis://127.0.0.1:1/0")


def test_an_entry_names_task_and_id_where_it_can() -> None:
    message = malformed.envelope("pixcrawler.crawl.start", queue="crawl")
    found = entry(raw=json.dumps(message).encode()[:-5])
    assert (found.task, found.task_id) == ("pixcrawler.crawl.start", message["headers"]["id"])
    assert found.size == len(json.dumps(message)) - 5
    assert entry(raw=b"\xff" * 1000).task is None


@pytest.mark.parametrize(
    "text",
    [
        '{"password": "hunter2"}',
        '{"db_password":"a \\"hunter2\\" b"}',
        '{"body": "{\\"options\\": {\\"name\\": \\"hunter2\\"}}"}',
        '{"argsrepr": "(\'hunter2\',)"}',
        "{\"kwargsrepr\": \"{'token': 'hunter2'}\"}",
        '{"note": "{\\"api_key\\": \\"hunter2\\"}"}',
        "api_key=hunter2&a=b",
        "Authorization: hunter2",
        "redis://user:hunter2@host:6379/0",
        "https://a.example/1.jpg?signed=hunter2",
        '{"x-auth-token": ["hunter2"]}',
        f'{{"body": "{malformed.encoded(b"hunter2" * 10)}"}}',
        "hunter2" * 10,
    ],
)
def test_an_excerpt_holds_no_secret(text: str) -> None:
    found = quarantine.excerpt(text)
    assert "hunter2" not in found
    assert malformed.encoded(b"hunter2" * 3)[:20] not in found


def test_an_entry_is_small_and_printable_whatever_the_message_is() -> None:
    for raw in (b"\0\x1b[31m" * 1000, b"\xff" * 100_000, json.dumps(malformed.envelope("a", queue="b")).encode()):
        found = quarantine.describe(raw, queue="q\n" * 1000, reason=Fault.BODY, detail="d\n" * 1000)
        assert len(json.dumps(found.excerpt)) < 2500
        assert found.excerpt.isprintable()
        assert found.queue.isprintable()
        assert found.detail.isprintable()


def test_many_messages_are_logged_in_few_lines_and_counted() -> None:
    reporter = quarantine.Reporter()
    with capture_logs() as logged:
        for _ in range(1000):
            reporter.report(entry())
    assert len(logged) == reporter.LINES
    reporter.PERIOD = 0.0
    with capture_logs() as logged:
        reporter.report(entry())
    first, second = logged
    assert (first["event"], first["count"]) == ("more unreadable messages set aside", 1000 - reporter.LINES)
    assert second["event"].startswith("unreadable message set aside")


def test_the_summary_names_the_newest_and_commands_that_exist() -> None:
    words = quarantine.summary(2, [entry("it is too deep")])
    assert "2 unreadable messages were set aside, the newest " in words
    assert "it is too deep" in words
    assert "pixcrawler quarantine --clear" in words
