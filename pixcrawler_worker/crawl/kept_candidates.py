"""What is left over of a result page, kept with its chunk: another process goes on without a second search.

Providers count searches, and some have few of them a day. With a search that fails, what is left over would be lost.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

import structlog

from pixcrawler_worker.domain.facts import Credit
from pixcrawler_worker.domain.list_rows import ListRow
from pixcrawler_worker.domain.postgres_types import storable_json
from pixcrawler_worker.domain.stored_json import Fields, quoted
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.sources.protocol import Candidate

log = structlog.get_logger()

#: Characters of what is kept with a chunk; with more, the page is searched again.
_MAX_KEPT = 1_000_000
_CREDIT = tuple(one.name for one in fields(Credit))


def written(candidates: Sequence[Candidate], rows: Sequence[ListRow]) -> tuple[Mapping[str, Any], ...] | None:
    """Return candidates as JSON values; None when they cannot be kept.

    Args:
        candidates: as their source has them.
        rows: what is stored of each.
    """
    try:
        values = tuple(_value(candidate, row) for candidate, row in zip(candidates, rows, strict=True))
        size = len(json.dumps(values))
    except Exception as error:
        # A source of another package may offer anything.
        log.warning("candidates not kept: their page will be searched again", reason=repr(error), exc_info=True)
        return None
    return values if size <= _MAX_KEPT else None


def _value(candidate: Candidate, row: ListRow) -> Mapping[str, Any]:
    values: dict[str, Any] = {
        "url": candidate.url,
        "credit": {name: text for name, text in asdict(candidate.credit.bounded()).items() if text is not None},
        "width": candidate.width,
        "height": candidate.height,
        "use_url": candidate.use_url,
        "alternates": list(candidate.alternates),
        "details": row.details(),
    }
    value = {name: storable_json(one) for name, one in values.items() if one}
    # What would not come back is not kept: values of another type, and URLs that PostgreSQL does not store.
    if (again := read(value, "candidate").url) != candidate.url:
        raise PermanentError(f"candidate.url: stored as {quoted(again)}")
    return value


def read(value: Mapping[str, Any], where: str) -> Candidate:
    """Return a candidate that was kept.

    Raises:
        PermanentError: when the value is invalid; the message names the field.
    """
    given = Fields(value, where)
    row = ListRow.of(given.text("url"), value.get("details"))
    credit = given.object("credit") if given.has("credit") else Fields({}, where)
    return Candidate(
        url=row.url,
        credit=Credit(**{name: credit.text(name) for name in _CREDIT if credit.has(name)}),
        width=given.integer("width") if given.has("width") else None,
        height=given.integer("height") if given.has("height") else None,
        use_url=given.text("use_url") if given.has("use_url") else None,
        caption=row.caption,
        label=row.label,
        columns=row.columns,
        alternates=given.texts("alternates") if given.has("alternates") else (),
    )
