"""The examples of docs/api-integration.md, run: FastAPI itself is not needed for what they show."""

import asyncio
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import documents
import factories
import ledger
import psycopg
import pytest
import redis
from calls import sent

from pixcrawler_worker.db.session import Sessions
from pixcrawler_worker.embedded.services import Services

PYTHON = [
    block.text
    for block in documents.blocks(documents.ROOT / "docs" / "api-integration.md")
    if block.language == "python"
]
OPTIONS = {"licenses": ["cc0"], "urls": ["https://example.org/1.jpg"]}


class HTTPError(Exception):
    """What `fastapi.HTTPException` is to a caller: a status and a text."""

    def __init__(self, status_code: int, detail: str) -> None:
        super().__init__(status_code, detail)


class Api:
    """What `fastapi.FastAPI` is to a module: decorators that keep functions as they are."""

    def __getattr__(self, method: str) -> Callable[..., Any]:
        del method
        return lambda *_, **__: lambda function: function


@pytest.fixture(autouse=True)
def fastapi(monkeypatch: pytest.MonkeyPatch) -> None:
    modules: dict[str, dict[str, Any]] = {
        "fastapi": {"FastAPI": Api, "HTTPException": HTTPError},
        "fastapi.responses": {"FileResponse": lambda path, filename: path.with_name(filename)},
    }
    for name, members in modules.items():
        module = types.ModuleType(name)
        module.__dict__.update(members)
        monkeypatch.setitem(sys.modules, name, module)


@pytest.fixture
def lists(services: Services, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[redis.Redis]:
    monkeypatch.setenv("PIXCRAWLER_DATABASE_URL", database_url)
    monkeypatch.setenv("PIXCRAWLER_BROKER_URL", services.broker_url.replace("virtual_host=0", "virtual_host=11"))
    with redis.Redis.from_url(services.redis_url.replace("db=0", "db=11"), decode_responses=True) as server:
        server.flushdb()
        yield server
        server.flushdb()


def example(number: int) -> dict[str, Any]:
    """Run an example as a module, and return its names."""
    names: dict[str, Any] = {}
    exec(compile(PYTHON[number], f"example {number}", "exec"), names)
    return names


def test_the_client_is_called_as_documented(lists: redis.Redis) -> None:
    example(0)
    assert sent(lists) == [("pixcrawler.crawl.start", [42, {"licenses": ["cc0"]}])] * 2


def test_the_api_enqueues_reports_cancels_and_retries(
    lists: redis.Redis, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    api, project = example(1), factories.make_project(sessions)
    body = {"name": "cats", "keywords": ["cat"], "options": OPTIONS}

    def call(name: str, *arguments: Any) -> Any:
        return asyncio.run(api[name](*arguments))

    with pytest.raises(HTTPError, match=r"422, .options.licences: unknown option, did you mean"):
        call("create", project, body | {"options": {"licences": ["cc0"]}})
    job_id = call("create", project, body)["id"]
    assert sent(lists) == [("pixcrawler.crawl.start", [job_id, {}])]
    options = ledger.scalar(sessions, "SELECT options FROM pixcrawler.crawl_plans WHERE crawl_job_id = :id", id=job_id)
    assert options == OPTIONS
    assert call("progress", job_id)["status"] == "pending"
    assert call("cancel", job_id) == {"id": job_id, "status": "cancelled"}
    for missing in ("cancel", "log"):
        with pytest.raises(HTTPError, match="404"):
            call(missing, job_id)
    with pytest.raises(HTTPError, match="404"):
        call("progress", 10**6)
    assert call("retry", job_id)["message"]
    with pytest.raises(HTTPError, match=r"422, .job_id: expected an integer"):
        call("retry", 0)
    monkeypatch.setenv("PIXCRAWLER_BROKER_URL", "redis://127.0.0.1:1/0")
    with pytest.raises(HTTPError, match="503"):
        call("retry", job_id)
    requested = call("create", project, body)["id"]
    assert ledger.scalar(sessions, "SELECT count(*) FROM pixcrawler.crawl_plans WHERE crawl_job_id = :id", id=requested)


def test_changes_of_status_are_heard(lists: redis.Redis, sessions: Sessions, database_url: str) -> None:
    del lists
    changes, job_id = example(2)["status_changes"], factories.make_job(sessions)

    async def first_change() -> dict[str, Any]:
        async with aclosing(changes()) as found:
            heard: asyncio.Future[dict[str, Any]] = asyncio.ensure_future(anext(found))
            while not heard.done():
                # Until the connection listens.
                await asyncio.sleep(0.05)
                with psycopg.connect(database_url) as connection:
                    connection.execute("UPDATE crawl_jobs SET status = 'pending'")
                    connection.execute("UPDATE crawl_jobs SET status = 'cancelled' WHERE id = %s", (job_id,))
            return await heard

    assert asyncio.run(asyncio.wait_for(first_change(), 30))["id"]


def test_links_to_local_files_expire_and_lead_nowhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOWNLOAD_SECRET", "secret")
    monkeypatch.setenv("PIXCRAWLER_DATA_DIR", str(tmp_path))
    file = tmp_path / "storage" / "exports" / "1" / "cats & dogs.zip"
    file.parent.mkdir(parents=True)
    file.touch()
    (tmp_path / "outside").touch()
    names = example(3)

    def follow(link: str, **changed: Any) -> Any:
        parts = urlsplit(link)
        given = {name: values[0] for name, values in parse_qs(parts.query).items()}
        key = unquote(parts.path).removeprefix("/files/")
        return names["download"](**{"key": key, **given, "expires": int(given["expires"])} | changed)

    link = names["link"](file.as_uri())
    assert follow(link) == file
    for changed in ({"key": "exports/2/x.zip"}, {"signature": "\u00fc"}, {"expires": 2**40}):
        with pytest.raises(HTTPError, match="403"):
            follow(link, **changed)
    with pytest.raises(HTTPError, match="403"):
        follow(names["link"](file.as_uri(), seconds=-1))
    with pytest.raises(ValueError, match="outside"):
        names["link"]((tmp_path / "outside").as_uri())
    outside = {"key": "../outside", "signature": names["signed"]("../outside", 2**40), "expires": 2**40}
    with pytest.raises(HTTPError, match="404"):
        follow(link, **outside)
    file.unlink()
    with pytest.raises(HTTPError, match="404"):
        follow(link)
