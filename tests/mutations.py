"""Mutations of the package that the tests must notice: `make mutations`, or `python tests/mutations.py NAME...`.

Each mutation replaces one piece of text in a copy of the tree and runs the tests that are named with it there. It is
noticed when a test fails that passes without it, and survives when all of them pass. Exit code 1 when one survives, or
when its text is not there any more: rewriting that code includes rewriting the mutation.
"""

import argparse
import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

ROOT = Path(__file__).parents[1]
#: What a copy of the tree needs for its tests.
_COPIED = ("pixcrawler_worker", "migrations", "deploy", "tests", "pyproject.toml", "alembic.ini", "docs", "README.md")
#: Seconds that one test may take: a mutation may make it wait for ever.
_TEST_TIMEOUT = 60
#: Seconds that the tests of one mutation may take: Hypothesis looks for the shortest example of one that hangs.
_TIMEOUT = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutation:
    """One change that must be noticed.

    Attributes:
        name: what the change does.
        files: pattern of paths below the package; exactly one of them has the text.
        old: text that occurs once.
        new: what it becomes.
        tests: paths below `tests`; at least one test in them fails.
    """

    name: str
    files: str
    old: str
    new: str
    tests: tuple[str, ...]

    def path(self, root: Path) -> Path:
        """Return the file below a root that has the text.

        Raises:
            ValueError: when the text does not occur exactly once.
        """
        found = [
            (path, count)
            for path in sorted((root / "pixcrawler_worker").glob(self.files))
            if (count := path.read_text().count(self.old))
        ]
        if len(found) != 1 or found[0][1] != 1:
            raise ValueError(f"{self.name}: its text must occur once in {self.files}, and occurs {dict(found)}")
        return found[0][0]


class Outcome(StrEnum):
    """What became of a mutation."""

    NOTICED = "noticed"
    SURVIVED = "SURVIVED"
    BROKEN = "BROKEN"


MUTATIONS = (
    Mutation(
        name="a result is accepted whatever its fence token",
        files="db/ledger/chunks.py",
        old="    if fence != claim.fence:",
        new="    if fence is None:",
        tests=("db/ledger/test_chunks.py",),
    ),
    Mutation(
        name="a heartbeat extends the lease of another claim",
        files="db/ledger/chunks.py",
        old="Chunk.state == ChunkState.RUNNING, Chunk.fence == claim.fence)",
        new="Chunk.state == ChunkState.RUNNING)",
        tests=("db/ledger/test_chunks.py",),
    ),
    Mutation(
        name="a claim takes a chunk in any state",
        files="db/ledger/chunks.py",
        old="and_(Chunk.state == ChunkState.QUEUED, Chunk.available_at <= _NOW, Chunk.attempt < Chunk.max_attempts)",
        new="and_(Chunk.available_at <= _NOW, Chunk.attempt < Chunk.max_attempts)",
        tests=("db/ledger/test_chunks.py",),
    ),
    Mutation(
        name="the row count of a job's counters is not asserted",
        files="db/ledger/jobs.py",
        old="        raise NotRunningError(str(ref))\n    return ChunkOutcome.CONTINUES if left",
        new="    return ChunkOutcome.CONTINUES if left",
        tests=("db/ledger/test_jobs.py", "db/ledger/test_chunks.py"),
    ),
    Mutation(
        name="the row count of a gain below its limit is not asserted",
        files="db/ledger/jobs.py",
        old="            raise LimitExceededError(str(ref))\n        raise NotRunningError(str(ref))",
        new="            return ChunkOutcome.CONTINUES\n        raise NotRunningError(str(ref))",
        tests=("db/ledger/test_jobs.py", "jobs/test_executor.py"),
    ),
    Mutation(
        name="the row count of a retry is not asserted",
        files="db/ledger/jobs.py",
        old="if session.scalar(update(model).where(again).values(values).returning(model.id)) is None:",
        new="if session.scalar(update(model).where(again).values(values).returning(model.id)) == -1:",
        tests=("db/ledger/test_retry.py",),
    ),
    Mutation(
        name="a claim is checked without FOR UPDATE",
        files="db/ledger/statements.py",
        old="WHERE id = %(chunk)s AND (SELECT count(*) FROM pinned) >= 0\nFOR NO KEY UPDATE\n",
        new="WHERE id = %(chunk)s AND (SELECT count(*) FROM pinned) >= 0\n",
        tests=("db/ledger/test_chunks.py",),
    ),
    Mutation(
        name="a job is locked without FOR UPDATE",
        files="db/ledger/jobs.py",
        old="select(model.status).where(model.id == ref.id).with_for_update(key_share=True)",
        new="select(model.status).where(model.id == ref.id)",
        tests=("jobs/test_submission.py", "crawl/test_rounds.py"),
    ),
    Mutation(
        name="the chunks of a retry are read without FOR UPDATE",
        files="db/ledger/jobs.py",
        old="        .where(belongs_to(ref), Chunk.state != ChunkState.COMPLETED)\n        .order_by(Chunk.id)\n"
        "        .with_for_update(key_share=True)\n",
        new="        .where(belongs_to(ref), Chunk.state != ChunkState.COMPLETED)\n        .order_by(Chunk.id)\n",
        tests=("db/ledger/test_retry.py", "db/test_deletes.py"),
    ),
    Mutation(
        name="a chunk stays completed that could not be counted",
        files="db/ledger/chunks.py",
        old="    return jobs.outcome(session, job, open_chunks",
        new='    session.connection().exec_driver_sql("COMMIT")\n    return jobs.outcome(session, job, open_chunks',
        tests=("db/test_faults.py", "db/ledger/test_jobs.py"),
    ),
    Mutation(
        name="a claimed chunk is not counted in its job",
        files="db/ledger/statements.py",
        old='active="active_chunks = active_chunks + 1," if table.has("active_chunks") else ""',
        new='active=""',
        tests=("db/test_faults.py", "db/ledger/test_chunks.py"),
    ),
    Mutation(
        name="every worker sends lost messages again at once",
        files="jobs/sweeper.py",
        old="if not sweeps.try_lock(session, sweeps.Step.REDISPATCH):",
        new="if not room:",
        tests=("jobs/test_sweeper.py",),
    ),
    Mutation(
        name="every worker dispatches at once",
        files="jobs/sweeper.py",
        old="            if not sweeps.try_lock(session, sweeps.Step.DISPATCH):\n                return\n",
        new="",
        tests=("jobs/test_sweeper.py",),
    ),
    Mutation(
        name="reaping waits for locked rows",
        files="db/ledger/leases.py",
        old="        .with_for_update(key_share=True, skip_locked=True)\n    ).one_or_none()",
        new="        .with_for_update(key_share=True)\n    ).one_or_none()",
        tests=("db/ledger/test_locked_rows.py",),
    ),
    Mutation(
        name="dispatching waits for locked rows",
        files="db/ledger/statements.py",
        old="LIMIT %(limit)s\n    FOR NO KEY UPDATE SKIP LOCKED",
        new="LIMIT %(limit)s\n    FOR NO KEY UPDATE",
        tests=("db/ledger/test_locked_rows.py",),
    ),
    Mutation(
        name="sending lost messages again waits for locked rows",
        files="db/ledger/dispatch.py",
        old="query.with_for_update(of=Chunk, key_share=True, skip_locked=True)",
        new="query.with_for_update(of=Chunk, key_share=True)",
        tests=("db/ledger/test_locked_rows.py",),
    ),
    Mutation(
        name="a crash does not count",
        files="db/ledger/leases.py",
        old="crashes = min(max(row.crash_count, 0), _MAX_SMALLINT - 1) + 1",
        new="crashes = min(max(row.crash_count, 0), _MAX_SMALLINT - 1)",
        tests=("db/ledger/test_leases.py",),
    ),
    Mutation(
        name="a sweep after an outage takes living workers for dead",
        files="jobs/setbacks.py",
        old="return self._was_interrupted and chunk_id not in self._spared",
        new="return False",
        tests=("jobs/test_sweep_after_outage.py",),
    ),
    Mutation(
        name="images are written before the fence token is checked",
        files="jobs/ending.py",
        old="        match chunks.lock_claim(session, claim):\n",
        new="        kind.write(session, work, result)\n        match chunks.lock_claim(session, claim):\n",
        tests=("crawl/test_claims.py",),
    ),
    Mutation(
        name="the work of a chunk has no deadline",
        files="jobs/heartbeat.py",
        old="asyncio.timeout(deadline)",
        new="asyncio.timeout(None)",
        tests=("jobs/test_executor.py",),
    ),
    Mutation(
        name="work goes on after its claim is lost",
        files="jobs/heartbeat.py",
        old="            scope.reschedule(loop.time())",
        new="            pass",
        tests=("jobs/test_executor.py",),
    ),
    Mutation(
        name="the executor has no jitter",
        files="jobs/executor.py",
        old="jitter: Callable[[], float] = random.random,",
        new="jitter: Callable[[], float] = lambda: 0.0,",
        tests=("jobs/test_executor.py",),
    ),
    Mutation(
        name="a backoff has no jitter",
        files="domain/retry.py",
        old="backoff(counted) * (1 + jitter * _BACKOFF_JITTER)",
        new="backoff(counted)",
        tests=("domain/test_retry.py",),
    ),
    Mutation(
        name="an outage has no jitter",
        files="domain/retry.py",
        old="Retry(delay * (1 + jitter), allowed)",
        new="Retry(delay, allowed)",
        tests=("domain/test_retry.py",),
    ),
    Mutation(
        name="an outage costs an attempt",
        files="jobs/ending.py",
        old="error=str(error), outage=True, jitter=jitter()",
        new="error=str(error), jitter=jitter()",
        tests=("jobs/test_executor.py",),
    ),
    Mutation(
        name="the lease is not extended while a result waits for the database",
        files="jobs/executor.py",
        old="            sends_next = self._sends_next(claimed)\n",
        new="            sends_next = self._sends_next(claimed)\n            heartbeat.extend(None)\n",
        tests=("jobs/test_executor.py",),
    ),
    Mutation(
        name="an attempt that could not be claimed is not counted",
        files="jobs/claiming.py",
        old="            _count_attempt(runtime, kind, chunk_id, error, limits, jitter)\n",
        new="",
        tests=("jobs/test_executor.py",),
    ),
    Mutation(
        name="a deferral has no jitter",
        files="domain/retry.py",
        old="max(retry_after, _MIN_DEFERRAL) * (1 + jitter)",
        new="max(retry_after, _MIN_DEFERRAL)",
        tests=("domain/test_retry.py",),
    ),
    Mutation(
        name="a deferral costs no attempt for ever",
        files="domain/retry.py",
        old="return min(max_attempts + 1, MAX_ATTEMPTS_WITH_DEFERRALS)",
        new="return max_attempts + 1",
        tests=("domain/test_retry.py",),
    ),
    Mutation(
        name="the heartbeat interval is 95 % of the lease",
        files="jobs/limits.py",
        old="return lease / self.heartbeats_per_lease",
        new="return lease * 0.95",
        tests=("jobs/test_limits.py",),
    ),
    Mutation(
        name="the executor's heartbeat comes at 95 % of the lease",
        files="jobs/heartbeat.py",
        old="limits.heartbeat_interval(self._lease).total_seconds()",
        new="self._lease.total_seconds() * 0.95",
        tests=("jobs/test_executor.py",),
    ),
    Mutation(
        name="a heartbeat that meets a busy database ends the work",
        files="jobs/heartbeat.py",
        old="        except OutageError:\n            pause = min",
        new="        except OutageError:\n            extended.lost.set_result(None)\n            pause = min",
        tests=("jobs/test_executor.py",),
    ),
    Mutation(
        name="the interval of resending has no upper bound",
        files="db/ledger/dispatch.py",
        old="_MAX_DOUBLINGS = 4",
        new="_MAX_DOUBLINGS = 40",
        tests=("jobs/test_sweeper.py",),
    ),
    Mutation(
        name="the interval of resending overflows",
        files="db/ledger/dispatch.py",
        old="_MAX_DOUBLINGS = 4",
        new="_MAX_DOUBLINGS = 100_000",
        tests=("jobs/test_sweeper.py",),
    ),
    Mutation(
        name="the interval of resending does not grow",
        files="db/ledger/dispatch.py",
        old="_NOW - after * func.power(2, doublings)",
        new="_NOW - after",
        tests=("crawl/test_sweep.py", "jobs/test_sweeper.py"),
    ),
    Mutation(
        name="a job is concluded whatever its status",
        files="jobs/submission.py",
        old="if jobs.lock(session, ref) is not JobStatus.RUNNING:",
        new="if jobs.lock(session, ref) is None:",
        tests=("jobs/test_submission.py", "crawl/test_rounds.py"),
    ),
    Mutation(
        name="a job is concluded while chunks are open",
        files="jobs/submission.py",
        old="        if counters.open:\n            return []\n        match kind.conclude(",
        new="        match kind.conclude(",
        tests=("jobs/test_submission.py", "crawl/test_rounds.py"),
    ),
    Mutation(
        name="a job is planned whatever its status",
        files="jobs/submission.py",
        old="    if jobs.lock(session, ref) is not JobStatus.PENDING:\n        return None\n",
        new="    if jobs.lock(session, ref) is None:\n        return None\n",
        tests=("jobs/test_submission.py",),
    ),
    Mutation(
        name="the address of a connection is not checked again at its connect",
        files="web/connect.py",
        old="        guard.check(ip_address(str(host)), int(str(port)))\n",
        new="",
        tests=("web/test_connect.py",),
    ),
    Mutation(
        name="one allowed address makes a name allowed",
        files="web/connect.py",
        old="self._guard.check_resolved(host, answers, port)",
        new="self._guard.check_resolved(host, answers[:1], port)",
        tests=("web/test_connect.py",),
    ),
    Mutation(
        name="where any address can be bound, no public one is known to be the machine's",
        files="web/addresses.py",
        old="(not _can_bind(_UNASSIGNED[address.version]) or _is_own_source(address))",
        new="not _can_bind(_UNASSIGNED[address.version])",
        tests=("web/test_guard.py",),
    ),
    Mutation(
        name="each request looks its name up",
        files="web/resolver.py",
        old="self._running.get(name) or self._start(name, now)",
        new="self._start(name, now)",
        tests=("web/test_resolver.py",),
    ),
    Mutation(
        name="a silent name server may use up the threads",
        files="web/resolver.py",
        old="limit = MAX_LOOKUPS_OF_DOMAIN if is_known else MAX_LOOKUPS_OF_UNKNOWN_DOMAIN",
        new="limit = MAX_LOOKUPS",
        tests=("web/test_resolver.py",),
    ),
    Mutation(
        name="silent domains leave no thread to those that answer",
        files="web/resolver.py",
        old="if unknown >= MAX_LOOKUPS_OF_UNKNOWN_DOMAINS and not is_known:",
        new="if False:",
        tests=("web/test_resolver.py",),
    ),
    Mutation(
        name="what a name resolved to is remembered for ever",
        files="web/resolver.py",
        old="if answer and answer.until > now:",
        new="if answer:",
        tests=("web/test_resolver.py",),
    ),
    Mutation(
        name="an opt-out counts only in the response, and not in a redirect",
        files="web/exchange.py",
        old="(status in range(200, 300) or status in REDIRECTS)",
        new="status in range(200, 300)",
        tests=("web/test_opt_outs.py",),
    ),
    Mutation(
        name="directives for other crawlers count",
        files="web/opt_outs.py",
        old="if (addressed in _EVERYBODY or addressed == agent) and",
        new="if",
        tests=("web/test_opt_outs.py",),
    ),
    Mutation(
        name="a part of a chunk costs an attempt",
        files="domain/retry.py",
        old="return (0, MAX_ATTEMPTS) if progressed else",
        new="return (attempt, max_attempts) if progressed else",
        tests=("jobs/test_parts.py",),
    ),
    Mutation(
        name="a part whose COMMIT lost its answer is taken for lost",
        files="db/ledger/chunks.py",
        old="was_put_back or state == ChunkState.COMPLETED",
        new="state == ChunkState.COMPLETED",
        tests=("jobs/test_parts.py",),
    ),
    Mutation(
        name="a retry does a whole chunk again whose parts are done",
        files="db/ledger/jobs.py",
        old="result=case((Chunk.state == ChunkState.COMPLETED, null()), else_=Chunk.result),",
        new="result=null(),",
        tests=("jobs/test_parts.py",),
    ),
    Mutation(
        name="a closed host has places",
        files="web/hosts.py",
        old="return 0 if self._wait(one) > 0 else max(",
        new="return max(",
        tests=("web/test_hosts.py",),
    ),
    Mutation(
        name="a host that does not answer stays open",
        files="web/hosts.py",
        old="_MAX_FAILURES = 5\n",
        new="_MAX_FAILURES = 5000\n",
        tests=("web/test_hosts.py",),
    ),
    Mutation(
        name="a host that another worker closes stays open",
        files="web/hosts.py",
        old="(version is None or one.version != version)",
        new="version is None",
        tests=("web/test_hosts.py",),
    ),
    Mutation(
        name="any number of connections is borrowed",
        files="web/shared_hosts.py",
        old="if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[1]) then return 0 end",
        new="",
        tests=("web/test_shared_hosts.py",),
    ),
    Mutation(
        name="what was rejected for now is decided",
        files="db/candidates.py",
        old="_known(job_id, hashes).where(~CrawlCandidate.retriable)",
        new="_known(job_id, hashes)",
        tests=("db/test_candidates.py",),
    ),
    Mutation(
        name="a download that is repeated counts again",
        files="db/candidates.py",
        old="by_hash[row.url_hash].downloaded and row.downloads == 1",
        new="by_hash[row.url_hash].downloaded",
        tests=("db/test_candidates.py",),
    ),
    Mutation(
        name="an image of a URL that another chunk has decided gets a row",
        files="crawl/worker.py",
        old=" if progress.images[at].url_hash in recorded.hashes",
        new="",
        tests=("crawl/test_claims.py",),
    ),
    Mutation(
        name="the images of an earlier claim are shown",
        files="db/job_views.py",
        old="            Chunk.live_fence == Chunk.fence,\n",
        new="",
        tests=("db/ledger/test_chunks.py",),
    ),
    Mutation(
        name="the pipes of dead children are read from",
        files="broker/pool.py",
        old="            del self._fileno_to_outq[results.fileno()]",
        new="            pass",
        tests=("broker/test_pool.py",),
    ),
    Mutation(
        name="a pool that stops forgets tasks on their way to a child",
        files="broker/pool.py",
        old="        self._cache.update({number: job for number, job in sent.items() if job._write_to._is_alive()})\n",
        new="",
        tests=("broker/test_pool.py",),
    ),
    Mutation(
        name="bodies in flight are not bounded",
        files="web/bodies.py",
        old="if self._total + count > self._budget and",
        new="if False and",
        tests=("web/test_bodies.py",),
    ),
    Mutation(
        name="each file of a host asks for its robots.txt",
        files="web/robots.py",
        old="reading = self._reading.get(origin)",
        new="reading = None",
        tests=("web/test_robots.py",),
    ),
    Mutation(
        name="where a redirect leads, robots.txt does not count",
        files="web/downloader.py",
        old="self._redirected(outgoing, answer)\n            if outgoing.before_hop:",
        new="self._redirected(outgoing, answer)\n            if False:",
        tests=("web/test_robots.py",),
    ),
    Mutation(
        name="hosts whose robots.txt is shared are without limit",
        files="web/robots_cache.py",
        old="if count > self._max_hosts:",
        new="if False:",
        tests=("web/test_robots_cache.py",),
    ),
    Mutation(
        name="the URL of a redirect is not checked",
        files="web/downloader.py",
        old="target = self._guard.target(following)",
        new="target = URL(following)",
        tests=("web/test_downloader.py",),
    ),
    Mutation(
        name="a redirect may lead from https to http",
        files="web/downloader.py",
        old='if before.scheme == "https" and target.scheme == "http":',
        new="if False:",
        tests=("web/test_connect.py",),
    ),
    Mutation(
        name="credentials follow a redirect to another origin",
        files="web/downloader.py",
        old="if target.origin() != before.origin():",
        new="if False:",
        tests=("sources/test_plug_in.py",),
    ),
    Mutation(
        name="the cap of bytes holds only for announced lengths",
        files="web/exchange.py",
        old="        if len(body) > outgoing.max_bytes:\n",
        new="        if False:\n",
        tests=("web/test_downloader.py",),
    ),
    Mutation(
        name="a download has no deadline in all",
        files="web/downloader.py",
        old="async with asyncio.timeout(max(0.0, seconds)) as deadline:",
        new="async with asyncio.timeout(None) as deadline:",
        tests=("web/test_downloader.py",),
    ),
    Mutation(
        name="a connection with an unread response is closed politely",
        files="web/exchange.py",
        old="            response.connection.transport.abort()",
        new="            pass",
        tests=("web/test_downloader.py",),
    ),
    Mutation(
        name="a source sets headers of the connection",
        files="web/http.py",
        old="if name.lower() not in _OWN_HEADERS}",
        new="}",
        tests=("web/test_http.py",),
    ),
    Mutation(
        name="a POST is repeated",
        files="web/http.py",
        old="if request.method not in _SAFE_METHODS:",
        new="if False:",
        tests=("web/test_http.py",),
    ),
    Mutation(
        name="cookies of providers are kept",
        files="web/http.py",
        old="cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),",
        new="cookies=CookieJar(),",
        tests=("web/test_http.py",),
    ),
    Mutation(
        name="an error of a provider keeps the URL with its query",
        files="web/http.py",
        old="raise _of_status(name, error.response) from None",
        new="raise _of_status(name, error.response) from error",
        tests=("web/test_http.py",),
    ),
    Mutation(
        name="URLs of sources are logged with their queries",
        files="logs.py",
        old='_NOISY = ("httpx", ',
        new="_NOISY = (",
        tests=("web/test_http.py",),
    ),
    Mutation(
        name="a Retry-After without end is not capped",
        files="web/retry_after.py",
        old="        if len(whole) > _MAX_DIGITS:\n            return _MAX\n",
        new="",
        tests=("web/test_retry_after.py",),
    ),
    Mutation(
        name="messages that the broker has lost wait for their interval",
        files="db/ledger/dispatch.py",
        old="                Chunk.dispatched_at < broker.lost_at(),\n",
        new="",
        tests=("db/ledger/test_broker.py",),
    ),
    Mutation(
        name="messages that were not sent count as sent",
        files="db/ledger/broker.py",
        old=".values(dispatched_at=None, dispatch_count=func.greatest(Chunk.dispatch_count - 1, 0))",
        new=".values(dispatch_count=Chunk.dispatch_count)",
        tests=("db/ledger/test_broker.py",),
    ),
    Mutation(
        name="a loss is noted by every worker that sees it",
        files="db/ledger/broker.py",
        old="Broker.identity.is_distinct_from(identity), or_",
        new="Broker.id == 1, or_",
        tests=("db/ledger/test_broker.py",),
    ),
    Mutation(
        name="options that come too late are dropped silently",
        files="jobs/submission.py",
        old="        _meet_options(runtime, kind, ref, options)\n        return []\n",
        new="        return []\n",
        tests=("db/test_requests.py",),
    ),
    Mutation(
        name="a source is counted on for every candidate",
        files="domain/crawl_planning.py",
        old="        return math.floor(mean - _SAFETY * math.sqrt(mean * (1 - share)))",
        new="        return candidates",
        tests=("domain/test_crawl_planning.py", "domain/test_whole_jobs.py"),
    ),
    Mutation(
        name="a retry keeps the sums of the chunks that it changes",
        files="db/crawls.py",
        old=', "history": null()}',
        new="}",
        tests=("db/test_crawl_history.py",),
    ),
    Mutation(
        name="sums are used after a retry by the version before",
        files="db/crawl_history.py",
        old='return sums if fields.integer("round") <= now else _Sums()',
        new="return sums",
        tests=("db/test_crawl_history.py",),
    ),
    Mutation(
        name="chunks in the sums are counted again",
        files="db/crawl_history.py",
        old="Chunk.seq >= kept.before, of_chunk",
        new="of_chunk",
        tests=("db/test_crawl_history.py",),
    ),
    Mutation(
        name="deleted chunks count twice",
        files="db/retention.py",
        old="    crawl_history.forget(session, job_id)\n",
        new="",
        tests=("db/test_crawl_history.py",),
    ),
    Mutation(
        name="a page that was read later does not end a row of failures",
        files="domain/crawl_history.py",
        old="                self.failed = [one for one in self.failed if one > page]\n",
        new="",
        tests=("domain/test_crawl_history.py",),
    ),
    Mutation(
        name="a source that has just failed is counted on",
        files="domain/crawl_planning.py",
        old="        if self.history.failures:\n            return 0\n",
        new="",
        tests=("domain/test_crawl_planning.py",),
    ),
    Mutation(
        name="the row of an image has a URL that is gone",
        files="crawl/downloading.py",
        old="        url=offer.url,\n        url_hash=offer.url_hash,",
        new="        url=offer.candidate.url,\n        url_hash=offer.url_hash,",
        tests=("crawl/test_sizes.py",),
    ),
    Mutation(
        name="a synonym belongs to two classes",
        files="domain/keyword_expansion.py",
        old="            if is_new and other != keyword.label:",
        new="            if is_new and not other:",
        tests=("domain/test_keyword_expansion.py",),
    ),
    Mutation(
        name="leftovers of a page are searched again",
        files="crawl/worker.py",
        old="            if chunk.only is not None and (known",
        new="            if chunk.only is None and (known",
        tests=("crawl/test_several_sources.py",),
    ),
    Mutation(
        name="a job that was started without its options goes on",
        files="crawl/planner.py",
        old="    crawls.record_overtaken(session, ref.id, options)\n    return True\n",
        new="    return False\n",
        tests=("crawl/test_late_options.py",),
    ),
    Mutation(
        name="the options in a row are ignored",
        files="crawl/planner.py",
        old="record_options(runtime, session, ref.id, of_row or parse({}))",
        new="record_options(runtime, session, ref.id, parse({}))",
        tests=("crawl/test_late_options.py",),
    ),
    Mutation(
        name="requested options are taken as checked",
        files="crawl/planner.py",
        old="    elif known.as_given:\n        record_options(runtime, session, ref.id, parse(known.options))\n",
        new="",
        tests=("db/test_requests.py",),
    ),
    Mutation(
        name="a retried validation keeps its comparison",
        files="validate/planner.py",
        old="    if any(isinstance(task_of(payload), ImagesTask) for payload in open_):",
        new="    if False and open_:",
        tests=("validate/test_control.py",),
    ),
    Mutation(
        name="a retried export relies on files that were deleted",
        files="export/cleanup.py",
        old="    return status is None or exports.begin_cleaning(session, job_id)",
        new="    return status is None or True",
        tests=("export/test_control.py",),
    ),
    Mutation(
        name="a job that another program ended gets no error",
        files="db/ledger/jobs.py",
        old="    _complete_end(session, ref)\n",
        new="",
        tests=("validate/test_control.py",),
    ),
    Mutation(
        name="valid images are above their limit",
        files="db/validations.py",
        old="    return min(limit, _not_invalid(session, crawl_job_id))",
        new="    return max(0 * limit, _not_invalid(session, crawl_job_id))",
        tests=("db/test_valid_images.py",),
    ),
    # One image of a validation or an export.
    Mutation(
        name="what one image of a validation raises ends its chunk",
        files="validate/image_validation.py",
        old="        except Exception as error:  # noqa: BLE001 - whatever one image raises is its own",
        new="        except ZeroDivisionError as error:",
        tests=("validate/test_isolation.py",),
    ),
    Mutation(
        name="an image that takes for ever is validated again with its neighbors",
        files="validate/image_validation.py",
        old="asyncio.timeout(self._stop if len(images) > 1 else None)",
        new="asyncio.timeout(None)",
        tests=("validate/test_isolation.py",),
    ),
    Mutation(
        name="a file that cannot be read is an outage although others can be read",
        files="validate/image_validation.py",
        old="besides=besides, answered=self._progress.answered):",
        new="besides=besides, answered=self._progress.answered) or True:",
        tests=("validate/test_isolation.py",),
    ),
    Mutation(
        name="an image at which a model fails costs all images of its batch their scores",
        files="validate/batches.py",
        old="    return [scores for one in batch for scores in _score_batch(classifier, [one])]",
        new='    return ["failed"] * len(batch)',
        tests=("validate/test_batches.py",),
    ),
    Mutation(
        name="images that waited with one whose caller gave up wait for ever",
        files="validate/batches.py",
        old="            self._waiting.extendleft(reversed(batch))",
        new="            pass",
        tests=("validate/test_batches.py",),
    ),
    Mutation(
        name="relevant images are flagged and irrelevant ones are not",
        files="domain/checks.py",
        old="score < score_below, score_below",
        new="score > score_below, score_below",
        tests=("domain/test_checks.py",),
    ),
    Mutation(
        name="what a layout returns for an image is written while it is returned",
        files="export/archive_writer.py",
        old="written = [self._checked(one) for one in entries]",
        new="written = list(entries)",
        tests=("export/test_isolation.py",),
    ),
    Mutation(
        name="what one image of an export raises ends its chunk",
        files="export/image_reader.py",
        old="        except Exception as error:  # noqa: BLE001 - see above",
        new="        except ZeroDivisionError as error:",
        tests=("export/test_isolation.py",),
    ),
    Mutation(
        name="a slow archive is begun again by every attempt",
        files="export/worker.py",
        old="async with asyncio.timeout(seconds if task.segments is None else None) as limit:",
        new="async with asyncio.timeout(None) as limit:",
        tests=("export/test_prepared.py",),
    ),
    Mutation(
        name="a segment of a slow archive is forgotten",
        files="export/worker.py",
        old="        segments.append(first)\n",
        new="",
        tests=("export/test_prepared.py",),
    ),
    Mutation(
        name="entries of Commons without an id are one",
        files="sources/commons.py",
        old="object() if name is None or name in ids else name",
        new="name",
        tests=("sources/test_odd_answers.py",),
    ),
    Mutation(
        name="a marked image is exported",
        files="db/export_selection.py",
        old="SELECT FROM excluded WHERE excluded.digest = placed.digest)",
        new="SELECT FROM excluded WHERE excluded.digest = placed.digest AND false)",
        tests=("export/test_jobs.py",),
    ),
    Mutation(
        name="a page is served to whatever host name a request has",
        files="browse/server.py",
        old="if len(hosts) != 1 or hosts[0].lower() not in self.server.hosts:",
        new="if len(hosts) != 1:",
        tests=("browse/test_server.py",),
    ),
    Mutation(
        name="a page is served without its token",
        files="browse/server.py",
        old="if not hmac.compare_digest(prefix.encode",
        new="if prefix.count('/') < 2 and not hmac.compare_digest(prefix.encode",
        tests=("browse/test_server.py",),
    ),
    Mutation(
        name="a title ends the element with the data of a page",
        files="browse/content.py",
        old='.replace("<", ',
        new='.replace("<<<", ',
        tests=("browse/test_content.py",),
    ),
    Mutation(
        name="marks are not kept across a reload of a page",
        files="browse/page.js",
        old="localStorage.setItem(KEY, JSON.stringify([...marks]));",
        new="JSON.stringify([...marks]);",
        tests=("browse/test_page.py",),
    ),
    Mutation(
        name="a tile shows the thumbnail of another cell",
        files="browse/page.js",
        old="thumb.style.backgroundPosition = `${scaled(-x * data.sheet.side)}",
        new="thumb.style.backgroundPosition = `${scaled(x * data.sheet.side)}",
        tests=("browse/test_page.py",),
    ),
    Mutation(
        name="what failed forgets what its list said",
        files="crawl/worker.py",
        old="list_details=replace(rejection.row, label=None).details(),",
        new="list_details=None,",
        tests=("crawl/test_captions.py",),
    ),
    Mutation(
        name="a label of a list is ignored",
        files="crawl/downloading.py",
        old="label=offer.row.label or work.chunk.label,",
        new="label=work.chunk.label,",
        tests=("crawl/test_captions.py",),
    ),
    Mutation(
        name="a column of numbers with a gap stays one of numbers",
        files="domain/list_columns.py",
        old="    if facts.values < images:\n",
        new="    if not facts.values:\n",
        tests=("domain/test_list_columns.py",),
    ),
    Mutation(
        name="names of columns differ in case only",
        files="domain/list_columns.py",
        old="    taken.add(name.casefold())\n",
        new="    taken.add(name)\n",
        tests=("domain/test_list_columns.py",),
    ),
    Mutation(
        name="a column of a list has the name of one of every dataset",
        files="domain/list_columns.py",
        old="{name.casefold() for name in _RESERVED}",
        new="set()",
        tests=("domain/test_list_columns.py",),
    ),
    Mutation(
        name="the size of a caption does not count for that of an archive",
        files="db/export_selection.py",
        old="f.label, f.caption, f.columns)) + CASE",
        new="f.label)) + CASE",
        tests=("export/test_captions.py",),
    ),
    Mutation(
        name="captions of a list of what failed are not read",
        files="crawl/lists/failed_rows.py",
        old="text_of(caption) if isinstance(caption, str) and caption else None,",
        new="None,",
        tests=("cli/test_failures.py",),
    ),
)


def main() -> int:
    """Apply the mutations that are named, or all; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", help="parts of the names of mutations; all when there is none")
    parser.add_argument("--list", action="store_true", help="list the names and end")
    arguments = parser.parse_args()
    chosen = [one for one in MUTATIONS if not arguments.names or any(part in one.name for part in arguments.names)]
    if arguments.list:
        print(*(one.name for one in chosen), sep="\n")
        return 0
    with tempfile.TemporaryDirectory(prefix="mutations-") as folder:
        tree = Path(folder)
        _copy(tree)
        return _run_all(tree, chosen)


def _copy(tree: Path) -> None:
    for name in _COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, tree)


def _run_all(tree: Path, chosen: Sequence[Mutation]) -> int:
    worst = 0
    for one in chosen:
        print(f"{one.name} ... ", end="", flush=True)
        began = time.monotonic()
        outcome, reason = _run(tree, one)
        print(f"{outcome} ({time.monotonic() - began:.0f} s) {reason}", flush=True)
        worst = max(worst, int(outcome is not Outcome.NOTICED))
    return worst


def _run(tree: Path, mutation: Mutation) -> tuple[Outcome, str]:
    """Return what became of a mutation, and the test that noticed it or what is wrong."""
    try:
        path = mutation.path(tree)
    except ValueError as error:
        return Outcome.BROKEN, str(error)
    with _replaced(path, mutation):
        code, output = _tests(tree, [f"tests/{name}" for name in mutation.tests])
    if code == 0:
        return Outcome.SURVIVED, ""
    if code != 1:
        return Outcome.BROKEN, f"pytest ended with {code}:\n{output[-2000:]}"
    failed = re.findall(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", output, re.MULTILINE)
    if not failed:
        return Outcome.NOTICED, "the tests do not end"
    if _tests(tree, failed)[0] != 0:
        return Outcome.BROKEN, f"{failed[0]} fails without it, too"
    return Outcome.NOTICED, failed[0]


@contextlib.contextmanager
def _replaced(path: Path, mutation: Mutation) -> Iterator[None]:
    text = path.read_text()
    path.write_text(text.replace(mutation.old, mutation.new))
    try:
        yield
    finally:
        path.write_text(text)


def _tests(tree: Path, names: Sequence[str]) -> tuple[int, str]:
    """Run tests of the copy on the package of the copy; return pytest's exit code and output."""
    # Bytecode is compared by time and size of the source, which two mutations may share.
    env = os.environ | {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", f"--timeout={_TEST_TIMEOUT}"]
    # A slow test notices some that the gate does not.
    command += ["-m", "not scale and not crash_points and not chromium"]
    try:
        done = subprocess.run(
            [*command, *names], cwd=tree, env=env, capture_output=True, text=True, timeout=_TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        return 1, ""
    return done.returncode, done.stdout + done.stderr


if __name__ == "__main__":
    sys.exit(main())
