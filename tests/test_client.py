import asyncio
import base64
import itertools
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import pytest
import redis
from kombu.exceptions import OperationalError
from opentelemetry import baggage, context, propagate, trace
from opentelemetry.sdk.trace import TracerProvider

from pixcrawler_worker import client
from pixcrawler_worker.embedded.services import Services
from pixcrawler_worker.errors import PermanentError

#: What must not be imported into an API that sends a few messages.
HEAVY = ("sqlalchemy", "psycopg", "alembic", "PIL", "numpy", "aiohttp", "httpx", "obstore", "pydantic", "structlog")


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in client.BROKER_VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def lists(services: Services, monkeypatch: pytest.MonkeyPatch) -> Iterator[redis.Redis]:
    """The broker's own database for this test, empty."""
    monkeypatch.setenv("PIXCRAWLER_BROKER_URL", services.broker_url.replace("virtual_host=0", "virtual_host=8"))
    with redis.Redis.from_url(services.redis_url.replace("db=0", "db=8"), decode_responses=True) as server:
        server.flushdb()
        yield server
        server.flushdb()


def messages(server: redis.Redis, queue: str) -> list[tuple[str, str, list[Any], dict[str, Any]]]:
    """Task, id and arguments of what waits in a queue, in the order in which it was sent."""
    found = []
    for raw in reversed(server.lrange(queue, 0, -1)):
        message = json.loads(raw)
        assert message["content-type"] == "application/json"
        args, kwargs, _ = json.loads(base64.b64decode(message["body"]))
        found.append((message["headers"]["task"], message["headers"]["id"], args, kwargs))
    return found


def test_starting_lands_in_the_queue_for_crawls(lists: redis.Redis) -> None:
    first = client.start_crawl(42)
    second = client.start_crawl(43, {"sources": ["urls"], "urls": ["https://a.example/ü.jpg"]})
    assert messages(lists, "crawl") == [
        ("pixcrawler.crawl.start", first, [42, {}], {}),
        ("pixcrawler.crawl.start", second, [43, {"sources": ["urls"], "urls": ["https://a.example/ü.jpg"]}], {}),
    ]
    assert lists.exists("maintenance") == 0


def test_retrying_lands_in_the_queue_for_crawls(lists: redis.Redis) -> None:
    assert messages(lists, "crawl") == []
    sent = client.retry_crawl(42)
    assert messages(lists, "crawl") == [("pixcrawler.crawl.retry", sent, [42], {})]


def test_cancelling_does_not_wait_behind_crawls(lists: redis.Redis) -> None:
    client.start_crawl(42)
    sent = client.cancel_crawl(42)
    assert messages(lists, "maintenance") == [("pixcrawler.crawl.cancel", sent, [42], {})]
    assert len(messages(lists, "crawl")) == 1


def test_a_message_from_a_program_that_uses_opentelemetry_has_its_trace_and_no_baggage(lists: redis.Redis) -> None:
    assert propagate.__name__ in sys.modules, "as such a program has imported it"
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("api")
    attached = context.attach(baggage.set_baggage("password", "hunter2"))
    with tracer.start_as_current_span("POST /jobs") as span:
        client.start_crawl(42)
        wanted = trace.format_trace_id(span.get_span_context().trace_id)
    context.detach(attached)
    client.start_crawl(43)
    carried = [json.loads(raw)["headers"].get("traceparent") for raw in reversed(lists.lrange("crawl", 0, -1))]
    assert carried[0].split("-")[1] == wanted
    assert carried[1] is None
    assert "hunter2" not in str(lists.lrange("crawl", 0, -1))


def test_nothing_but_the_messages_is_left_in_the_broker(lists: redis.Redis) -> None:
    client.start_crawl(42)
    client.cancel_crawl(42)
    assert {str(name) for name in lists.scan_iter() if not str(name).startswith("_kombu.")} == {"crawl", "maintenance"}


def test_the_broker_is_found_by_any_of_its_names(lists: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    right = os.environ["PIXCRAWLER_BROKER_URL"]
    for number, name in enumerate(client.BROKER_VARIABLES, 1):
        for other in client.BROKER_VARIABLES:
            monkeypatch.delenv(other, raising=False)
        monkeypatch.setenv(name, right)
        client.start_crawl(number)
    assert [args[0] for _, _, args, _ in messages(lists, "crawl")] == [1, 2, 3]
    # As in a Compose file with `${PIXCRAWLER_BROKER_URL:-}`.
    monkeypatch.setenv("PIXCRAWLER_BROKER_URL", "")
    client.start_crawl(4)
    assert len(messages(lists, "crawl")) == 4


@pytest.mark.parametrize("kind", ["validation", "export"])
def test_validations_and_exports_are_started_cancelled_and_retried(lists: redis.Redis, kind: str) -> None:
    sent = [getattr(client, f"{verb}_{kind}")(7) for verb in ("start", "retry", "cancel")]
    assert messages(lists, kind) == [
        (f"pixcrawler.{kind}.start", sent[0], [7], {}),
        (f"pixcrawler.{kind}.retry", sent[1], [7], {}),
    ]
    assert messages(lists, "maintenance") == [(f"pixcrawler.{kind}.cancel", sent[2], [7], {})]


@pytest.mark.parametrize(
    "send",
    [
        client.start_crawl,
        client.cancel_crawl,
        client.retry_crawl,
        client.cancel_validation,
        client.retry_validation,
        client.cancel_export,
        client.retry_export,
    ],
)
def test_without_a_broker_the_error_names_the_setting(send: Callable[[int], str]) -> None:
    with pytest.raises(PermanentError, match="no broker is configured: set PIXCRAWLER_BROKER_URL"):
        send(42)


@pytest.fixture
def hanging_port() -> Iterator[int]:
    """A server that takes connections and never responds, like a broker that is stopped."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


@pytest.mark.parametrize("kind", ["denies", "does not respond", "has no socket"])
def test_a_dead_broker_is_an_error_within_seconds(
    kind: str, hanging_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = {
        "denies": "redis://:hunter2@127.0.0.1:1/0",
        "does not respond": f"redis://:hunter2@127.0.0.1:{hanging_port}/0",
        "has no socket": "redis+socket:///nowhere/redis",
    }[kind]
    monkeypatch.setenv("PIXCRAWLER_BROKER_URL", url)
    begun = time.monotonic()
    with pytest.raises(OperationalError) as caught:
        client.start_crawl(42)
    assert time.monotonic() - begun < 9, "five seconds, and more on a busy machine"
    assert "hunter2" not in str(caught.value)


def test_invalid_options_are_rejected_before_anything_is_sent(lists: redis.Redis) -> None:
    with pytest.raises(PermanentError, match=r"^options\.min_widht: unknown option, did you mean 'min_width'\?$"):
        client.start_crawl(42, {"min_widht": 256})
    with pytest.raises(PermanentError, match=r"^options\.min_width: expected an integer of at least 1, got \"wide\"$"):
        client.start_crawl(42, {"min_width": "wide"})
    assert messages(lists, "crawl") == []


def test_checking_options_imports_no_database_driver() -> None:
    program = """
import sys
from pixcrawler_worker import client
try:
    client.start_crawl(42, {"min_widht": 256})
except Exception as error:
    print(type(error).__name__, *sys.modules, sep="\\n")
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    error, *modules = done.stdout.splitlines()
    assert error == "PermanentError"
    assert {name.partition(".")[0] for name in modules}.isdisjoint(set(HEAVY) - {"pydantic"})


def test_importing_it_brings_celery_and_nothing_heavier() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import sys, pixcrawler_worker.client; print(*sys.modules, sep='\\n')"],
        check=True,
        capture_output=True,
        text=True,
    )
    imported = {name.partition(".")[0] for name in done.stdout.splitlines()}
    assert "celery" in imported
    assert imported.isdisjoint(HEAVY)
    ours = {name for name in done.stdout.splitlines() if name.startswith("pixcrawler_worker.")}
    assert ours == {
        "pixcrawler_worker.client",
        "pixcrawler_worker.domain",
        "pixcrawler_worker.domain.messages",
        "pixcrawler_worker.errors",
    }


VERBS = [f"{verb}_{kind}" for kind in ("crawl", "validation", "export") for verb in ("start", "cancel", "retry")]


@pytest.mark.parametrize("verb", VERBS)
def test_the_twin_for_an_event_loop_sends_the_same_message(lists: redis.Redis, verb: str) -> None:
    options = {"licenses": ["cc0"], "min_width": 256}
    arguments = (7, options) if verb == "start_crawl" else (7,)
    sent = [getattr(client, verb)(*arguments), asyncio.run(getattr(client, f"a{verb}")(*arguments))]
    queue = "maintenance" if verb.startswith("cancel") else verb.partition("_")[2]
    first, second = messages(lists, queue)
    assert [first[1], second[1]] == sent
    assert (first[0], first[2:]) == (second[0], second[2:])
    assert getattr(client, f"a{verb}").__name__ == f"a{verb}"


#: Ids that no row can have, and how an error shows them.
NO_IDS: tuple[tuple[Any, str], ...] = (
    (None, "None"),
    (True, "True"),
    ("7", "'7'"),
    (b"7", "a value of the type bytes"),
    (7.0, "7.0"),
    (0, "0"),
    (-1, "-1"),
    (2**31, "2147483648"),
    (10**5000, "a number with very many digits"),
    ([7], "an array"),
    ({"id": 7}, "an object"),
    (object(), "a value of the type object"),
)


@pytest.mark.parametrize("verb", [*VERBS, *(f"a{verb}" for verb in VERBS)])
def test_an_id_that_no_row_can_have_is_rejected_before_anything_is_sent(
    verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A broker that nothing listens to: whatever was sent would be another error.
    monkeypatch.setenv("PIXCRAWLER_BROKER_URL", "redis://127.0.0.1:1/0")
    call = getattr(client, verb)
    for job_id, shown in NO_IDS:
        with pytest.raises(PermanentError) as caught:
            asyncio.run(call(job_id)) if verb.startswith("a") else call(job_id)
        assert str(caught.value) == f"job_id: expected an integer from 1 to 2147483647, got {shown}"


def cyclic() -> dict[str, Any]:
    options: dict[str, Any] = {}
    options["urls"] = [options]
    return options


def deep(levels: int) -> Any:
    value: Any = "cc0"
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "options: expected an object, got an array"),
        ("", "options: expected an object, got ''"),
        (0, "options: expected an object, got 0"),
        (False, "options: expected an object, got False"),
        ([("min_width", 3)], "options: expected an object, got an array"),
        ({"licenses": {"cc0"}}, "options.licenses: it cannot be written as JSON: Object of type set"),
        ({"min_width": 3, "urls": [b"x"]}, "options.urls: it cannot be written as JSON: Object of type bytes"),
        ({"min_width": float("nan")}, "options.min_width: it cannot be written as JSON: Out of range float"),
        ({"min_width": 10**5000}, "options.min_width: it cannot be written as JSON: Exceeds the limit"),
        (cyclic(), "options.urls: it cannot be written as JSON: Circular reference"),
        ({(1, 2): 3}, "options.(1, 2): it cannot be written as JSON: keys must be str"),
        ({1: 3}, "options.1: unknown option"),
        ({None: 3}, "options.null: unknown option"),
        ({"licenses": deep(50_000)}, "options: they are nested too deeply"),
        ({"licenses": deep(200)}, "options.licenses[0]: expected a string, got an array"),
        ({"urls": ["x" * 21 * 1024 * 1024]}, "options: they have 22020110 bytes as JSON, more than 20971520"),
        ({"urls": ["\u00fc" * 4 * 1024 * 1024]}, "options: they have 25165838 bytes as JSON, more than 20971520"),
    ],
    ids=itertools.count(),
)
def test_options_that_no_message_can_have_are_rejected_before_anything_is_sent(
    lists: redis.Redis, options: Any, message: str
) -> None:
    for call in (client.start_crawl, lambda *given: asyncio.run(client.astart_crawl(*given))):
        with pytest.raises(PermanentError) as caught:
            call(42, options)
        assert str(caught.value).startswith(message)
    assert messages(lists, "crawl") == []


def test_options_may_be_any_mapping_and_without_any_the_message_has_none(lists: redis.Redis) -> None:
    client.start_crawl(1, MappingProxyType({"licenses": ("cc0",)}))
    client.start_crawl(2, {})
    client.start_crawl(3, None)
    assert [args for _, _, args, _ in messages(lists, "crawl")] == [[1, {"licenses": ["cc0"]}], [2, {}], [3, {}]]


@pytest.mark.parametrize(
    "url",
    [
        "unix:///nowhere/redis?db=name",
        "redis://:hunter2/x@127.0.0.1:6379/0",
        "redis://:hunter2@127.0.0.1:port/0",
        "redis://:hunter2@127.0.0.1:1/name",
        "redis://:hunter2@127.0.0.1:99999/0",
        "amqp://user:hunter2@127.0.0.1:1",
        "nonsense:hunter2",
        "redis+socket://nowhere",
        "redis+socket:///nowhere?virtual_host=name",
        "sentinel://:hunter2@127.0.0.1:1/0",
        " redis://127.0.0.1:1/0",
    ],
)
def test_the_url_of_no_broker_is_an_error_that_names_its_variable(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", url)
    for call in (client.start_crawl, lambda job_id: asyncio.run(client.astart_crawl(job_id))):
        with pytest.raises(PermanentError, match=r"^REDIS_URL is invalid: expected for example redis://") as caught:
            call(42)
        assert "hunter2" not in str(caught.value)


@contextmanager
def changed(server: redis.Redis, **values: str) -> Iterator[None]:
    before = {name: str(server.config_get(name)[name]) for name in values}
    for name, value in values.items():
        server.config_set(name, value)
    try:
        yield
    finally:
        for name, former in before.items():
            server.config_set(name, former)


def test_a_broker_that_takes_no_message_is_an_error_of_the_broker(
    lists: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.start_crawl(1)
    with changed(lists, maxmemory="1"), pytest.raises(client.BrokerError, match="maxmemory"):
        client.start_crawl(2)
    monkeypatch.setenv("PIXCRAWLER_BROKER_URL", os.environ["PIXCRAWLER_BROKER_URL"].replace("=8", "=99999"))
    with pytest.raises(client.BrokerError, match="DB index is out of range"):
        client.start_crawl(3)
    assert [args[0] for _, _, args, _ in messages(lists, "crawl")] == [1]


def test_an_event_loop_goes_on_while_a_broker_hangs_and_many_calls_end_within_seconds(
    hanging_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIXCRAWLER_BROKER_URL", f"redis://:hunter2@127.0.0.1:{hanging_port}/0")

    async def scenario() -> tuple[list[Any], float]:
        calls = asyncio.gather(*(client.astart_crawl(number) for number in range(1, 61)), return_exceptions=True)
        longest, before = 0.0, time.monotonic()
        while not calls.done():
            await asyncio.sleep(0.01)
            longest, before = max(longest, time.monotonic() - before), time.monotonic()
        return await calls, longest

    begun = time.monotonic()
    found, longest = asyncio.run(scenario())
    assert time.monotonic() - begun < 12, "5.5 s, and the end of the threads that the loop waits for"
    assert {type(one) for one in found} == {OperationalError}
    assert not any("hunter2" in str(one) for one in found)
    assert longest < 0.5


def test_threads_and_loops_share_the_connections(lists: redis.Redis) -> None:
    async def many() -> None:
        await asyncio.gather(*(client.astart_crawl(number) for number in range(1, 101)))

    for _ in range(2):
        asyncio.run(many())
    ids = sorted(args[0] for _, _, args, _ in messages(lists, "crawl"))
    assert ids == sorted([*range(1, 101)] * 2)


@pytest.mark.parametrize(("kind", "option"), [("crawl", "licenses"), ("validation", "checks"), ("export", "layout")])
def test_an_api_reads_the_schema_of_options_and_checks_them(kind: client.OptionsKind, option: str) -> None:
    schema = client.options_schema(kind)
    json.dumps(schema)
    assert option in schema["properties"]
    client.check_options(kind, None)
    client.check_options(kind, {})
    with pytest.raises(PermanentError, match=r"\.colour: unknown option"):
        client.check_options(kind, {"colour": 1})
    with pytest.raises(PermanentError, match="nested too deeply"):
        client.check_options(kind, {option: deep(50_000)})


def test_an_unknown_kind_of_options_is_named() -> None:
    for call in (client.options_schema, lambda kind: client.check_options(kind, {})):
        with pytest.raises(PermanentError, match="kind: expected crawl, validation or export, got 'image'"):
            call("image")  # type: ignore[arg-type]  # a mistake of a caller
