"""Planning, topping up and ending a crawl job."""

import itertools
from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

from pixcrawler_worker.crawl.lists.stored import StoredList
from pixcrawler_worker.crawl.options import CrawlOptions, in_row, parse, recorded
from pixcrawler_worker.db import crawl_history, crawls, extensions
from pixcrawler_worker.db.crawls import CrawlRequest
from pixcrawler_worker.db.ledger import chunk_results
from pixcrawler_worker.db.ledger.tables import JobRef
from pixcrawler_worker.db.session import Session
from pixcrawler_worker.domain import crawl_planning, keyword_expansion, list_rows
from pixcrawler_worker.domain.crawl_chunks import CrawlChunk
from pixcrawler_worker.domain.crawl_history import CrawlHistory, Search
from pixcrawler_worker.domain.crawl_planning import SourceLimits
from pixcrawler_worker.domain.keywords import parse_keywords
from pixcrawler_worker.domain.lifecycle import Counters, job_status
from pixcrawler_worker.domain.messages import Task
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.jobs.kind import Chunks, Conclusion
from pixcrawler_worker.runtime import Runtime, SearchRuntime
from pixcrawler_worker.sources import protocol

#: What planning needs of a runtime: its settings and its sources.
AnyRuntime: TypeAlias = Runtime | SearchRuntime
#: The source that takes the URL list of a job.
URLS = "urls"


def record_request(runtime: Runtime, session: Session, ref: JobRef, options: object) -> None:
    """Record the options of a job that is not planned yet: those of the message, of its request, or in its row.

    The first of them that has any is taken. Without any, those that were recorded before stay.

    Raises:
        PermanentError: when they are invalid.
    """
    known = crawls.recorded_options(session, ref.id)
    # Read whatever is taken: a mistake in the row is an error, with a message as without.
    of_row = in_row(crawls.keywords(session, ref.id))
    if options:
        record_options(runtime, session, ref.id, parse(options))
    elif known is None or (known.as_given and known.options == {}):
        record_options(runtime, session, ref.id, of_row or parse({}))
    elif known.as_given:
        record_options(runtime, session, ref.id, parse(known.options))


def differing(session: Session, ref: JobRef, options: object) -> str | None:
    """Return which of the options in a message differ from the recorded ones, or those in the row; None when none does.

    Options that the message does not name have their default values. Without other options nothing differs.
    """
    known = crawls.recorded_options(session, ref.id)
    if not options:
        return None
    try:
        if known is not None and not known.as_given:
            recorded_before, rows = known.options, crawls.listed(session, ref.id)
        else:
            of_row = in_row(crawls.keywords(session, ref.id))
            if known is None and of_row is None:
                return None
            before = parse(known.options) if known and known.options != {} else of_row or parse({})
            recorded_before, rows = recorded(before), before.rows()
        given = parse(options)
    except PermanentError as error:
        return str(error)
    # The size that a job has got by the settings is recorded as if it had been given.
    sizes = {"chunk_size": recorded_before.get("chunk_size")} if given.chunk_size is None else {}
    now = {**sizes, **recorded(given)}
    then = {"chunk_size": None, **recorded_before}
    names = {name for name in now.keys() | then.keys() if now.get(name) != then.get(name)}
    if any(one != other for one, other in itertools.zip_longest(given.rows(), rows)):
        names.add("urls")
    return ", ".join(sorted(names)) or None


def overtaken(session: Session, ref: JobRef, options: object) -> bool:
    """Return whether a job was started without options, and keep those of a message that came too late for it."""
    known = crawls.recorded_options(session, ref.id)
    if known is None or known.as_given or known.options.keys() - {"chunk_size"} or crawls.has_list(session, ref.id):
        return False
    crawls.record_overtaken(session, ref.id, options)
    return True


def record_options(
    runtime: Runtime, session: Session, job_id: int, options: CrawlOptions, listed: StoredList | None = None
) -> None:
    """Record the options of a job that is not planned yet, in place of those that were recorded before.

    Args:
        runtime: has the settings.
        session: of the transaction.
        job_id: the crawl job.
        options: of the job.
        listed: its URL list; None for the one in its options.
    """
    page_size = options.chunk_size or runtime.settings.chunk_size
    crawls.record_request(
        session,
        job_id,
        options=recorded(options) | {"chunk_size": page_size},
        pages=list_rows.pages(options.rows(), page_size) if listed is None else listed.pages(page_size),
    )


def plan(runtime: Runtime, session: Session, ref: JobRef) -> Chunks:
    """Return the first round of a pending job. The caller holds its lock.

    Raises:
        PermanentError: when its row or its options are invalid.
    """
    request = crawls.load(session, ref.id)
    options = parse(request.options)
    round_ = next_round(runtime, request, options, CrawlHistory())
    extensions.record(session, ref.id, options.extends)
    crawls.next_round(session, ref.id)
    sources_used = sorted({chunk.source for chunk in round_})
    return Chunks(
        [chunk.to_json() for chunk in round_],
        {"chunks": len(round_), "max_images": request.max_images, "sources": sources_used},
    )


def conclude(runtime: Runtime, session: Session, ref: JobRef, counters: Counters) -> Chunks | Conclusion:
    """Return another round for a job that is short of images, or its end. The caller holds its lock."""
    if not crawls.is_recorded(session, ref.id):
        return Conclusion.never_planned(Task.CRAWL_START)
    request = crawls.load(session, ref.id)
    try:
        options = parse(request.options)
        history = crawl_history.sum_up(session, ref.id, round_=request.round)
        round_ = next_round(runtime, request, options, history, _gone(session, ref.id, request, history))
    except PermanentError as error:
        # The row or the configuration changed under the job: it ends with what it has.
        return _end(session, ref, counters, request, reason=str(error))
    if round_ and request.round < options.max_rounds + history.free_rounds(list_source=URLS):
        crawls.next_round(session, ref.id)
        return Chunks([chunk.to_json() for chunk in round_])
    return _end(session, ref, counters, request)


def _end(
    session: Session, ref: JobRef, counters: Counters, request: CrawlRequest, *, reason: str | None = None
) -> Conclusion:
    details: dict[str, Any] = {
        "images": request.valid_images,
        "wanted": request.max_images,
        "chunks": {"completed": counters.completed, "failed": counters.failed},
        "reasons": crawl_history.reasons(session, ref.id),
        "errors": chunk_results.errors(session, ref),
    }
    if reason:
        details["reason"] = reason
    return Conclusion(job_status(counters), details=details)


def next_round(
    runtime: AnyRuntime,
    request: CrawlRequest,
    options: CrawlOptions,
    history: CrawlHistory,
    gone: Mapping[Search, int] = MappingProxyType({}),
) -> tuple[CrawlChunk, ...]:
    """Return the chunks of the next round; none when the job has its images, or nothing is left to request.

    Args:
        runtime: has the sources.
        request: the job.
        options: of the job.
        history: of earlier rounds.
        gone: images of each search that were deleted, or found invalid.

    Raises:
        PermanentError: when the row or the options are invalid.
    """
    if request.max_images < 1:
        raise PermanentError(f"max_images must be above 0, not {request.max_images}")
    keywords = parse_keywords(request.keywords)
    if request.url_pages and len(keywords) > 1:
        raise PermanentError(f"a URL list has one label, but the job has {len(keywords)} keywords: give it one")
    limits = source_limits(runtime, request, options)
    expands = "variants" if options.variants else "synonyms" if options.synonyms else None
    if expands and all(one.is_list for one in limits.values()):
        raise PermanentError(f"options.{expands}: nothing is searched for a URL list, so leave them out")
    return crawl_planning.next_round(
        keywords=keyword_expansion.expanded(keywords, variants=options.variants, synonyms=options.synonyms),
        sources=limits,
        max_images=request.max_images,
        history=history,
        gone=gone,
    )


def _gone(session: Session, job_id: int, request: CrawlRequest, history: CrawlHistory) -> Mapping[Search, int]:
    """Return how many images of each search were deleted, or found invalid."""
    if history.stored <= request.valid_images:
        return {}
    valid = Counter(crawls.valid_by_search(session, job_id))
    gone = {}
    # An image may have another class than its search. Of a text that is searched for two classes, the first keeps them.
    for search, found in history.searches.items():
        query, _, source = search
        kept = min(found.stored, valid[query, source])
        valid[query, source] -= kept
        gone[search] = found.stored - kept
    return gone


def sources(runtime: AnyRuntime, options: CrawlOptions, *, has_urls: bool) -> tuple[str, ...]:
    """Return the names of the sources of the job: those in its options, or all that are ready and general."""
    if options.sources:
        return tuple(dict.fromkeys(options.sources))
    if has_urls:
        return (URLS,)
    others = ((name, runtime.source(name)) for name in protocol.SOURCES.installed() if name != URLS)
    return tuple(name for name, source in others if not source.specialized and not source.missing())


def source_limits(runtime: AnyRuntime, request: CrawlRequest, options: CrawlOptions) -> Mapping[str, SourceLimits]:
    """Return the limits of each source of the job.

    Raises:
        PermanentError: when a source is not installed or not configured, or when none is left.
    """
    size = options.chunk_size or runtime.settings.chunk_size

    def limits(name: str) -> SourceLimits:
        if name == URLS:
            return SourceLimits(size, request.url_pages, is_list=True)
        source = _requested_source(runtime, name)
        page_size = min(size, source.page_size or size)
        return SourceLimits(page_size, None if source.depth is None else source.depth // page_size)

    names = sources(runtime, options, has_urls=request.url_pages > 0)
    if not names:
        raise PermanentError("no source is configured: give the job a URL list, or configure a source")
    for name in names:
        if missing := _requested_source(runtime, name).missing():
            raise PermanentError(f"source {name!r} cannot be used: {missing}")
    if URLS in names and not request.url_pages:
        raise PermanentError("source 'urls' needs a list: give the option urls with at least one URL")
    return {name: limits(name) for name in names}


def _requested_source(runtime: AnyRuntime, name: str) -> protocol.Source:
    try:
        return runtime.source(name)
    except PermanentError as error:
        raise PermanentError(f"options.sources: {error}") from error
