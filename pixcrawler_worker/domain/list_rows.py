"""A row of a URL list: a URL with what the list says about its image."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pixcrawler_worker.domain import stored_json
from pixcrawler_worker.errors import PermanentError


@dataclass(frozen=True, slots=True)
class ListRow:
    """A row of a URL list.

    Attributes:
        url: without what lists have around it; it may be any text: each row is the trouble of its own candidate.
        caption: of the image; None for none.
        label: of the image; None for the label of the job.
        columns: the values of all other columns, in JSON, by name.
        number: of its line in the list, or of the row itself in formats without lines, from 1; 0 where it is not known.
    """

    url: str
    caption: str | None = None
    label: str | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)
    number: int = 0

    def details(self) -> dict[str, Any] | None:
        """Return what the row says besides its URL, as a JSON object; None for nothing."""
        details: dict[str, Any] = {}
        if self.caption is not None:
            details["caption"] = self.caption
        if self.label is not None:
            details["label"] = self.label
        if self.columns:
            details["columns"] = dict(self.columns)
        return details or None

    @classmethod
    def of(cls, url: str, details: object) -> "ListRow":
        """Return the row with that URL and those details.

        Raises:
            PermanentError: when they are no details; the message says what was expected.
        """
        if details is None:
            return cls(url)
        if not isinstance(details, Mapping):
            raise PermanentError(f"details of a row: expected an object, got {stored_json.quoted(details)}")
        caption, label, columns = (details.get(name) for name in ("caption", "label", "columns"))
        for name, value in (("caption", caption), ("label", label)):
            if not isinstance(value, str | None):
                raise PermanentError(f"details.{name} of a row: expected a string, got {stored_json.quoted(value)}")
        if not isinstance(columns, Mapping | None):
            raise PermanentError(f"details.columns of a row: expected an object, got {stored_json.quoted(columns)}")
        return cls(url, caption, label, columns or {})
