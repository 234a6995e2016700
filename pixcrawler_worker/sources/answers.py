"""Reading the answers of providers with a JSON API: what their sources share."""

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence, Sized
from dataclasses import replace
from http import HTTPStatus
from typing import Any, TypeVar
from urllib.parse import quote, quote_plus

from pydantic import BaseModel, ValidationError

from pixcrawler_worker.domain.keywords import search_words
from pixcrawler_worker.errors import PermanentError, WorkerError
from pixcrawler_worker.masking import MASK
from pixcrawler_worker.sources.fields import text_of
from pixcrawler_worker.sources.protocol import Candidate, Query, Source
from pixcrawler_worker.web.http import ANSWERED_BY, HTTPStatusError, RequestError, Response, read_json, wants_a_pause

T = TypeVar("T", bound=BaseModel)
R = TypeVar("R")
S = TypeVar("S")

#: Characters of an error that are kept.
_MAX_ERROR = 300
#: Characters of what a provider says about a key.
_MAX_SAID = 150
#: Statuses of a response that rejects a key.
KEY_STATUSES = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})
_SILENT = "without a reason"
_TAG = re.compile(r"<[^>]*>")


def words(query: Query, name: str) -> str:
    """Return the words to search for, without operators.

    Args:
        query: what is searched.
        name: of the source, for the error.

    Raises:
        PermanentError: when there are none.
    """
    found = search_words(query.text)
    if not found:
        raise PermanentError(f"{name} cannot search for {query.text!r}: it has no words")
    return found


def key(source: Source, name: str) -> str:
    """Return the key that a source was configured with.

    Args:
        source: that needs one.
        name: of the source, for the error.

    Raises:
        PermanentError: when it has none, or what cannot be one; the message says what to set.
    """
    if source.config.api_key is None:
        raise PermanentError(f"{name} is not configured: {source.missing()}")
    return checked_key(source.config.api_key, name)


def checked_key(key: str, name: str) -> str:
    """Return a key that can be sent in a header and in a URL.

    Raises:
        PermanentError: when it has characters that no key has, such as spaces or typographic quotation marks.
    """
    if not all("!" <= character <= "~" for character in key):
        raise PermanentError(f"the key of {name} has characters that no key has{key_hint(name)}")
    return key


def hidden(text: str, *keys: str | None) -> str:
    """Return a text in which no key stands, as it is or quoted for a URL."""
    for key in filter(None, keys):
        for written in {key, quote(key, safe=""), quote_plus(key)}:
            text = text.replace(written, MASK)
    return text


def body(response: Response, name: str, *keys: str | None) -> Any:  # noqa: ANN401 - whatever the provider sends
    """Return the JSON of a response, whatever its status. That of a success is as it is, and no error has a key in it.

    Raises:
        httpx.HTTPStatusError: on status 429 and from 500 on.
        PermanentError: when the response is not JSON.
    """
    if response.is_success:
        with contextlib.suppress(PermanentError):
            return read_json(response, name)
    return read_json(without_key(response, *keys), name)


def without_key(response: Response, *keys: str | None) -> Response:
    """Return a response in which no key stands: some providers repeat it, and errors quote responses."""
    text = response.content.decode("utf-8", "surrogateescape")
    content = hidden(text, *keys).encode("utf-8", "surrogateescape")
    redirected = response.extensions.get(ANSWERED_BY)
    extensions = {ANSWERED_BY: hidden(redirected, *keys)} if redirected else {}
    if content == response.content and extensions == {**response.extensions}:
        return response
    headers = {name: response.headers[name] for name in ("Retry-After", "Date") if name in response.headers}
    return Response(
        response.status_code, headers=headers, content=content, request=response.request, extensions=extensions
    )


def read(response: Response, name: str, *, key: str | None = None) -> Any:  # noqa: ANN401 - whatever the provider sends
    """Return the JSON of a successful response.

    Args:
        response: of the provider.
        name: of the source.
        key: what the request was authorized with; it is in no error.

    Raises:
        httpx.HTTPStatusError: on status 429 and from 500 on.
        PermanentError: on any other status, and when the response is not JSON.
    """
    if key is not None and response.status_code in KEY_STATUSES:
        raise key_error(response, name, key)
    data = body(response, name, key)
    if response.is_success:
        return data
    raise PermanentError(f"{name} answered {response.status_code}: {said_in(data) or _SILENT}"[:_MAX_ERROR])


def key_error(response: Response, name: str, *keys: str | None) -> PermanentError:
    """Return the error for a response that rejects a key, whatever is in it.

    Args:
        response: of the provider.
        name: of the source.
        keys: that are not to be in the error.
    """
    try:
        said = said_in(body(response, name, *keys))
    except PermanentError:
        # A server before the API may answer in HTML, or nothing.
        text = without_key(response, *keys).content.decode("utf-8", "replace")
        said = " ".join(_TAG.sub(" ", text).split())
    return PermanentError(f"{name} answered {response.status_code}: {said[:_MAX_SAID] or _SILENT}{key_hint(name)}")


def key_hint(name: str) -> str:
    """Return the end of an error about the key of a source: which setting it is, and what to do."""
    setting = f"PIXCRAWLER_{name.upper().replace('-', '_')}_API_KEY"
    return f"; is {setting} right? Set a valid key, restart the workers, and retry the job"


def said_in(data: object, *, levels: int = 4) -> str:
    """Return what the body of an error says; nothing when it says nothing that can be read.

    Args:
        data: the body.
        levels: of arrays and objects that are looked at.
    """
    if isinstance(data, list | Mapping) and not levels:
        return ""
    if isinstance(data, list):
        return said_in(data[0], levels=levels - 1) if data else ""
    if not isinstance(data, Mapping):
        return " ".join((text_of(data) or "").split())
    known = ("message", "detail", "error", "errors", "reason", "code")
    return next(filter(None, (said_in(data[name], levels=levels - 1) for name in known if name in data)), "")


def parsed(model: type[T], data: object, name: str) -> T:
    """Return the answer to a search.

    Raises:
        PermanentError: when it is something else.
    """
    try:
        return model.model_validate(data)
    except ValidationError:
        raise PermanentError(
            f"{name} answered with something else than a search: is PIXCRAWLER_{name.upper()}_URL right?"
        ) from None


def parts(model: type[T], results: Iterable[object]) -> tuple[list[T], int]:
    """Return the results that are what they should be, and the number of the others."""
    found: list[T] = []
    invalid = 0
    for result in results:
        try:
            found.append(model.model_validate(result))
        except ValidationError:
            invalid += 1
    return found, invalid


def candidates(
    model: type[T], results: Iterable[object], made: Callable[[T], Candidate | None]
) -> tuple[tuple[Candidate, ...], int]:
    """Return the candidates among the results, and the number of the others: an odd one does not cost the rest.

    Args:
        model: of a result.
        results: as the provider has them.
        made: returns the candidate of a result; None where it has no image.
    """
    found, invalid = parts(model, results)
    offered = tuple(map(_with_scheme, filter(None, map(made, found))))
    return offered, invalid + len(found) - len(offered)


def _with_scheme(candidate: Candidate) -> Candidate:
    """Return a candidate whose URLs have a scheme: some providers leave it out, as pages may."""
    urls = [candidate.url, *candidate.alternates]
    if not any(url.startswith("//") for url in urls):
        return candidate
    url, *alternates = (f"https:{url}" if url.startswith("//") else url for url in urls)
    return replace(candidate, url=url, alternates=tuple(alternates))


def continues(results: Sized, query: Query, *, total: int | None, depth: int | None = None) -> bool:
    """Return whether there may be more after the page of a query.

    Args:
        results: of the page, as the provider has them.
        query: of the page.
        total: results of the search. One that is missing, or that the page itself is beyond, says nothing: then there
            may be more as long as a page has anything.
        depth: results that can be reached.
    """
    end = (query.page + 1) * query.page_size
    if depth is not None and end >= depth:
        return False
    if total is None or total < query.page * query.page_size + len(results):
        return len(results) > 0
    return end < total


async def details(
    results: Sequence[S], request: Callable[[S], Awaitable[R]], *, concurrency: int
) -> tuple[R | None, ...]:
    """Return what a request for each of the results brings, in their order; None for one that fails.

    A provider may have results that always fail: they do not cost the others. When more than a quarter fails, that is
    about the provider.

    Args:
        results: of a page.
        request: for one of them. Its other errors than those that follow are bugs.
        concurrency: requests at a time.

    Raises:
        httpx.HTTPStatusError, httpx.RequestError, TransientError, PermanentError: the first of too many, or one that
            says that the provider is to be left alone. Requests that were not sent by then are not sent.
    """
    turn, failed = asyncio.Semaphore(concurrency), list[Exception]()

    async def requested(result: S) -> R | None:
        async with turn:
            try:
                return await request(result)
            except (HTTPStatusError, RequestError, WorkerError) as error:
                failed.append(error)
                if wants_a_pause(error) or len(failed) > len(results) // 4:
                    raise
                return None

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(requested(result)) for result in results]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return tuple(task.result() for task in tasks)


def attribution(title: str | None, author: str | None, *others: str | None) -> str:
    """Return a line to print with an image, of what is known of it."""
    work = f"{title or 'Untitled'} by {author}" if author else title
    return ", ".join(filter(None, (work, *others)))
