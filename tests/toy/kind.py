"""A kind of job that the package knows nothing of: a table of its own, and the functions that a kind consists of.

It shows what a new kind needs, and that the core serves it without a change: nothing here touches the package.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from factories import make_project
from sqlalchemy import Integer, Text, func, join, literal_column, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from pixcrawler_worker.db.job_views import JobView
from pixcrawler_worker.db.ledger import chunk_results
from pixcrawler_worker.db.ledger.chunks import Claim
from pixcrawler_worker.db.ledger.tables import JobRef, JobTable
from pixcrawler_worker.db.models import JobRow, Profile, Project
from pixcrawler_worker.db.session import Sessions
from pixcrawler_worker.domain.lifecycle import Counters, JobStatus
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.jobs.display import JobDisplay
from pixcrawler_worker.jobs.kind import Chunks, Conclusion, JobKind, Report, Rest
from pixcrawler_worker.jobs.limits import JobLimits
from pixcrawler_worker.runtime import Runtime

#: What a migration of the kind would do.
SCHEMA = """
CREATE TABLE toy_jobs (
    id serial PRIMARY KEY, project_id int NOT NULL REFERENCES projects ON DELETE CASCADE, name text NOT NULL,
    numbers int NOT NULL, rounds int NOT NULL DEFAULT 1, sum int NOT NULL DEFAULT 0, max_sum int NOT NULL,
    status text NOT NULL DEFAULT 'pending', progress int NOT NULL DEFAULT 0, error_message text,
    requested_at timestamptz NOT NULL DEFAULT clock_timestamp(), started_at timestamptz, completed_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz NOT NULL DEFAULT now()
);
ALTER TABLE pixcrawler.chunks DROP CONSTRAINT ck_chunks_one_job;
ALTER TABLE pixcrawler.chunks ADD COLUMN toy_job_id int REFERENCES toy_jobs ON DELETE CASCADE;
ALTER TABLE pixcrawler.chunks ADD CONSTRAINT ck_chunks_one_job
    CHECK (num_nonnulls(crawl_job_id, validation_job_id, export_job_id, toy_job_id) = 1);
"""


class ToyBase(DeclarativeBase):
    """The tables of the kind, apart from those of the package."""


class ToyJob(JobRow, ToyBase):
    """Adds up numbers, one per chunk."""

    __tablename__ = "toy_jobs"

    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int]
    name: Mapped[str]
    numbers: Mapped[int]
    rounds: Mapped[int]
    sum: Mapped[int]
    max_sum: Mapped[int]
    status: Mapped[str] = mapped_column(Text)
    progress: Mapped[int]
    error_message: Mapped[str | None]
    requested_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    completed_at: Mapped[datetime | None]


TOY_JOBS = JobTable(
    name="toy",
    model=ToyJob,
    chunk_key=literal_column("pixcrawler.chunks.toy_job_id", Integer),
    owners=join(Profile, Project).join(ToyJob, ToyJob.project_id == Project.id),
    plan_key=ToyJob.id,
    requested_at=ToyJob.requested_at,
    chunk_task="pixcrawler.toy.chunk",
    queue="toy",
    limits={"sum": "max_sum"},
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToyView(JobView):
    """A job of the kind, as the command line shows it."""

    table = TOY_JOBS
    noun = "toy"

    numbers: int
    sum: int

    @property
    def count(self) -> tuple[int, int, str]:
        """The sum so far."""
        return self.sum, self.sum, "in all"


DISPLAY = JobDisplay(
    view=ToyView,
    listed_by="psql",
    details=lambda session, job: {"results": chunk_results.results(session, TOY_JOBS.ref(job.id))},
    rows=lambda job, details: [("sum", [str(job.sum)]), ("results", [str(one) for one in details["results"]])],
    outcome=lambda _, job: [f"sum: {job.sum}"],
)


async def the_number(number: int) -> int:
    return number


def toy_kind(work: Callable[[int], Awaitable[int]] = the_number) -> JobKind[int, int]:
    """The kind, with what its chunks do: they get their number and return what is added."""

    async def do(runtime: Runtime, number: int, limits: JobLimits) -> int:
        del runtime, limits
        return await work(number)

    return JobKind(
        table=TOY_JOBS,
        display=DISPLAY,
        start_task="pixcrawler.toy.start",
        plan=_plan,
        prepare=_prepare,
        work=do,
        write=_write,
        conclude=_conclude,
        recount=_recount,
    )


@dataclass(frozen=True, slots=True)
class Part:
    """What is left of a number, and what was added of it before."""

    number: int
    left: int
    added: int


def toy_in_parts(step: int = 1, *, delay: timedelta = timedelta(0)) -> JobKind[Part, int]:
    """The kind, with chunks that add at most `step` of their number in one attempt, and are put back for the rest."""

    def prepare(runtime: Runtime, session: Session, claim: Claim) -> Part:
        number = _prepare(runtime, session, claim)
        return Part(number, int(claim.payload.get("left", number)), int(claim.so_far.get("added", 0)))

    async def work(runtime: Runtime, part: Part, limits: JobLimits) -> int:
        del runtime, limits
        return min(part.left, step)

    def write(session: Session, part: Part, result: int) -> Report:
        del session
        left = part.left - result
        rest = Rest({"number": part.number, "left": left}, delay, progressed=result > 0) if left else None
        return Report({"number": part.number, "added": part.added + result}, {"sum": result}, rest)

    whole = toy_kind()
    return JobKind(
        table=whole.table,
        display=whole.display,
        start_task=whole.start_task,
        plan=whole.plan,
        prepare=prepare,
        work=work,
        write=write,
        conclude=whole.conclude,
        recount=whole.recount,
    )


def _plan(runtime: Runtime, session: Session, ref: JobRef) -> Chunks:
    del runtime
    job = session.get_one(ToyJob, ref.id)
    if job.numbers < 0:
        raise PermanentError(f"numbers must be 0 at least, not {job.numbers}")
    return Chunks([{"number": number} for number in range(1, job.numbers + 1)], {"numbers": job.numbers})


def _prepare(runtime: Runtime, session: Session, claim: Claim) -> int:
    del runtime, session
    if "number" not in claim.payload:
        raise PermanentError("the chunk has no number")
    return int(claim.payload["number"])


def _write(session: Session, number: int, result: int) -> Report:
    del session
    return Report({"number": number, "added": result}, {"sum": result})


def _conclude(runtime: Runtime, session: Session, ref: JobRef, counters: Counters) -> Chunks | Conclusion:
    del runtime
    job = session.get_one(ToyJob, ref.id)
    if not counters.total and job.numbers:
        return Conclusion.never_planned("pixcrawler.toy.start")
    if counters.total < job.numbers * job.rounds:
        return Chunks([{"number": number} for number in range(1, job.numbers + 1)])
    if counters.failed:
        return Conclusion.failure(next(iter(chunk_results.errors(session, ref))))
    return Conclusion(JobStatus.COMPLETED, details={"sum": job.sum})


def _recount(session: Session, ref: JobRef) -> Mapping[str, int]:
    return {"sum": sum(result["added"] for result in chunk_results.results(session, ref))}


def make_toy(sessions: Sessions, *, numbers: int = 3, **values: Any) -> JobRef:
    """A pending job of the kind, in a project of its own."""
    project_id = make_project(sessions)
    with sessions.begin() as session:
        job = {"project_id": project_id, "name": "toy", "numbers": numbers, "max_sum": 1000} | values
        columns, places = ", ".join(job), ", ".join(f":{name}" for name in job)
        job_id = session.scalar(text(f"INSERT INTO toy_jobs ({columns}) VALUES ({places}) RETURNING id"), job)
    assert isinstance(job_id, int)
    return TOY_JOBS.ref(job_id)


def toy(sessions: Sessions, ref: JobRef) -> ToyJob:
    """The job's row as it is now."""
    with sessions.begin() as session:
        return session.get_one(ToyJob, ref.id)


def open_chunks(sessions: Sessions, ref: JobRef) -> int:
    with sessions.begin() as session:
        return (
            session.scalar(
                select(func.count())
                .select_from(text("pixcrawler.chunks"))
                .where(text("toy_job_id = :id AND state IN ('queued', 'running')").bindparams(id=ref.id))
            )
            or 0
        )
