"""The jobs of a run: enqueued continuously, followed to their end, and compared with an undisturbed run."""

import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar

import psycopg
from celery import Celery
from chaos import recipes
from chaos.events import Events
from chaos.recipes import RECIPES, SET_APART, CrawlResult, ExportResult, Recipe, Result, ValidationResult
from chaos.services import Broker, Database, WebServers
from kombu.exceptions import OperationalError
from psycopg.types.json import Jsonb

from pixcrawler_worker.domain.messages import QUEUES, Task

T = TypeVar("T")

#: Job groups at a time: those that must end as without faults, and those set apart.
_ORDINARY, _APART = 8, 5
#: Seconds in which something must happen to a job that is due, and in which it must end.
STILL, BOUND = 150.0, 600.0
#: Share of the jobs that are requested in the transaction that inserts them.
_REQUESTED = 0.5
#: Seconds after which an API sends a start again whose job is still pending.
_RESEND = 10.0
#: The order in which the jobs of a group run, and their tables.
STAGES = ("crawl", "validation", "export")
_STARTS = {"crawl": Task.CRAWL_START, "validation": Task.VALIDATION_START, "export": Task.EXPORT_START}
_ENDED = {"completed", "failed", "cancelled"}


@dataclass(eq=False)
class Group:
    """A crawl, and the validation and the export of what it brought.

    Attributes:
        recipe: what they ask for.
        apart: whether a fault may change how they end.
        owner, project: whom they belong to.
        stage: the job that runs.
        jobs: ids of the jobs by stage.
        since: when the job of the stage was started.
        sent: when its start message was sent last.
        fate: what a fault did to it.
        ends: statuses in which the job of the stage may end; by default it completes.
        requested: whether the job of the stage was requested in the transaction that inserted it: its start message is
            sent once, and may get lost.
        restored: whether it must end as without faults although a fault has its fate.
        running: whether the job of the stage was planned when it was looked at last.
        done: whether it is over.
    """

    recipe: Recipe
    apart: bool
    owner: uuid.UUID
    project: int
    stage: str = "crawl"
    jobs: dict[str, int] = field(default_factory=dict)
    since: float = 0
    sent: float = 0
    fate: str = ""
    ends: frozenset[str] = frozenset({"completed"})
    restored: bool = False
    requested: bool = False
    running: bool = False
    done: bool = False

    @property
    def job(self) -> int:
        """The id of the job that runs."""
        return self.jobs[self.stage]


class Load:
    """Enqueues and follows jobs in a thread of its own.

    Args:
        database: of the run.
        broker: of the run.
        servers: the web servers.
        events: what happens.
        chance: decides what is enqueued.
    """

    def __init__(
        self, database: Database, broker: Broker, servers: WebServers, events: Events, chance: random.Random
    ) -> None:
        self._database, self._servers, self._events, self._random = database, servers, events, chance
        self.api = Celery("chaos", broker=broker.url)
        self.api.conf.update(
            broker_transport_options={"socket_timeout": 2, "socket_connect_timeout": 2},
            task_publish_retry=False,
            broker_connection_retry=False,
        )
        self._connection: psycopg.Connection | None = None
        self._lock, self._writing = threading.RLock(), threading.RLock()
        self._groups: list[Group] = []
        self._standing: list[tuple[Recipe, int]] = []
        self._turn = 0
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        #: What an undisturbed run brought, by recipe and stage.
        self.undisturbed: dict[tuple[str, str], Result] = {}
        #: How jobs ended, by stage and end.
        self.ends: Counter[tuple[str, str]] = Counter()
        self.compared: Counter[str] = Counter()
        self.differing: list[str] = []
        self.not_ended: list[str] = []
        #: Images whose files a fault removed.
        self.removed: set[str] = set()

    # The undisturbed run

    def run_undisturbed(self) -> None:
        """Run every recipe once without faults, and keep what it brings to compare with."""
        apart = tuple(recipe for recipe in SET_APART if not recipe.unsteady)
        for recipe in (*RECIPES, *apart):
            self._add(recipe, apart=False)
        deadline = time.monotonic() + BOUND
        while self._groups:
            self._follow()
            time.sleep(0.1)
            assert time.monotonic() < deadline, f"the undisturbed run does not end: {self._groups}"

    # The load

    def start(self) -> None:
        self._thread = threading.Thread(target=self._keep_enqueuing, name="load", daemon=True)
        self._thread.start()

    def drain(self) -> None:
        """Enqueue nothing more, and wait until every job has ended or is late."""
        self._stopping.set()
        if self._thread:
            self._thread.join()

    def running(self) -> int:
        """Return how many groups are under way."""
        return len(self._groups)

    def claim(self, stage: str, fate: str, *ends: str) -> Group | None:
        """Return a group that is set apart, runs a job of that stage and has no fate yet; it gets this one.

        Args:
            stage: of the job.
            fate: what will happen to it.
            ends: statuses in which the job may end, besides `completed`; "running" when the fault is to say later on.
        """
        with self._lock:
            found = [
                group
                for group in self._groups
                if group.running
                and group.apart
                and not group.recipe.unsteady
                and not group.fate
                and group.stage == stage
            ]
            if not found:
                return None
            group = self._random.choice(found)
            group.fate, group.ends = fate, frozenset({"completed", *ends})
            return group

    def settle(self, group: Group, *ends: str, restored: bool = False) -> None:
        """Say in which statuses a claimed group's job may end, or that it must end as without faults after all."""
        with self._lock:
            group.ends, group.restored, group.since = frozenset({"completed", *ends}), restored, time.monotonic()

    def running_crawl(self) -> Group | None:
        """Return a group that must end as without faults and whose crawl is planned and runs."""
        with self._lock:
            found = [group for group in self._groups if group.running and not group.apart and group.stage == "crawl"]
            return self._random.choice(found) if found else None

    def send(self, task: Task, *args: object) -> bool:
        """Send a message as an API does that has only Celery; return whether the broker accepted it."""
        try:
            self.api.send_task(task.value, args=args, queue=QUEUES[task].value, ignore_result=True)
        except (OperationalError, OSError, RuntimeError):
            return False
        return True

    def write(self, work: Callable[[psycopg.Connection], T]) -> T:
        """Do something in the database, as often as it takes."""
        while True:
            with suppress(psycopg.Error), self._writing:
                if self._connection is None or self._connection.closed:
                    self._connection = self._database.connect("chaos load")
                with self._connection.transaction():
                    return work(self._connection)
            time.sleep(0.2)

    def _keep_enqueuing(self) -> None:
        while not self._stopping.is_set() or self._groups:
            try:
                if not self._stopping.is_set():
                    self._fill()
                self._follow()
            except Exception as error:
                self._events.write("load failed", error=repr(error))
                raise
            time.sleep(0.1)

    def _fill(self) -> None:
        apart = sum(group.apart for group in self._groups)
        for _ in range(_ORDINARY - (len(self._groups) - apart)):
            self._turn += 1
            if self._turn % 3 == 0 and self._standing:
                self._add_again(*self._random.choice(self._standing))
            else:
                self._add(self._random.choice(RECIPES), apart=False)
        for _ in range(_APART - apart):
            self._add(self._random.choices(SET_APART, (3, 1))[0], apart=True)

    def _add(self, recipe: Recipe, *, apart: bool) -> None:
        def insert(connection: psycopg.Connection) -> Group:
            owner = uuid.uuid4()
            connection.execute("INSERT INTO profiles (id, email) VALUES (%s, %s)", (owner, f"{owner}@example.org"))
            project = _inserted(
                connection, "INSERT INTO projects (name, user_id) VALUES ('chaos', %s) RETURNING id", owner
            )
            return Group(recipe, apart, owner, project)

        group = self.write(insert)
        self._begin(group, "crawl")
        with self._lock:
            self._groups.append(group)

    def _add_again(self, recipe: Recipe, crawl: int) -> None:
        """Validate and export a crawl of the undisturbed run once more."""
        owner, project = self.write(
            lambda connection: connection.execute(
                "SELECT user_id, project_id FROM crawl_jobs JOIN projects ON projects.id = project_id"
                " WHERE crawl_jobs.id = %s",
                (crawl,),
            ).fetchone()
        ) or (uuid.uuid4(), 0)
        group = Group(recipe, apart=False, owner=owner, project=project, jobs={"crawl": crawl})
        self._begin(group, "validation")
        with self._lock:
            self._groups.append(group)

    def _begin(self, group: Group, stage: str) -> None:
        """Insert the row of a job as an API does, with what its start is to find when its message is lost."""
        recipe = group.recipe
        group.stage, group.since, group.running = stage, time.monotonic(), False
        group.ends, group.restored = frozenset({"completed"}), False
        group.requested = self._random.random() < _REQUESTED
        options = (Jsonb(recipe.crawl_options(self._servers)),) if stage == "crawl" else ()

        def insert_and_request(connection: psycopg.Connection) -> int:
            job = insert(connection)
            if group.requested:
                marks = ", ".join(["%s"] * (1 + len(options)))
                connection.execute(f"SELECT pixcrawler.request_{stage}({marks})".encode(), (job, *options))
            return job

        def insert(connection: psycopg.Connection) -> int:
            if stage == "crawl":
                keywords = [recipe.keyword or "things"]
                return _inserted(
                    connection,
                    "INSERT INTO crawl_jobs (project_id, name, keywords, max_images) VALUES (%s, %s, %s, %s)"
                    " RETURNING id",
                    *(group.project, recipe.name, Jsonb(keywords), recipe.limit),
                )
            crawl = group.jobs["crawl"]
            if stage == "validation":
                return _inserted(
                    connection,
                    "INSERT INTO validation_jobs (crawl_job_id, name, validation_rules) VALUES (%s, %s, %s)"
                    " RETURNING id",
                    *(crawl, recipe.name, Jsonb(recipe.rules)),
                )
            # The time at which an image was crawled is part of an archive, and all that differs between two runs.
            connection.execute(
                "UPDATE pixcrawler.image_facts SET crawled_at = '2026-01-01T00:00:00Z' WHERE crawl_job_id = %s",
                (crawl,),
            )
            return _inserted(
                connection,
                "INSERT INTO export_jobs (crawl_job_id, user_id, name, format, export_options)"
                " VALUES (%s, %s, %s, %s, %s) RETURNING id",
                *(crawl, group.owner, recipe.name, recipe.format, Jsonb(recipe.options)),
            )

        group.jobs[stage] = self.write(insert_and_request)
        self._start(group)

    def _start(self, group: Group) -> None:
        group.sent = time.monotonic()
        options = [group.recipe.crawl_options(self._servers)] if group.stage == "crawl" else []
        if not self.send(_STARTS[group.stage], group.job, *options):
            group.sent -= _RESEND - 0.5

    # Following them

    def _follow(self) -> None:
        with self._lock:
            following = list(self._groups)
        for stage in STAGES:
            groups = [group for group in following if group.stage == stage]
            ids, asked = [group.job for group in groups], time.monotonic()
            statuses = dict(self.write(lambda connection, stage=stage, ids=ids: _statuses(connection, stage, ids)))  # type: ignore[misc]
            for group in groups:
                if group.since < asked:  # otherwise a fault has restored its job meanwhile
                    self._look(group, statuses.get(group.job))
        with self._lock:
            self._groups = [group for group in self._groups if not group.done]

    def _look(self, group: Group, status: str | None) -> None:
        now = time.monotonic()
        group.running = status == "running"
        if status is None:
            self._end(group, "deleted" if group.fate else "lost")
        elif status in _ENDED:
            if group.fate and not group.restored and "running" in group.ends:
                return  # the fault is not done with it
            self._ended(group, status)
        elif status == "pending" and now - group.sent > _RESEND and not group.requested:
            self._start(group)
        elif now - group.since > STILL and self._is_late(group):
            self._end(group, f"still {status}")

    def _is_late(self, group: Group) -> bool:
        """Return whether nothing happens to the job although it could: a chunk that waits for its next attempt may."""
        stage = group.stage
        row = self.write(
            lambda connection: connection.execute(
                f"SELECT extract(epoch FROM clock_timestamp() - greatest(job.updated_at,"
                f" (SELECT max(available_at) FROM pixcrawler.chunks WHERE {stage}_job_id = job.id AND state = 'queued')"
                f"))::float FROM {stage}_jobs AS job WHERE id = %s".encode(),
                (group.job,),
            ).fetchone()
        )
        return row is not None and (row[0] > STILL or time.monotonic() - group.since > BOUND)

    def _ended(self, group: Group, status: str) -> None:
        if (not group.fate and status == "completed") or group.restored:
            self._compare(group)
        elif status not in group.ends:
            self._differ(group, [f"it ended as {status}: {self._reason(group)}"])
        self.ends[group.stage, group.fate or status] += 1
        place = STAGES.index(group.stage) + 1
        if status == "completed" and place < len(STAGES) and (not group.fate or group.restored):
            group.fate = ""
            self._begin(group, STAGES[place])
            return
        if not group.apart and group.stage == "export" and len(self._standing) < len(RECIPES) and not self._thread:
            self._standing.append((group.recipe, group.jobs["crawl"]))
        group.done = True

    def _end(self, group: Group, how: str) -> None:
        if how == "lost" or how.startswith("still"):
            self.not_ended.append(f"{group.stage} job {group.job} ({group.recipe.name}): {how}; {self._reason(group)}")
            self._events.write("violation", rule="every job ends by itself", what=self.not_ended[-1])
        self.ends[group.stage, how] += 1
        group.done = True

    def _compare(self, group: Group) -> None:
        read: dict[str, Callable[[psycopg.Connection, int], Result]] = {
            "crawl": recipes.crawl_result,
            "validation": recipes.validation_result,
            "export": recipes.export_result,
        }
        with suppress(LookupError):
            found = self.write(lambda connection: read[group.stage](connection, group.job))
            key = (group.recipe.name, group.stage)
            if group.recipe.unsteady:
                return
            if key not in self.undisturbed:
                assert not self._thread, f"there was no undisturbed {key}"
                assert _status(found) == "completed", found
                self.undisturbed[key] = found
                return
            self.compared[group.stage] += 1
            if differing := recipes.differences(self.undisturbed[key], found, exact=group.recipe.exact):
                self._differ(group, [*differing, self._reason(group)])

    def _differ(self, group: Group, what: Sequence[str]) -> None:
        fate = f", {group.fate}" if group.fate else ""
        self.differing.append(f"{group.stage} job {group.job} ({group.recipe.name}{fate}): {'; '.join(what)}")
        self._events.write("violation", rule="jobs end as without faults", what=self.differing[-1])

    def _reason(self, group: Group) -> str:
        """Return the states and errors of the chunks of a group's job."""
        key = f"{group.stage}_job_id"
        rows = self.write(
            lambda connection: connection.execute(
                f"SELECT state, count(*), max(attempt), max(crash_count), max(error), max(dispatch_count),"
                f" max(extract(epoch FROM clock_timestamp() - dispatched_at))::int"
                f" FROM pixcrawler.chunks WHERE {key} = %s GROUP BY state".encode(),
                (group.job,),
            ).fetchall()
        )
        return "chunks: " + ", ".join(
            f"{count} {state} (up to {attempt} attempts, {crashes} crashes, {sent} messages {ago} s ago; {error})"
            for state, count, attempt, crashes, error, sent, ago in rows
        )


def _status(result: CrawlResult | ValidationResult | ExportResult) -> str:
    return result.status


def _statuses(connection: psycopg.Connection, stage: str, ids: list[int]) -> list[tuple[int, str]]:
    return [
        (job, status)
        for job, status in connection.execute(
            f"SELECT id, status FROM {stage}_jobs WHERE id = ANY(%s)".encode(), (ids,)
        ).fetchall()
    ]


def _inserted(connection: psycopg.Connection, statement: str, *values: object) -> int:
    row = connection.execute(statement.encode(), values).fetchone()
    assert row is not None
    return int(row[0])
