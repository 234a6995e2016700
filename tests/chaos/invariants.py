"""What must hold of every job at every committed snapshot: one statement reads it, a pure function checks it."""

import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import psycopg
import psycopg.rows
from chaos.events import Events
from chaos.recovery import Recovery
from chaos.services import Database

#: Seconds between two snapshots.
INTERVAL = 0.05
#: Violations of one rule by one job that are kept: a wrong counter is wrong in every snapshot after it.
_KEPT = 1

Row = Mapping[str, Any]

# One statement, so that all of it is seen in one snapshot: the jobs that run, or did a moment ago.
_RECENT = "(job.status IN ('pending', 'running') OR job.updated_at > clock_timestamp() - interval '3 s')"
_LEDGER = """
    CROSS JOIN LATERAL (
        SELECT count(*) AS chunks,
            count(*) FILTER (WHERE state = 'queued') AS ledger_queued,
            count(*) FILTER (WHERE state = 'running') AS ledger_active,
            count(*) FILTER (WHERE state = 'completed') AS ledger_completed,
            count(*) FILTER (WHERE state = 'failed') AS ledger_failed,
            coalesce(max(generation), 1) AS generation
        FROM pixcrawler.chunks WHERE {kind}_job_id = job.id
    ) AS ledger
    CROSS JOIN LATERAL (
        -- A retry that finds no chunk to run again makes no new generation. It is committed within seconds.
        SELECT max(id) AS last_retry FROM activity_logs
        WHERE timestamp > clock_timestamp() - interval '30 s' AND action = '{kind}_job.retried'
            AND resource_id = job.id::text
    ) AS activity
"""
_CRAWLS = f"""
    SELECT job.id, job.status, job.progress, job.total_chunks, job.active_chunks, job.completed_chunks,
        job.failed_chunks, job.total_images, job.downloaded_images, job.valid_images, job.max_images, ledger.*,
        last_retry,
        (SELECT count(*) FROM images WHERE crawl_job_id = job.id) AS rows,
        EXISTS (SELECT FROM pixcrawler.recounts WHERE crawl_job_id = job.id) AS to_recount,
        (
            SELECT count(*) FROM pixcrawler.verdicts
            JOIN images ON images.id = verdicts.image_id
            WHERE NOT verdicts.valid AND verdicts.validation_job_id = (
                SELECT validation.id FROM validation_jobs AS validation
                JOIN pixcrawler.validation_plans AS plan ON plan.validation_job_id = validation.id
                WHERE validation.crawl_job_id = job.id AND validation.status = 'completed' AND plan.effective
                ORDER BY validation.completed_at DESC, validation.id DESC LIMIT 1
            )
        ) AS invalid
    FROM crawl_jobs AS job {_LEDGER.format(kind="crawl")}
"""
_VALIDATIONS = f"""
    SELECT job.id, job.status, job.progress, job.total_images, job.validated_images, job.invalid_images, ledger.*,
        last_retry,
        (SELECT count(*) FROM pixcrawler.verdicts WHERE validation_job_id = job.id) AS rows
    FROM validation_jobs AS job {_LEDGER.format(kind="validation")}
"""
_EXPORTS = f"""
    SELECT job.id, job.status, job.progress, job.total_images, job.exported_images, ledger.*, last_retry
    FROM export_jobs AS job {_LEDGER.format(kind="export")}
"""
_ALL = """
SELECT
    (SELECT coalesce(jsonb_agg(to_jsonb(job)), '[]') FROM ({crawls} WHERE {which}) AS job) AS crawl,
    (SELECT coalesce(jsonb_agg(to_jsonb(job)), '[]') FROM ({validations} WHERE {which}) AS job) AS validation,
    (SELECT coalesce(jsonb_agg(to_jsonb(job)), '[]') FROM ({exports} WHERE {which}) AS job) AS export,
    (
        SELECT coalesce(jsonb_agg(jsonb_build_array(id, state, fence, extract(epoch FROM dispatched_at))), '[]')
        FROM pixcrawler.chunks WHERE id = ANY(%(chunks)s)
    ) AS chunks
"""
_NAMES = {"crawls": _CRAWLS, "validations": _VALIDATIONS, "exports": _EXPORTS}
SNAPSHOT = _ALL.format(**_NAMES, which=_RECENT)
#: The same of all jobs that there are, at the end of a run.
FINAL = _ALL.format(**_NAMES, which="true")

_SHARED = """
    SELECT images.crawl_job_id, count(*) - count(DISTINCT original_url), count(*) - count(DISTINCT sha256),
        count(*) - count(image_id)
    FROM images LEFT JOIN pixcrawler.image_facts ON image_id = images.id
    GROUP BY images.crawl_job_id
    HAVING (count(DISTINCT original_url), count(DISTINCT sha256), count(image_id)) <> (count(*), count(*), count(*))
    ORDER BY images.crawl_job_id
"""


def violations(kind: str, before: Row | None, row: Row) -> Iterator[str]:
    """Yield the rules that a job's row breaks, with the numbers.

    Args:
        kind: of the job.
        before: the same job in the last snapshot that had it.
        row: the job in this one.
    """
    if not 0 <= row["progress"] <= 100:
        yield f"progress is a percentage: {row['progress']}"
    if (row["progress"] == 100) != (row["status"] == "completed"):
        yield f"progress is 100 exactly when completed: {row['progress']} of a job that is {row['status']}"
    if row["status"] == "completed" and row["ledger_queued"] + row["ledger_active"]:
        yield f"a completed job has no open chunk: {row['ledger_queued']} queued, {row['ledger_active']} running"
    yield from {"crawl": _of_crawl, "validation": _of_validation, "export": _of_export}[kind](row)
    if before:
        yield from _over_time(kind, before, row)


def _of_crawl(row: Row) -> Iterator[str]:
    for name, counted in (
        ("total_chunks", "chunks"),
        ("active_chunks", "ledger_active"),
        ("completed_chunks", "ledger_completed"),
        ("failed_chunks", "ledger_failed"),
    ):
        if row[name] != row[counted]:
            yield f"{name} is the ledger's: {row[name]} in the row, {row[counted]} in the ledger"
        if row[name] < 0:
            yield f"counters are not negative: {name} is {row[name]}"
    ended = row["active_chunks"] + row["completed_chunks"] + row["failed_chunks"]
    if ended > row["total_chunks"]:
        yield f"counters sum to the total at most: {ended} of {row['total_chunks']}"
    # Deleting images or a validation marks the job, in the same transaction, to be counted again.
    if row["valid_images"] != row["rows"] - row["invalid"] and not row["to_recount"]:
        yield (
            f"valid_images is the number of rows that are not invalid: {row['valid_images']} in the row, "
            f"{row['rows']} images, {row['invalid']} invalid"
        )
    if row["valid_images"] > row["max_images"]:
        yield f"valid_images is max_images at most: {row['valid_images']} of {row['max_images']}"
    if row["rows"] > row["downloaded_images"] or row["downloaded_images"] > row["total_images"]:
        yield (
            "each image was downloaded, and each download was found: "
            f"{row['rows']}, {row['downloaded_images']}, {row['total_images']}"
        )


def _of_validation(row: Row) -> Iterator[str]:
    validated = row["validated_images"] + row["invalid_images"]
    if validated != row["rows"]:
        yield f"each validated image has a result: {validated} counted, {row['rows']} rows"
    if validated > row["total_images"] or min(row["validated_images"], row["invalid_images"]) < 0:
        yield f"images are validated once: {validated} of {row['total_images']}"


def _of_export(row: Row) -> Iterator[str]:
    if not 0 <= row["exported_images"] <= row["total_images"]:
        yield f"images are exported once: {row['exported_images']} of {row['total_images']}"


def _over_time(kind: str, before: Row, row: Row) -> Iterator[str]:
    if any(before[name] != row[name] for name in ("generation", "last_retry")):
        return
    if row["progress"] < before["progress"]:
        yield f"progress never falls: {row['progress']} after {before['progress']}"
    if kind == "crawl" and before["status"] == row["status"] == "cancelled" and row["rows"] > before["rows"]:
        yield f"no image is inserted after a cancel: {row['rows']} after {before['rows']}"
    if row["status"] != before["status"] and before["status"] in {"completed", "failed"}:
        yield f"an ended job stays as it ended: {row['status']} after {before['status']}"


@dataclass
class Checker:
    """Takes snapshots in a thread of its own, and keeps what they violate.

    Attributes:
        database: that is looked at.
        events: what happens.
        recovery: what is to be looked for in the same snapshots.
        found: violations: job, rule and numbers.
        snapshots: how many were taken.
        missed: how many could not be, because the database was away or locked.
    """

    database: Database
    events: Events
    recovery: Recovery
    found: list[str] = field(default_factory=list)
    snapshots: int = 0
    missed: int = 0
    _last: dict[tuple[str, int], Row] = field(default_factory=dict)
    _counted: Counter[tuple[str, int, str]] = field(default_factory=Counter)
    _ended: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._watch, name="checker", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        if self._thread:
            self._thread.join()

    def check(self, snapshot: Row) -> None:
        """Check the jobs of a snapshot, given those of the snapshots before it."""
        for kind in ("crawl", "validation", "export"):
            for row in snapshot[kind]:
                key = (kind, row["id"])
                for broken in violations(kind, self._last.get(key), row):
                    self._keep(kind, row, broken)
                self._last[key] = row

    def check_all(self, connection: psycopg.Connection) -> None:
        """Check every job that there is, once nothing happens any more."""
        with connection.cursor(row_factory=psycopg.rows.dict_row) as cursor:
            snapshot = cursor.execute(FINAL, {"chunks": []}).fetchone()
        assert snapshot is not None
        self.check(snapshot)
        for kind in ("crawl", "validation", "export"):
            for row in snapshot[kind]:
                for broken in at_end(kind, row):
                    self._keep(kind, row, broken)
        for job, urls, digests, facts in connection.execute(_SHARED.encode()).fetchall():
            broken = (
                f"no two images share URL or bytes: {urls} URLs and {digests} digests shared, {facts} without facts"
            )
            self._keep("crawl", {"id": job}, broken)

    def _keep(self, kind: str, row: Row, broken: str) -> None:
        rule = broken.partition(":")[0]
        self._counted[kind, row["id"], rule] += 1
        if self._counted[kind, row["id"], rule] <= _KEPT:
            self.found.append(f"{kind} job {row['id']}: {broken}")
            self.events.write("violation", job=f"{kind} {row['id']}", rule=rule, what=broken, row=dict(row))

    def _watch(self) -> None:
        connection: psycopg.Connection[dict[str, Any]] | None = None
        due = time.monotonic()
        while not self._ended.is_set():
            due = max(due + INTERVAL, time.monotonic())
            self._ended.wait(due - time.monotonic())
            try:
                if connection is None or connection.closed:
                    connection = self._connect()
                before = time.monotonic()
                snapshot = connection.execute(SNAPSHOT, {"chunks": self.recovery.awaited()}).fetchone()
            except psycopg.Error:
                self.missed += 1
                continue
            assert snapshot is not None
            self.snapshots += 1
            self.check(snapshot)
            self.recovery.look(snapshot["chunks"], before)
        if connection:
            connection.close()

    def _connect(self) -> psycopg.Connection[dict[str, Any]]:
        connection = psycopg.connect(
            self.database.url,
            autocommit=True,
            application_name="chaos checker",
            connect_timeout=2,
            row_factory=psycopg.rows.dict_row,
        )
        connection.execute("SET lock_timeout = '300ms'; SET statement_timeout = '5s'; SET jit = off")
        return connection


def at_end(kind: str, row: Row) -> Iterator[str]:
    """Yield the rules of ended jobs that a row breaks."""
    if row["status"] in {"pending", "running"}:
        yield f"every job ends: it is {row['status']}"
        return
    if row["ledger_active"] or row["ledger_queued"]:
        yield f"an ended job has no open chunk: {row['ledger_queued']} queued, {row['ledger_active']} running"
    if kind == "crawl":
        if row["to_recount"]:
            yield "at the end every job is counted again whose images were deleted"
        if row["active_chunks"]:
            yield f"at the end no chunk is active: {row['active_chunks']}"
        if row["status"] == "completed" and row["completed_chunks"] + row["failed_chunks"] != row["total_chunks"]:
            yield (
                f"at the end every chunk has ended: {row['completed_chunks']} + {row['failed_chunks']} "
                f"of {row['total_chunks']}"
            )
    if kind == "validation" and row["status"] == "completed" and row["rows"] != row["total_images"]:
        yield f"a completed validation has validated every image: {row['rows']} of {row['total_images']}"
