"""Jobs of every kind whose chunks do the same every time, and what can be seen of them afterwards."""

from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import factories
import ledger
from chaos import invariants
from doubles import query
from factories import make_facts, make_image
from toy.kind import make_toy, toy_kind

from pixcrawler_worker.crawl.kind import CRAWL
from pixcrawler_worker.crawl.progress import CrawlProgress, CrawlWork
from pixcrawler_worker.db import images
from pixcrawler_worker.db.ledger.tables import ChunkMessage, JobRef
from pixcrawler_worker.db.models import CrawlJob, ExportJob, Project, ValidationJob
from pixcrawler_worker.domain.storage_keys import url_hash
from pixcrawler_worker.export.kind import EXPORT
from pixcrawler_worker.export.payloads import ArchiveResult, ArchiveTask, ExportResult, Publication
from pixcrawler_worker.export.summary import Summary
from pixcrawler_worker.export.worker import ExportChunkResult, ExportWork
from pixcrawler_worker.jobs import executor, sweeper
from pixcrawler_worker.jobs.kind import AnyJobKind
from pixcrawler_worker.jobs.limits import JobLimits
from pixcrawler_worker.runtime import Runtime
from pixcrawler_worker.validate.kind import VALIDATION

URLS = [f"https://example.org/{number}.jpg" for number in range(6)]
#: Times after which the jobs of a test must have ended.
_ENOUGH = 40

Work = Callable[[Runtime, Any, JobLimits], Coroutine[Any, Any, Any]]


async def crawl_work(_runtime: Runtime, work: CrawlWork, _limits: JobLimits) -> CrawlProgress:
    """Store every image of the page, without downloading it."""
    found = {
        at: make_image(url.rpartition("/")[2].removesuffix(".jpg"), url=url, url_hash=url_hash(url))
        for at, url in enumerate(work.urls)
    }
    return CrawlProgress(
        quota=work.quota,
        images=found,
        processed={image.url_hash: at for at, image in found.items()},
        downloaded=set(found),
    )


async def export_work(_runtime: Runtime, work: ExportWork, _limits: JobLimits) -> ExportChunkResult:
    """Write and publish nothing, and say what would have been."""
    if isinstance(work.task, ArchiveTask):
        summary = Summary(images=work.task.last - work.task.first + 1, image_bytes=100)
        return ArchiveResult(name=work.task.name, size=100, sha256="0" * 64, table=None, summary=summary)
    result = ExportResult(
        name="dataset.zip", files=("dataset.zip",), parts=(), file_size=300, summary=Summary(images=6)
    )
    return Publication(url="memory:///dataset.zip", url_ttl_s=3600, result=result)


#: The kinds, the work of whose chunks takes no time: validations read what is recorded.
KINDS: dict[str, AnyJobKind] = {
    "crawl": replace(CRAWL, work=crawl_work),
    "validation": VALIDATION,
    "export": replace(EXPORT, work=export_work),
    "toy": toy_kind(),
}


def raising(kind: AnyJobKind, error: Exception) -> AnyJobKind:
    """Return the kind with chunks whose work raises an error."""

    async def work(_runtime: Runtime, _work: object, _limits: JobLimits) -> None:
        raise error

    return replace(kind, work=work)


@dataclass(slots=True)
class World:
    """The database of a test, with jobs of one kind.

    Attributes:
        runtime: whose connections never break.
        name: of the kind.
        kind: what the chunks of its jobs do.
    """

    runtime: Runtime
    name: str
    kind: AnyJobKind

    @property
    def table(self) -> str:
        """Name of the table of jobs."""
        return f"{self.name}_jobs"

    @property
    def options(self) -> object:
        """Options of a start message."""
        return {"urls": URLS, "chunk_size": 2} if self.name == "crawl" else None

    def clear(self) -> None:
        """Delete all jobs."""
        self.execute("DELETE FROM profiles")
        self.execute("DELETE FROM activity_logs")

    def pending(self) -> JobRef:
        """Insert a job that has not been started."""
        sessions = self.runtime.sessions
        if self.name == "toy":
            return make_toy(sessions, numbers=3, rounds=2)
        if self.name == "crawl":
            return self.kind.table.ref(factories.make_job(sessions, max_images=50))
        crawl_job_id = factories.make_job(sessions, status="completed", progress=100, max_images=50)
        found = [make_image(str(number), facts=make_facts(str(number), width=400 + number)) for number in range(5)]
        found.append(make_image("small", facts=make_facts("small", width=8, height=8)))
        with sessions.begin() as session:
            images.insert_new(session, crawl_job_id, found)
            crawl_job = session.get_one(CrawlJob, crawl_job_id)
            crawl_job.total_images = crawl_job.downloaded_images = crawl_job.valid_images = 6
            job: ValidationJob | ExportJob
            if self.name == "validation":
                job = ValidationJob(crawl_job_id=crawl_job_id, name="check", validation_rules={"level": "basic"})
            else:
                owner = session.get_one(Project, crawl_job.project_id).user_id
                options = {"archive": {"part_max_images": 2}}
                job = ExportJob(crawl_job_id=crawl_job_id, user_id=owner, name="dataset", export_options=options)
            session.add(job)
        return self.kind.table.ref(job.id)

    def run(self, messages: Iterable[ChunkMessage], kind: AnyJobKind | None = None) -> None:
        """Run the chunks of messages, and of those that follow from them."""
        waiting = deque(messages)
        while waiting:
            waiting.extend(executor.run(self.runtime, kind or self.kind, waiting.popleft().chunk_id))

    def end(self) -> None:
        """Let time pass and sweep, until every job has ended and no sweep has anything to do."""
        for _ in range(_ENOUGH):
            self._let_time_pass()
            swept = sweeper.sweep(self.runtime, [self.kind])
            self.run(swept.messages)
            if swept.idle and not self._open():
                return
        raise AssertionError(f"a job does not end: {self.seen()}")

    def seen(self) -> list[Any]:
        """Return what can be seen of all jobs and of what they have brought."""
        key = f"{self.name}_job_id"
        left_out = {"id", "project_id", "crawl_job_id", "user_id", "task_ids"}
        rows = query(self.runtime, f"SELECT to_jsonb(job) FROM {self.table} AS job ORDER BY id")
        jobs = [
            {
                name: value is not None if name.endswith("_at") else value
                for name, value in row.items()
                if name not in left_out
            }
            for (row,) in rows
        ]
        chunks = query(
            self.runtime,
            f"SELECT dense_rank() OVER (ORDER BY {key}), seq, generation, state, result, error, fence IS NULL"
            f" FROM pixcrawler.chunks ORDER BY {key}, seq",
        )
        return [
            jobs,
            chunks,
            query(self.runtime, "SELECT original_url FROM images ORDER BY 1"),
            query(
                self.runtime, "SELECT filename, valid FROM pixcrawler.verdicts JOIN images ON id = image_id ORDER BY 1"
            ),
            query(self.runtime, "SELECT valid_images, status FROM crawl_jobs ORDER BY id"),
            query(self.runtime, "SELECT action, count(*) FROM activity_logs GROUP BY action ORDER BY 1"),
        ]

    def state(self) -> list[Any]:
        """Return what can be seen, and all else that decides what becomes of the jobs."""
        return [
            self.seen(),
            query(
                self.runtime,
                "SELECT state, attempt, crash_count, dispatch_count, lease_until IS NULL, dispatched_at IS NULL,"
                " available_at > clock_timestamp(), count(*) FROM pixcrawler.chunks GROUP BY 1, 2, 3, 4, 5, 6, 7"
                " ORDER BY 1, 2, 3, 4, 5, 6, 7",
            ),
            query(
                self.runtime,
                # In the order of the jobs: an update that was tried again puts a row elsewhere.
                "SELECT (SELECT array_agg(to_jsonb(plan) - 'crawl_job_id' - 'requested_at' ORDER BY crawl_job_id)"
                " FROM pixcrawler.crawl_plans AS plan),"
                " (SELECT count(*) FROM pixcrawler.validation_plans), (SELECT count(*) FROM pixcrawler.export_plans),"
                " (SELECT count(*) FROM pixcrawler.export_items), (SELECT count(*) FROM pixcrawler.image_facts)",
            ),
        ]

    def check(self) -> None:
        """Assert what must hold of every job at every committed snapshot."""
        with self.runtime.sessions.begin() as session:
            found = session.connection().exec_driver_sql(invariants.FINAL, {"chunks": []})
            snapshot = found.mappings().one()
        broken = [
            violation
            for kind in ("crawl", "validation", "export")
            for row in snapshot[kind]
            # The crawl job that another one is about has no chunks.
            if kind == self.name
            for violation in invariants.violations(kind, None, row)
        ]
        assert broken == []
        if self.name == "crawl":
            ledger.check(self.runtime.sessions, *(self.kind.table.ref(row["id"]) for row in snapshot["crawl"]))
        elif self.name == "toy":
            wrong = query(
                self.runtime,
                "SELECT job.id, job.sum, found.sum FROM toy_jobs AS job CROSS JOIN LATERAL ("
                " SELECT coalesce(sum((result->>'added')::int), 0) AS sum FROM pixcrawler.chunks"
                " WHERE toy_job_id = job.id) AS found WHERE job.sum <> found.sum",
            )
            assert wrong == []

    def execute(self, statement: str, **values: Any) -> None:
        """Execute a statement in a transaction of its own."""
        ledger.execute(self.runtime.sessions, statement, **values)

    def chunk_ids(self, ref: JobRef) -> Sequence[int]:
        """Return the ids of a job's chunks, in their order."""
        rows = query(
            self.runtime, f"SELECT id FROM pixcrawler.chunks WHERE {self.name}_job_id = :id ORDER BY seq", id=ref.id
        )
        return [row[0] for row in rows]

    def _let_time_pass(self) -> None:
        self.execute(
            "UPDATE pixcrawler.chunks SET lease_until = clock_timestamp() - interval '1 s' WHERE state = 'running'"
        )
        self.execute(
            "UPDATE pixcrawler.chunks SET available_at = clock_timestamp(),"
            " dispatched_at = clock_timestamp() - interval '1 day' WHERE state = 'queued'"
        )

    def _open(self) -> bool:
        return bool(query(self.runtime, f"SELECT 1 FROM {self.table} WHERE status IN ('pending', 'running')"))
