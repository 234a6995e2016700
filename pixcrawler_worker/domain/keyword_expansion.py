"""Further searches for the keywords of a job: synonyms, from a table of the user, and variants, by templates."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from pixcrawler_worker.domain.keywords import MAX_KEYWORDS, Keyword, keyword_text
from pixcrawler_worker.domain.naming import nearest
from pixcrawler_worker.domain.stored_json import quoted
from pixcrawler_worker.errors import PermanentError

#: Templates of a job, and synonyms of a keyword.
MAX_VARIANTS, MAX_SYNONYMS = 20, 100
_PLACEHOLDER = "{keyword}"
_BRACES = re.compile(r"\{[^{}]*\}|[{}]")
#: Keywords that a message names.
_MAX_NAMED = 10


def check_template(text: str) -> str:
    """Return a template for variants, such as `{keyword} close-up`.

    Raises:
        ValueError: when `{keyword}` is not in it, or anything else in braces; the message says what is expected.
    """
    for found in _BRACES.findall(text):
        if len(found) == 1:
            raise ValueError(f"expected {_PLACEHOLDER}, got a single {found} in {quoted(text)}")
        if found != _PLACEHOLDER:
            raise ValueError(f"there is no placeholder {found[:40]}; the only one is {_PLACEHOLDER}")
    if _PLACEHOLDER not in text:
        raise ValueError(f"expected {_PLACEHOLDER} in it, in whose place each keyword is put, got {quoted(text)}")
    return text


def expanded(
    keywords: Sequence[Keyword], *, variants: Sequence[str] = (), synonyms: Mapping[str, Sequence[str]]
) -> tuple[Keyword, ...]:
    """Return the keywords with what else is searched for each: its synonyms, and then its variants.

    The variants are of the keyword as it is, not of its synonyms, which may be of other languages. What a keyword of
    the same class is searched for already is left out, in whatever case.

    Args:
        keywords: of the job.
        variants: templates that were checked.
        synonyms: further searches by keyword, or by label.

    Raises:
        PermanentError: when a synonym is of no keyword or belongs to another class, or when there are too many.
    """
    of_keywords = _by_keyword(keywords, synonyms)
    searches = _Searches(keywords)
    found = [
        replace(
            keyword,
            expansions=(
                *searches.synonyms(keyword, of_keywords.get(keyword, ())),
                *searches.variants(keyword, variants),
            ),
        )
        for keyword in keywords
    ]
    count = sum(len(keyword.queries) for keyword in found)
    if count > max(MAX_KEYWORDS, len(keywords)):
        raise PermanentError(
            f"options: {len(keywords)} keywords with their variants and synonyms are {count} searches; at most "
            f"{MAX_KEYWORDS} are allowed"
        )
    return tuple(found)


class _Searches:
    """What is searched for which class so far, in whatever case."""

    def __init__(self, keywords: Sequence[Keyword]) -> None:
        self._labels: dict[str, str] = {}
        self._known: set[tuple[str, str]] = set()
        for keyword in keywords:
            self._add(keyword.query, keyword.label)

    def synonyms(self, keyword: Keyword, texts: Iterable[str]) -> Iterator[str]:
        """Yield those that are not searched for the class yet.

        Raises:
            PermanentError: when one is searched for another class.
        """
        for text in texts:
            is_new = self._add(text, keyword.label)
            other = self._labels[text.casefold()]
            if is_new and other != keyword.label:
                raise PermanentError(
                    f"options.synonyms: {quoted(text)} of {quoted(keyword.query)} is searched for {quoted(other)}, "
                    "too, and an image has one label"
                )
            if is_new:
                yield text

    def variants(self, keyword: Keyword, templates: Sequence[str]) -> Iterator[str]:
        """Yield those that are not searched for any class yet: what another class is searched for is no variant."""
        for number, template in enumerate(templates):
            where = f"options.variants[{number}] with {quoted(keyword.query)}"
            text = keyword_text(template.replace(_PLACEHOLDER, keyword.query), where)
            if self._labels.get(text.casefold(), keyword.label) == keyword.label and self._add(text, keyword.label):
                yield text

    def _add(self, text: str, label: str) -> bool:
        """Note a search; return whether it is new for the class."""
        search = text.casefold(), label
        is_new = search not in self._known
        self._known.add(search)
        self._labels.setdefault(text.casefold(), label)
        return is_new


def _by_keyword(keywords: Sequence[Keyword], synonyms: Mapping[str, Sequence[str]]) -> dict[Keyword, list[str]]:
    """Return the synonyms of each keyword; those of a label belong to its first one."""
    # The first one of each.
    by_query = {keyword.query: keyword for keyword in reversed(keywords)}
    by_label = {keyword.label: keyword for keyword in reversed(keywords)}
    found: dict[Keyword, list[str]] = {}
    for name, texts in synonyms.items():
        key = keyword_text(name, "options.synonyms: a keyword")
        if (keyword := by_query.get(key) or by_label.get(key)) is None:
            hint = _hint(key, [one.query for one in keywords])
            raise PermanentError(f"options.synonyms: there is no keyword {quoted(key)} in the job, {hint}")
        found.setdefault(keyword, []).extend(keyword_text(text, f"options.synonyms of {quoted(key)}") for text in texts)
    return found


def _hint(key: str, listed: Sequence[str]) -> str:
    if near := nearest(key, listed):
        return f"did you mean {quoted(near)}?"
    more = f" and {len(listed) - _MAX_NAMED} others" if len(listed) > _MAX_NAMED else ""
    return f"which has {', '.join(map(quoted, listed[:_MAX_NAMED]))}{more}"
