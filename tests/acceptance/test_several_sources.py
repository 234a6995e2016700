"""Three keywords over five providers, with real workers: exact counts, even classes, and a quota that runs out."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from acceptance_stack import Stack, send
from fakes.api import KEY, Api
from fakes.pexels import Pexels
from fakes.providers import Providers, Work
from several_sources import KEYWORDS, NAMES, serving, works

from pixcrawler_worker.domain.messages import Task

#: Keywords that one provider has alone.
RARE = ("otter", "lynx", "heron")


def settings(servers: Providers, apis: Mapping[str, Api]) -> dict[str, Any]:
    """The environment of workers that use the providers."""
    keyed = {f"PIXCRAWLER_{name.upper()}_API_KEY": KEY for name in apis}
    return servers.settings | keyed | {f"PIXCRAWLER_{name.upper()}_URL": api.url for name, api in apis.items()}


def ended(stack: Stack, job_id: int, times: int) -> Callable[[dict[str, Any]], bool]:
    """Whether a job has ended so often. No delayed chunk is waited for."""

    def reached(_row: dict[str, Any]) -> bool:
        stack.query(
            "UPDATE pixcrawler.chunks SET available_at = now(), dispatched_at = NULL"
            " WHERE state = 'queued' AND available_at > now() RETURNING id"
        )
        ((count,),) = stack.query(
            "SELECT count(*) FROM activity_logs WHERE resource_type = 'crawl_job' AND resource_id = %s"
            " AND action IN ('crawl_job.completed', 'crawl_job.failed')",
            str(job_id),
        )
        return int(count) >= times

    return reached


def images_by(stack: Stack, job_id: int, column: str) -> dict[str, int]:
    statement = f"SELECT {column}, count(*) FROM pixcrawler.image_facts WHERE crawl_job_id = %s GROUP BY 1"
    return dict(stack.query(statement, job_id))


def last_details(stack: Stack, job_id: int) -> dict[str, Any]:
    rows = stack.query(
        "SELECT metadata_ FROM activity_logs WHERE resource_id = %s AND action = 'crawl_job.completed'"
        " ORDER BY id DESC LIMIT 1",
        str(job_id),
    )
    found: dict[str, Any] = rows[0][0]
    return found


@pytest.mark.timeout(600)
def test_three_keywords_over_five_sources_are_even_and_a_quota_that_runs_out_is_resumed_the_next_day(
    stack: Stack,
) -> None:
    found = works(dict.fromkeys(NAMES, (14, 14, 14)))
    rare = {
        keyword: [Work(number, keyword, number) for number in range(10_000 + 100 * at, 10_030 + 100 * at)]
        for at, keyword in enumerate(RARE)
    }
    with serving({**found, "pexels": {**found["pexels"], **rare}}) as (servers, apis):
        pexels = apis["pexels"]
        assert isinstance(pexels, Pexels)
        even = stack.make_job(keywords=list(KEYWORDS), max_images=45)
        short = stack.make_job(keywords=list(RARE), max_images=90)
        with stack.worker(**settings(servers, apis)):
            with stack.watched(even):
                send(stack, Task.CRAWL_START, even, {"sources": list(NAMES), "chunk_size": 20})
                stack.wait(even, until=ended(stack, even, 1))
            require_even(stack, even)

            before = len(pexels.requests)
            pexels.remaining, pexels.resets_at = 5, int(time.time()) + 86_400
            with stack.watched(short):
                send(stack, Task.CRAWL_START, short, {"sources": ["pexels"], "chunk_size": 10})
                stack.wait(short, until=ended(stack, short, 1))
            assert (stack.job(short)["status"], stack.job(short)["valid_images"]) == ("completed", 50)
            (error,) = {error.partition(" until ")[0] for error in last_details(stack, short)["errors"]}
            assert "pexels has no requests left" in error
            asked = pages(pexels)[before:]
            assert len(asked) <= 7, "each of the two processes finds out once"

        # The next day, in other processes. Nothing else says so to them: what is left is the provider's to say.
        pexels.remaining, pexels.resets_at = 200, 0
        resumed = len(pexels.requests)
        with stack.worker(**settings(servers, apis)):
            send(stack, Task.CRAWL_RETRY, short)
            stack.wait(short, until=ended(stack, short, 2))
    job = stack.job(short)
    assert (job["status"], job["valid_images"], job["failed_chunks"]) == ("completed", 90, 0)
    assert images_by(stack, short, "label") == dict.fromkeys(RARE, 30)
    granted = asked[:5] + pages(pexels)[resumed:]
    assert len(granted) == len(set(granted)), "no page is requested twice"


def require_even(stack: Stack, job_id: int) -> None:
    """Fail unless a job has all its images in even classes, from all sources, with license and attribution."""
    job = stack.job(job_id)
    assert (job["status"], job["valid_images"]) == ("completed", 45)
    classes = images_by(stack, job_id, "label")
    assert set(classes) == set(KEYWORDS)
    assert max(classes.values()) <= 1.1 * min(classes.values())
    assert set(images_by(stack, job_id, "source")) == set(NAMES)
    credited = (
        "SELECT count(*), count(DISTINCT sha256), count(nullif(license, '')), count(nullif(attribution, ''))"
        " FROM images JOIN pixcrawler.image_facts ON image_id = id WHERE images.crawl_job_id = %s"
    )
    assert stack.query(credited, job_id) == [(45,) * 4]
    assert {"duplicate_bytes", "not_found"} <= last_details(stack, job_id)["reasons"].keys()


def pages(pexels: Pexels) -> list[tuple[str, str]]:
    """Return keyword and number of the result pages that were requested, in order."""
    return [(one.query["query"], one.query["page"]) for one in pexels.requests]
