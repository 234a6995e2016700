"""From keywords to images with providers that repeat candidates, are down, or return garbage."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from acceptance_stack import Stack, send
from aiohttp import web
from fakes import hosts, providers
from fakes.providers import Catalog, Providers, Trouble, down

from pixcrawler_worker.domain.messages import Task

PANDA, LEOPARD = "red panda", "snow leopard"


def from_request(number: int) -> Trouble:
    """Down from the n-th request on."""
    return lambda n, _request: down() if n >= number else None


def page(text: str, kind: str = "text/html", status: int = 200) -> Trouble:
    return lambda _n, _request: web.Response(status=status, text=text, content_type=kind)


GARBAGE: dict[str, Trouble] = {
    "html": page(hosts.HTML.decode()),
    "half a JSON": page('{"query": {"pages": [{"pageid"', "application/json"),
    "an error with status 200": page(
        '{"error": {"code": "badvalue", "info": "Unrecognized value"}}', "application/json"
    ),
}


def run(stack: Stack, server: Providers, *, max_images: int, **options: object) -> int:
    """Run a job over both keywords to its end, without waiting for delayed chunks."""
    job_id = stack.make_job(keywords=[PANDA, LEOPARD], max_images=max_images)
    with (
        stack.worker(PIXCRAWLER_COMMONS_URL=server.commons_url, PIXCRAWLER_OPENVERSE_URL=server.openverse_url),
        stack.watched(job_id),
    ):
        send(stack, Task.CRAWL_START, job_id, options)
        stack.wait(job_id, until=skipping_delays(stack))
    return job_id


def skipping_delays(stack: Stack) -> Callable[[dict[str, Any]], bool]:
    def ended(row: dict[str, Any]) -> bool:
        stack.query(
            "UPDATE pixcrawler.chunks SET available_at = now(), dispatched_at = NULL"
            " WHERE state = 'queued' AND available_at > now() RETURNING id"
        )
        return row["status"] not in {"pending", "running"}

    return ended


def labels(stack: Stack, job_id: int) -> dict[str, int]:
    return dict(
        stack.query(
            "SELECT f.label, count(*) FROM images i JOIN pixcrawler.image_facts f ON f.image_id = i.id"
            " WHERE i.crawl_job_id = %s GROUP BY f.label",
            job_id,
        )
    )


def details_of(stack: Stack, job_id: int) -> dict[str, Any]:
    ((details,),) = stack.query(
        "SELECT metadata_ FROM activity_logs WHERE resource_id = %s AND action IN"
        " ('crawl_job.completed', 'crawl_job.failed')",
        str(job_id),
    )
    found: dict[str, Any] = details
    return found


def test_both_keywords_get_half_of_the_images_with_credit_despite_repeated_and_dead_candidates(stack: Stack) -> None:
    with providers.serving(Catalog.of(PANDA, LEOPARD, count=150, repeated=0.3, dead=0.2)) as server:
        job_id = run(stack, server, max_images=200)
    assert stack.job(job_id)["status"] == "completed"
    assert labels(stack, job_id) == {PANDA: 100, LEOPARD: 100}
    uncredited = (
        "SELECT count(*) FROM images i LEFT JOIN pixcrawler.image_facts f ON f.image_id = i.id"
        " WHERE i.crawl_job_id = %s"
        " AND (f.license IS NULL OR f.author IS NULL OR f.attribution IS NULL OR f.page_url IS NULL)"
    )
    assert stack.query(uncredited, job_id) == [(0,)]
    sources = "SELECT DISTINCT f.source FROM images i JOIN pixcrawler.image_facts f ON f.image_id = i.id"
    assert set(stack.query(f"{sources} WHERE i.crawl_job_id = %s", job_id)) == {("commons",), ("openverse",)}


def test_when_one_source_is_down_the_other_one_provides_all_images(stack: Stack) -> None:
    with providers.serving(Catalog.of(PANDA, LEOPARD, count=100), commons=down) as server:
        job_id = run(stack, server, max_images=80)
    job = stack.job(job_id)
    assert (job["status"], job["valid_images"]) == ("completed", 80)
    assert labels(stack, job_id) == {PANDA: 40, LEOPARD: 40}
    assert any("commons" in error and "503" in error for error in details_of(stack, job_id)["errors"])


@pytest.mark.slow
def test_with_one_source_down_and_one_failing_midway_the_job_ends_with_the_images_found(stack: Stack) -> None:
    trouble = {"commons": down, "openverse": from_request(4)}
    with providers.serving(Catalog.of(PANDA, LEOPARD, count=200), **trouble) as server:
        job_id = run(stack, server, max_images=200)
    job = stack.job(job_id)
    # Four result pages of twenty were returned before the failure, each with a quota of twenty images or ten.
    assert job["status"] == "completed"
    assert job["valid_images"] in {60, 70, 80}
    details = details_of(stack, job_id)
    assert (details["images"], details["wanted"]) == (job["valid_images"], 200)
    assert {name for name in ("commons", "openverse") for error in details["errors"] if error.startswith(name)} == {
        "commons",
        "openverse",
    }


@pytest.mark.parametrize(
    "garbage",
    ["html", *(pytest.param(name, marks=pytest.mark.slow) for name in GARBAGE if name != "html")],
)
def test_a_provider_that_returns_garbage_fails_its_chunks_and_names_the_setting_to_check(
    stack: Stack, garbage: str
) -> None:
    with providers.serving(Catalog.of(PANDA, LEOPARD, count=60), commons=GARBAGE[garbage]) as server:
        job_id = run(stack, server, max_images=40)
    assert (stack.job(job_id)["status"], labels(stack, job_id)) == ("completed", {PANDA: 20, LEOPARD: 20})
    (error,) = details_of(stack, job_id)["errors"]
    assert "PIXCRAWLER_COMMONS_URL" in error or "badvalue" in error


@pytest.mark.slow
def test_a_provider_that_repeats_one_page_forever_gets_a_limited_number_of_requests(stack: Stack) -> None:
    catalog = Catalog.of(PANDA, LEOPARD, count=60)

    def stuck(_n: int, request: web.Request) -> web.Response:
        first = {"title": f"File:{PANDA}.jpg", "pageid": 1, "index": 1}
        url = f"http://{request.host}/wikipedia/commons/0.jpg"
        info = {"url": url, "mediatype": "BITMAP", "width": 96, "height": 64}
        answer = {
            "continue": {"gsroffset": 50, "continue": "gsroffset||"},
            "query": {"pages": [first | {"imageinfo": [info]}]},
        }
        return web.Response(text=json.dumps(answer), content_type="application/json")

    with providers.serving(catalog, commons=stuck) as server:
        job_id = run(stack, server, max_images=100, sources=["commons"])
        assert len(server.requests["commons"]) < 150
    job = stack.job(job_id)
    assert (job["status"], job["valid_images"]) == ("completed", 1)
    assert details_of(stack, job_id)["reasons"]["duplicate_url"] > 0
