"""Rows of a list of what failed, as `pixcrawler jobs failures` writes it: URL lists with what they were made of."""

import json
from collections.abc import Mapping

from pixcrawler_worker.crawl.lists.plain_text import trimmed
from pixcrawler_worker.domain.list_rows import FAILED, FAILED_DETAILS, ListRow
from pixcrawler_worker.domain.tables import text_of

#: Columns that other lists have not all of.
_OWN = frozenset({"url", "reason", "retriable", "attempts"})
_ALL = frozenset({*FAILED, *FAILED_DETAILS})


def row_of(values: Mapping[str, object], number: int) -> ListRow | None:
    """Return the row that failed, without why it did, its URL empty where the job did not keep it.

    None for what is no row of such a list.
    """
    url, caption, label, columns = (values.get(name) for name in ("url", "caption", "label", "columns"))
    if not _OWN <= values.keys() <= _ALL or not isinstance(url, str | None):
        return None
    if isinstance(columns, str):  # a cell of a CSV file
        try:
            columns = json.loads(text_of(columns)) if columns else None
        except (ValueError, RecursionError):
            return None
    return ListRow(
        trimmed(url or ""),
        text_of(caption) if isinstance(caption, str) and caption else None,
        text_of(label) if isinstance(label, str) and label else None,
        dict(columns) if isinstance(columns, Mapping) else {},
        number,
    )
