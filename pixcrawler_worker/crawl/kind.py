"""Crawl jobs, as the job core sees them."""

from pixcrawler_worker.crawl import cleanup, planner, retries, worker
from pixcrawler_worker.crawl.display import CRAWL_DISPLAY
from pixcrawler_worker.db import crawls
from pixcrawler_worker.db.crawls import CRAWL_JOBS
from pixcrawler_worker.domain.messages import Task
from pixcrawler_worker.jobs.kind import JobKind

CRAWL = JobKind(
    table=CRAWL_JOBS,
    display=CRAWL_DISPLAY,
    start_task=Task.CRAWL_START,
    cancel_task=Task.CRAWL_CANCEL,
    retry_task=Task.CRAWL_RETRY,
    record_request=planner.record_request,
    differing=planner.differing,
    overtaken=planner.overtaken,
    not_again=retries.not_again,
    plan=planner.plan,
    prepare=worker.prepare,
    work=worker.work,
    write=worker.write,
    conclude=planner.conclude,
    has_more=crawls.has_retriable,
    reopened=crawls.reopened,
    recount=crawls.recount,
    marked=crawls.marked,
    clean_up=cleanup.clean_up,
    overlaps=True,
)
