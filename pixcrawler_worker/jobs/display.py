"""How the jobs of a kind are shown: `pixcrawler jobs show` and `watch` print what the kind's display returns."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias

from pixcrawler_worker.db.job_views import View
from pixcrawler_worker.db.session import Session

#: A label, and the lines that are printed next to it.
Row: TypeAlias = tuple[str, Sequence[str]]


def _no_urls(job: object) -> list[str]:
    """Return nothing: jobs of the kind have no results with a URL."""
    del job
    return []


@dataclass(frozen=True, slots=True, kw_only=True)
class JobDisplay(Generic[View]):
    """How the jobs of one kind are shown. All texts are plain: the command line escapes them.

    Attributes:
        view: the columns that are read.
        listed_by: the command that lists jobs of the kind.
        details: returns what else is read for a job, with JSON's types only, as `--json` prints it.
        rows: returns the rows that the kind adds to the table of `jobs show`, from the view and the details.
        outcome: returns lines about the result of a job that has ended.
        urls: returns URLs to print on lines of their own, where they can be copied.
    """

    view: type[View]
    listed_by: str
    details: Callable[[Session, View], dict[str, Any]]
    rows: Callable[[View, Mapping[str, Any]], list[Row]]
    outcome: Callable[[Session, View], list[str]]
    urls: Callable[[View], list[str]] = _no_urls


#: A display whose view does not matter, as the command line sees it.
AnyJobDisplay: TypeAlias = JobDisplay[Any]


def counts(by_name: Mapping[str, int]) -> list[str]:
    """Return aligned lines of counts with their names."""
    return [f"{count:>6}  {name}" for name, count in by_name.items()]
