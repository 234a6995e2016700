"""Downloading, inspecting and storing the candidates of a chunk, many at a time, each for itself."""

import asyncio
import contextlib
import functools
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import timedelta
from enum import Enum

import structlog

from pixcrawler_worker.crawl.candidate_queue import CandidateQueue
from pixcrawler_worker.crawl.options import CrawlOptions
from pixcrawler_worker.crawl.planner import URLS
from pixcrawler_worker.crawl.progress import CrawlProgress, CrawlWork, Offer, Pause
from pixcrawler_worker.db import known_images
from pixcrawler_worker.db.images import NewImage
from pixcrawler_worker.db.known_images import Known
from pixcrawler_worker.db.ledger import fairness
from pixcrawler_worker.db.session import Session, transact
from pixcrawler_worker.domain import licenses, storage_keys
from pixcrawler_worker.domain.checks import Metrics
from pixcrawler_worker.domain.facts import ImageFacts
from pixcrawler_worker.domain.reasons import PASSING, Reason, RejectedError
from pixcrawler_worker.domain.retry import MAX_RETRY_AFTER, may_defer
from pixcrawler_worker.errors import TransientError, WorkerError
from pixcrawler_worker.runtime import Runtime
from pixcrawler_worker.sources.protocol import Candidate
from pixcrawler_worker.web import descriptors
from pixcrawler_worker.web.bodies import Body
from pixcrawler_worker.web.hosts import MAX_STRIKES, Cause, HostClosedError

log = structlog.get_logger()

#: Seconds before the only second attempt at a URL whose failure may pass.
_RETRY_SECONDS = 0.5
#: Downloads at a time beyond the images that are missing: they replace rejected candidates without a wait.
_SPARE_DOWNLOADS = 8
#: A download that takes longer than so many seconds does not keep others from beginning, up to so many times the usual
#: number.
_SLOW_SECONDS, _MAX_SLOW = 1.0, 4
#: A body that is slower than so many bytes a second after so many seconds comes after those that wait for its host.
_SLOW_BODY, _SLOW_BODY_SECONDS = 1000, 2.0
#: The same for a response that does not begin within so many seconds: twice as many after each, up to the last.
_FIRST_LATE_SECONDS, _MAX_LATE_SECONDS = 3.0, 10.0
#: Downloads at a time of a job whose rate is limited: one for each so many bytes in a second, and at least so many.
_RATE_PER_DOWNLOAD, _MIN_LIMITED = 50_000, 2
#: Seconds that downloads have for their end when the process stops.
_STOP_SECONDS = 5.0
#: Seconds between two looks at whether a chunk should stop.
_LOOK_SECONDS = 0.25
#: Seconds for which a chunk waits for its hosts itself: in any case, and if nothing else could use its process.
_MIN_IDLE_SECONDS, _MAX_IDLE_SECONDS = 0.75, 2.0
#: Closings in a row of a host that is down after which it is given up, if that has lasted long enough.
_MAX_DOWN = 2
#: When a host whose connections other workers use is asked for again: a URL list is at hand, others are searched again.
_BUSY_SECONDS, _BUSY_SECONDS_OF_SEARCH = 3.0, 20.0
#: A file that is gone, or that its host replaces with an image which says so: another size may be there.
_GONE = frozenset({Reason.NOT_FOUND, Reason.PLACEHOLDER})
#: How long the rest of a chunk waits after trouble of the storage, the operator's proxy or this process.
_TROUBLE = timedelta(seconds=5)


class _End(Enum):
    """What became of one download."""

    DONE = "the candidate became an image, or was rejected"
    SURPLUS = "the quota was met meanwhile: it is a leftover"
    AGAIN = "it has to be tried again"


class Downloading:
    """The downloads of one attempt.

    Args:
        runtime: connects to everything.
        work: what the attempt has to do.
        progress: what it brings is noted there.
        offers: the candidates.
        budget: seconds after which nothing new is begun.
    """

    def __init__(
        self, runtime: Runtime, work: CrawlWork, progress: CrawlProgress, offers: Sequence[Offer], *, budget: float
    ) -> None:
        self._runtime, self._work, self._progress, self._budget = runtime, work, progress, budget
        self._hosts = runtime.downloader.hosts
        self._slots = runtime.downloader.slots
        self._queue = CandidateQueue(offers, self._hosts)
        self._running: dict[asyncio.Task[_End], tuple[Offer, float]] = {}
        #: Downloads that have ended, until `_finish` has seen to them.
        self._done: list[asyncio.Task[_End]] = []
        self._any_done = asyncio.Event()
        self._left: list[Offer] = []
        self._late_seconds: dict[str | None, float] = {}
        options = work.options
        self._pace = runtime.downloader.pace(
            f"crawl:{work.claim.job.id}", limit_rate=options.limit_rate, wait=options.wait
        )
        # More would only wait for each other, and all end late.
        self._concurrency = runtime.settings.fetch_concurrency
        if options.limit_rate is not None:
            self._concurrency = min(self._concurrency, max(_MIN_LIMITED, options.limit_rate // _RATE_PER_DOWNLOAD))
        # Without spare ones, every download that succeeds is an image: which ones are begun does not depend on time.
        self._spare = 0 if options.reproducible else _SPARE_DOWNLOADS
        self._begun = self._ended = self._look_at = time.monotonic()
        self._stop_at = math.inf

    async def run(self) -> None:
        """Try the candidates until the quota is met, or until the rest has to wait; note the leftovers or the rest.

        Raises:
            TransientError: trouble of the storage, the operator's proxy or this process, before anything was done.
            PermanentError: such trouble that does not pass.
        """
        pause: Pause | None = None
        try:
            pause = await self._run()
        except BaseException:
            self._progress.downloaded.clear()
            raise
        finally:
            # The quota is met, or something failed: downloads are cancelled. What the decoder already has is awaited,
            # because cancelling would end the process of the decoder.
            for task, (offer, _) in self._running.items():
                if offer.position not in self._progress.downloaded:
                    task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)
        late = [
            offer
            for task, (offer, _) in self._running.items()
            if task.cancelled() or task.exception() is not None or task.result() is not _End.DONE
        ]
        rest = tuple(sorted(offer.position for offer in [*self._left, *late, *self._queue]))
        if pause is None or len(self._progress.images) >= self._work.quota:
            self._progress.left = rest
        elif rest:
            self._progress.pause = Pause(rest, pause.delay, pause.waiting, pause.deferred, pause.yielded)

    async def _run(self) -> Pause | None:
        """Return why the rest has to wait; None when the quota is met or nothing is left."""
        await self._hosts.look(sorted(self._queue.by_host()))
        while len(self._progress.images) < self._work.quota:
            now = time.monotonic()
            self._begin(now)
            if not self._running:
                if not len(self._queue):
                    return None
                if pause := await self._pause(now):
                    return pause
                continue
            done = await self._next_done()
            try:
                for task in done:
                    self._finish(task)
                self._runtime.show_progress(len(self._progress.images))
            except TransientError as error:
                if not (self._progress.images or self._progress.rejections):
                    raise
                log.warning("the rest of the chunk is put off", reason=str(error))
                return Pause((), _TROUBLE)
            now = time.monotonic()
            self._ended = now if done else self._ended
            self._postpone_slow(now)
            if pause := await self._interruption(now, is_idle=not done):
                return pause
        return None

    async def _next_done(self) -> Sequence[asyncio.Task[_End]]:
        """Wait a moment for downloads to end; return those that have.

        Unlike `asyncio.wait`, it takes as long for many downloads as for one.
        """
        if not self._done:
            self._any_done.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._any_done.wait(), _LOOK_SECONDS)
        done, self._done = self._done, []
        return done

    def _note_done(self, task: asyncio.Task[_End]) -> None:
        self._done.append(task)
        self._any_done.set()

    async def _interruption(self, now: float, *, is_idle: bool) -> Pause | None:
        """Return why the rest has to wait although it could be tried; None when it need not."""
        if self._runtime.is_stopping():
            # What runs may end soon. The rest costs no attempt.
            self._stop_at = min(self._stop_at, now + _STOP_SECONDS)
            return Pause((), deferred=True) if now >= self._stop_at else None
        # Without one that ended, a later attempt would get no further.
        if self._ended > self._begun and now - self._begun > self._budget:
            return Pause(())
        if is_idle and await self._should_yield(now - self._ended):
            return Pause((), yielded=True)
        return None

    def _begin(self, now: float) -> None:
        """Begin as many downloads as there is room for, and say if this process has room for another chunk."""
        if self._runtime.is_stopping():
            return
        quick = self._begin_due(now)
        waiting = max(0, min(len(self._queue), self._progress.missing + self._spare - quick))
        self._slots.note(self._work.claim.fence, taken=quick, wanted=quick + waiting)
        # With a pace, slots are not what is short. A chunk that fetches nothing ends at once, and the transaction that
        # ends it takes the next one.
        if self._running and self._pace is None and self._slots.have_room():
            self._runtime.take_more()

    def _quick(self, now: float) -> int:
        """Return how many downloads hold a slot."""
        if self._work.options.reproducible:
            return len(self._running)
        is_limited = self._work.options.limit_rate is not None
        arrived = self._progress.downloaded
        return sum(
            now - since < _SLOW_SECONDS or offer.position in arrived or (is_limited and _has_begun(offer))
            for offer, since in self._running.values()
        )

    def _begin_due(self, now: float) -> int:
        """Begin the downloads that are due; return how many hold a slot."""
        concurrency = min(self._concurrency, self._slots.free(self._work.claim.fence))
        quick = self._quick(now)
        begun = Counter(
            offer.host
            for offer, since in self._running.values()
            if now - since < _SLOW_SECONDS and offer.position not in self._progress.downloaded
        )
        while quick < min(concurrency, self._progress.missing + self._spare):
            if len(self._running) >= concurrency * _MAX_SLOW or (offer := self._queue.next(now, begun)) is None:
                break
            task = asyncio.ensure_future(self._process(offer))
            task.add_done_callback(self._note_done)
            self._running[task] = offer, now
            begun[offer.host] += 1
            quick += 1
            if self._pace is not None and self._pace.wait and offer.host is not None:
                self._queue.delay(offer.host, now + self._pace.wait)
        return quick

    def _finish(self, task: asyncio.Task[_End]) -> None:
        offer, _ = self._running.pop(task)
        if task.cancelled():  # it was slow
            self._queue.put_back(offer)
            return
        try:
            end = task.result()
        except BaseException:
            self._queue.put_back(offer)
            raise
        match end:
            case _End.SURPLUS:
                self._left.append(offer)
            case _End.AGAIN:
                self._progress.downloaded.discard(offer.position)
                self._queue.put_back(offer)

    def _postpone_slow(self, now: float) -> None:
        """Stop a slow download for those that wait for a place at its host; it comes after them."""
        if now < self._look_at:
            return
        self._look_at = now + _LOOK_SECONDS
        contended = {offer.host for offer in self._queue if not offer.late}
        for task, (offer, since) in self._running.items():
            is_stoppable = not offer.late and offer.position not in self._progress.downloaded
            if is_stoppable and offer.host in contended and self._is_slow(offer, since, now):
                offer.late = True
                task.cancel()

    def _is_slow(self, offer: Offer, since: float, now: float) -> bool:
        if offer.body is not None and offer.body.begun is not None:
            seconds = now - offer.body.begun
            return seconds > _SLOW_BODY_SECONDS and offer.body.received < _SLOW_BODY * seconds
        limit = self._late_seconds.get(offer.host, _FIRST_LATE_SECONDS)
        if now - since <= limit:
            return False
        self._late_seconds[offer.host] = min(2 * limit, _MAX_LATE_SECONDS)
        return True

    async def _pause(self, now: float) -> Pause | None:
        """Decide what happens when no candidate can be tried now: wait a moment, or return what the rest waits for."""
        if self._runtime.is_stopping():
            return Pause((), deferred=True)
        await self._hosts.look(sorted(self._queue.by_host()))
        self._give_up_hosts()
        if not len(self._queue):
            return None
        wait = self._queue.wait(now)
        is_paced = self._pace is not None and self._pace.wait > 0 and self._work.chunk.source != URLS
        # Another attempt would search the source once more for the next image.
        least, most = (_BUSY_SECONDS_OF_SEARCH,) * 2 if is_paced else (_MIN_IDLE_SECONDS, _MAX_IDLE_SECONDS)
        is_long = wait > most or (wait > least and await self._is_needed())
        if is_long or now - self._begun > self._budget:
            causes = {closed.cause for host in self._queue.by_host() if (closed := self._hosts.closed(host))}
            return Pause((), timedelta(seconds=wait), dict(self._queue.by_host()), deferred=not causes)
        await asyncio.sleep(min(max(wait, 0.01), _LOOK_SECONDS))
        return None

    def _give_up_hosts(self) -> None:
        """Reject the candidates of hosts that are not waited for any more."""
        for host in self._queue.by_host():
            closed = self._hosts.closed(host)
            if closed is not None and (reason := self._given_up(closed)):
                for offer in self._queue.take_all(host):
                    self._progress.reject(offer, reason, str(closed))
                log.info("candidates rejected: their host is closed", host=host, reason=reason, detail=str(closed))

    def _given_up(self, closed: HostClosedError) -> Reason | None:
        """Return the reason for rejecting the candidates of a closed host; None while it is waited for."""
        is_last = not may_defer(self._work.claim.attempt)
        match closed.cause:
            case Cause.LIMITED if is_last or closed.strikes >= MAX_STRIKES or closed.wait > MAX_RETRY_AFTER:
                return Reason.RATE_LIMITED
            case Cause.DOWN if is_last or (closed.strikes >= _MAX_DOWN and closed.lasting >= self._work.patience):
                return Reason.HOST_UNAVAILABLE
            case _:
                return None

    async def _should_yield(self, stalled: float) -> bool:
        """Return whether other jobs wait for the process of a chunk that has been stalled for so many seconds."""
        if self._work.stall is None or stalled < self._work.stall:
            return False

        return await self._ask(functools.partial(fairness.others_wait, ref=self._work.claim.job))

    async def _is_needed(self) -> bool:
        """Return whether any other chunk could use the process of a chunk that only waits."""
        return await self._ask(fairness.any_waits)

    async def _ask(self, question: Callable[[Session], bool]) -> bool:
        def ask() -> bool:
            return self._runtime.requests_wait() or transact(self._runtime.sessions, question, pauses=())

        try:
            return await asyncio.to_thread(ask)
        except TransientError:
            return False

    async def _process(self, offer: Offer) -> _End:
        """Store or reject one candidate, or say that it has to be tried again.

        A bug that the candidate meets rejects it, and costs the others nothing. Trouble of the storage, of the
        operator's proxy or of this process is the chunk's.
        """
        try:
            with self._runtime.downloader.bodies.body(self._pace) as offer.body:
                return await self._try_sizes(offer, offer.body)
        except HostClosedError as closed:
            return self._wait_for(offer, closed)
        except RejectedError as error:
            if error.reason in PASSING and not offer.tries:
                offer.tries += 1
                offer.due = time.monotonic() + _RETRY_SECONDS
                return _End.AGAIN
            others = f"; {offer.gone} other sizes are gone" if offer.gone else ""
            self._progress.reject(offer, error.reason, error.detail + others, status=error.status)
            log.debug("candidate rejected", reason=error.reason, detail=str(error))
        except WorkerError:
            raise
        except Exception as error:
            if descriptors.is_own_limit(error):
                raise TransientError("this process or machine is out of open files or memory") from error
            self._progress.reject_internally(error, offer, source=self._work.chunk.source)
        return _End.DONE

    def _wait_for(self, offer: Offer, closed: HostClosedError) -> _End:
        """Let a candidate wait for the host that is closed, its own or one that it redirects to."""
        if reason := self._given_up(closed):
            self._progress.reject(offer, reason, str(closed))
            return _End.DONE
        if isinstance(closed.__cause__, RejectedError):
            # The host may not be to blame: this URL may be one that never answers.
            offer.tries += 1
            if offer.tries > 1:
                self._progress.reject(offer, closed.__cause__.reason, closed.__cause__.detail)
                return _End.DONE
        offer.host = closed.host
        if closed.cause is Cause.BUSY and self._hosts.limit(closed.host) is not None:
            is_listed = self._work.chunk.source == URLS
            offer.due = time.monotonic() + (_BUSY_SECONDS if is_listed else _BUSY_SECONDS_OF_SEARCH)
        elif closed.cause in {Cause.BUSY, Cause.ASKED, Cause.PACED}:
            offer.due = time.monotonic() + closed.wait.total_seconds()
        if closed.cause is Cause.PACED:
            self._queue.delay(closed.host, offer.due)
        return _End.AGAIN

    async def _try_sizes(self, offer: Offer, taken: Body) -> _End:
        """Try a candidate by the URL of one of its sizes; when that is gone, the next one is queued."""
        try:
            return await self._try(offer, taken)
        except RejectedError as error:
            if error.reason not in _GONE or not offer.next_url():
                raise
            log.debug("another size is tried", reason=error.reason, detail=error.detail)
            offer.host = self._runtime.downloader.host(offer.url)
            return _End.AGAIN

    async def _try(self, offer: Offer, taken: Body) -> _End:
        runtime, work, progress = self._runtime, self._work, self._progress
        check_candidate(offer.candidate, work.options)
        runtime.placeholders.check_url(offer.url)
        keep = self._queue.has(offer.host)
        with progress.timed(offer.host):
            fetched = await runtime.downloader.fetch(
                offer.url,
                keep=keep,
                taken=taken,
                respect_robots=work.options.respect_robots,
                respect_opt_outs=work.options.respect_opt_outs,
            )
        progress.downloaded.add(offer.position)
        progress.received += len(fetched.body)
        runtime.placeholders.check_url(fetched.url)
        # All that a validation measures, in the same pass: it need not decode the image again.
        facts, metrics = await runtime.decoder.measure(fetched.body)
        await self._check_placeholders(facts, fetched.body)
        _check_facts(facts, work.options)
        if work.skips_known:
            await self._check_known(facts)
        await _check_digest(offer, facts, progress)
        if progress.missing <= 0:
            return _End.SURPLUS
        with progress.reserve(facts.sha256):
            key = storage_keys.image_key(work.claim.job.id, offer.row.label or work.chunk.label, facts)
            await runtime.storage.put(key, fetched.body)
        progress.images[offer.position] = _new_image(work, offer, facts, metrics, storage_url=runtime.storage.url(key))
        return _End.DONE

    async def _check_placeholders(self, facts: ImageFacts, body: bytes) -> None:
        """Raise RejectedError when an image is a placeholder, by a hash of any version."""
        placeholders = self._runtime.placeholders
        placeholders.check_image(facts)
        if placeholders.may_be_of_another_version(facts):
            placeholders.check_image(await self._runtime.decoder.inspect(body))

    async def _check_known(self, facts: ImageFacts) -> None:
        """Raise RejectedError when another job has the same file; whether it still has none is decided at the end."""
        work = self._work

        def read(session: Session) -> Known:
            return known_images.known(
                session, work.claim.job.id, digests=[facts.sha256], of_project=work.options.skip_known
            )

        if (await asyncio.to_thread(transact, self._runtime.sessions, read)).digests:
            raise RejectedError(Reason.KNOWN_BYTES, "another job of the project has the same bytes")


def _has_begun(offer: Offer) -> bool:
    """Return whether a response to the download of a candidate has begun."""
    return offer.body is not None and offer.body.begun is not None


def check_candidate(candidate: Candidate, options: CrawlOptions) -> None:
    """Check what the source says of a candidate against the options, before it is downloaded.

    Raises:
        RejectedError: when it does not fit.
    """
    if not licenses.is_allowed(candidate.credit.license, options.licenses):
        raise RejectedError(Reason.LICENSE_NOT_WANTED, f"license {candidate.credit.license or 'unknown'}")
    if (candidate.width or options.min_width) < options.min_width:
        raise RejectedError(Reason.TOO_SMALL, f"its source says that it is {candidate.width} pixels wide")
    if (candidate.height or options.min_height) < options.min_height:
        raise RejectedError(Reason.TOO_SMALL, f"its source says that it is {candidate.height} pixels high")


def _check_facts(facts: ImageFacts, options: CrawlOptions) -> None:
    if options.formats is not None and facts.format not in options.formats:
        raise RejectedError(Reason.FORMAT_NOT_WANTED, facts.format)
    if facts.width < options.min_width or facts.height < options.min_height:
        raise RejectedError(Reason.TOO_SMALL, f"{facts.width}x{facts.height}")


async def _check_digest(offer: Offer, facts: ImageFacts, progress: CrawlProgress) -> None:
    if await progress.has(facts.sha256):
        progress.same_bytes.append((offer, facts.sha256))
        raise RejectedError(Reason.DUPLICATE_BYTES, "another URL has the same bytes")


def _new_image(work: CrawlWork, offer: Offer, facts: ImageFacts, metrics: Metrics, *, storage_url: str) -> NewImage:
    return NewImage(
        url=offer.url,
        url_hash=offer.url_hash,
        filename=storage_keys.image_filename(facts),
        storage_url=storage_url,
        facts=facts,
        label=offer.row.label or work.chunk.label,
        query=work.chunk.query,
        source=work.chunk.source,
        credit=offer.credit,
        metrics=metrics,
        caption=offer.row.caption,
        columns=offer.row.columns or None,
    )
