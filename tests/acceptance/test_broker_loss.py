"""A broker that lost its messages costs a job seconds, however often they were sent before."""

import redis
from acceptance_stack import Stack, send, url_list

from pixcrawler_worker.domain.messages import Task


def test_messages_that_a_broker_loses_are_sent_again_soon(stack: Stack, slow_host: str) -> None:
    listed, _ = url_list(slow_host, good=120, broken=0)
    job_id = stack.make_job(max_images=len(listed))
    with (
        redis.Redis.from_url(stack.redis_url) as server,
        stack.worker(PIXCRAWLER_LEASE_SECONDS="12", PIXCRAWLER_FETCH_CONCURRENCY="4"),
    ):
        send(stack, Task.CRAWL_START, job_id, {"urls": listed, "chunk_size": 10})
        stack.wait(job_id, until=lambda row: row["completed_chunks"] > 0)
        # The next message of these would be sent after 16 leases, 192 s.
        stack.query("UPDATE pixcrawler.chunks SET dispatch_count = 9 WHERE state = 'queued' RETURNING 1")
        server.flushdb()
        stack.wait(job_id, seconds=90)
    assert stack.job(job_id)["status"] == "completed"
    assert "Traceback" not in stack.log()
