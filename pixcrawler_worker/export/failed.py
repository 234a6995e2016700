"""`failed.jsonl`: the URLs of a crawl job that did not become images, as `pixcrawler jobs failures` lists them."""

import asyncio

from pixcrawler_worker.db.session import Sessions
from pixcrawler_worker.export import failure_rows
from pixcrawler_worker.exporters.spool import Spool
from pixcrawler_worker.runtime import Runtime

NAME = "failed.jsonl"


async def write(runtime: Runtime, key: str, crawl_job_id: int) -> bool:
    """Write the file of a crawl job into storage; return whether there is one, because something failed.

    Args:
        runtime: connects to database and storage.
        key: of the file.
        crawl_job_id: the crawl job.
    """
    spool = await asyncio.to_thread(_spool, runtime.sessions, crawl_job_id)
    if not spool.size:
        return False
    async with runtime.storage.writing(key) as sink:
        for block in spool.blocks():
            await sink.write([block])
    return True


def _spool(sessions: Sessions, crawl_job_id: int) -> Spool:
    spool = Spool()
    names = failure_rows.columns(sessions, crawl_job_id)
    for failure in failure_rows.read(sessions, crawl_job_id):
        spool.write(f"{failure_rows.line(failure, names)}\n".encode())
    return spool
