"""What monitoring learns; a real worker is asked in `security/test_secrets.py`."""

import base64
import json
from typing import Any

import malformed
import pytest
from kombu import Connection
from kombu.transport.virtual import Message

from pixcrawler_worker.broker import monitoring, reading
from pixcrawler_worker.celery import app
from pixcrawler_worker.domain.messages import Queue, Task, arguments_text, hidden_text, keywords_text

SECRET = "hunter2"
LINKS = {"urls": [f"https://a.example/1.jpg?sig={SECRET}"], "note": SECRET}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((), "()"),
        ((42,), "(42,)"),
        ((42, LINKS), "(42, ...)"),
        (([42, SECRET], SECRET, 2**70, True), "(..., ..., ..., ...)"),
        ((SECRET,) * 50, f"({', '.join(['...'] * 10)})"),
    ],
)
def test_of_arguments_ids_are_shown(arguments: tuple[object, ...], text: str) -> None:
    assert arguments_text(arguments) == text
    assert hidden_text(text) in {text, "(...)"}


def test_of_keyword_arguments_ids_and_the_names_of_tasks_are_shown() -> None:
    assert keywords_text({"crawl_job_id": 42, "options": LINKS}) == "{'crawl_job_id': 42, 'options': ...}"
    assert keywords_text({SECRET: SECRET}) == "{'...': ...}"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("(42,)", "(42,)"),
        ("[42]", "(42,)"),
        (f"(42, {LINKS})", "(42, ...)"),
        (f"[42, {LINKS}]", "(42, ...)"),
        (f"('{SECRET}',)", "(...)"),
        (f"{{'a': '{SECRET}'}}", "{...}"),
        (SECRET, "(...)"),
        ("{}", "{}"),
        ("", ""),
    ],
)
def test_of_what_other_programs_show_an_id_is_left(text: str, shown: str) -> None:
    assert hidden_text(text) == shown


def request(*args: object, **kwargs: object) -> monitoring.MonitoredRequest:
    """A message as a worker has it, with what another program wants to have shown."""
    app.loader.import_default_modules()
    envelope = malformed.envelope(Task.CRAWL_START.value, *args, queue=Queue.CRAWL.value)
    envelope["body"] = malformed.body_of(*args, **kwargs)
    with Connection("memory://") as connection:
        message = Message(envelope, channel=connection.channel())
        made: Any = monitoring.MonitoredRequest
        found: monitoring.MonitoredRequest = made(message, app=app, task=app.tasks[Task.CRAWL_START.value])
    return found


def test_a_request_shows_no_more_than_ids_whatever_its_sender_says() -> None:
    found: Any = request(42, LINKS, password=SECRET)
    assert (found.argsrepr, found.kwargsrepr) == ("(42, ...)", "{'...': ...}")
    assert found.args == [42, LINKS]
    for shown in (found.info(), found.info(safe=True), repr(found), {**found.request_dict, "args": (), "kwargs": {}}):
        assert SECRET not in str(shown)
    assert found.info()["args"] == [42, "..."]


def test_a_message_that_the_app_sends_shows_no_more_than_ids() -> None:
    made: Any = app.amqp
    message = made.as_task_v2("id", Task.CRAWL_START.value, (42, LINKS), {"a": SECRET}, create_sent_event=True)
    assert SECRET not in str(message.headers)
    assert SECRET not in str(message.sent_event)
    assert message.body[0] == (42, LINKS)


@pytest.mark.parametrize("is_list", [False, True])
def test_events_of_other_programs_are_masked_where_they_are_received(is_list: bool) -> None:  # noqa: FBT001 - a parameter
    event = {"type": "task-sent", "args": f"(42, '{SECRET}')", "kwargs": f"{{'a': '{SECRET}'}}", "uuid": "u", "n": 1}
    event["exception"] = f"ValueError('https://a.example/?sig={SECRET}')"
    envelope = malformed.envelope("a", queue="celeryev")
    envelope["body"] = malformed.encoded(json.dumps([event] if is_list else event).encode())
    raw = json.dumps(envelope).encode()
    masked = reading.without_arguments(raw, reading.read_broadcast(raw, is_command=False))
    body = json.loads(json.loads(masked)["body"])
    assert (body[0] if is_list else body) == {
        "type": "task-sent",
        "args": "(42, ...)",
        "kwargs": "{...}",
        "uuid": "u",
        "n": 1,
        "exception": "ValueError('https://a.example/?****')",
    }
    assert SECRET not in base64.b64encode(masked).decode() + masked.decode()
    harmless = json.dumps(envelope | {"body": malformed.encoded(b'{"type": "worker-heartbeat"}')}).encode()
    assert reading.without_arguments(harmless, reading.read_broadcast(harmless, is_command=False)) == harmless
