"""Reading the keywords of a crawl job's row."""

import hashlib
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass

from pixcrawler_worker.domain.postgres_types import MAX_INT4
from pixcrawler_worker.domain.safe_text import normalized
from pixcrawler_worker.domain.stored_json import quoted
from pixcrawler_worker.errors import PermanentError

#: Characters of a keyword: the limit of Openverse, the strictest provider, which cuts longer ones without an error.
MAX_KEYWORD_LENGTH = 200
#: The same with characters that are left out, such as spaces.
_MAX_RAW_LENGTH = 10 * MAX_KEYWORD_LENGTH
#: Keywords of a job: the chunks of one round.
MAX_KEYWORDS = 10_000
#: Characters that are seen only by what they do to those beside them, in several languages and in emoji: joiners,
#: and selectors of variants.
_JOINERS, _VARIANTS = "\u200c\u200d", "\ufe0e\ufe0f"
#: Invisible characters that Unicode counts among letters, marks and symbols.
_FILLERS = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
#: After a digit and a selector, the mark that makes a key of it.
_KEYCAP = "\u20e3"
#: Characters that are operators of full-text searches wherever they stand.
_OPERATORS = re.compile(r'["*?\\/:~|&(){}\[\]<>^]')
_EXPECTED = 'an array of strings, or of objects such as {"query": "red panda", "label": "panda", "max_images": 200}'


@dataclass(frozen=True, slots=True)
class Keyword:
    """One class of the dataset.

    Attributes:
        query: the text to search for.
        label: of the images.
        max_images: limit of the class; None for the limit of the job alone.
        expansions: further texts to search for.
    """

    query: str
    label: str
    max_images: int | None = None
    expansions: tuple[str, ...] = ()

    @property
    def queries(self) -> tuple[str, ...]:
        """All texts to search for, the keyword itself first."""
        return (self.query, *self.expansions)


def parse_keywords(raw: object) -> tuple[Keyword, ...]:
    """Return the keywords of a job's row, in order, without duplicates.

    Accepts `["cat"]`, `{"keywords": ["cat"]}` and objects with `query`, `label` and `max_images` in the array.

    Raises:
        PermanentError: for anything else; the message says what was expected, and where.
    """
    listed = raw.get("keywords") if isinstance(raw, Mapping) else raw
    if not isinstance(listed, list):
        raise PermanentError(f"keywords must be {_EXPECTED}, not {quoted(raw)}")
    if not listed:
        raise PermanentError(f"keywords is empty: give at least one keyword, as {_EXPECTED}")
    if len(listed) > MAX_KEYWORDS:
        raise PermanentError(f"keywords has {len(listed)} entries; at most {MAX_KEYWORDS} are allowed")
    found: dict[tuple[str, str], Keyword] = {}
    for position, entry in enumerate(listed):
        keyword = _keyword(entry, position)
        first = found.setdefault((keyword.query, keyword.label), keyword)
        if first != keyword:
            raise PermanentError(f"keywords[{position}] repeats {keyword.query!r} with another max_images")
    return tuple(found.values())


def _keyword(entry: object, position: int) -> Keyword:
    where = f"keywords[{position}]"
    if isinstance(entry, str):
        query = keyword_text(entry, where)
        return Keyword(query, query)
    if not isinstance(entry, Mapping) or "query" not in entry:
        raise PermanentError(f"{where} must be a string or an object with a query, not {quoted(entry)}")
    if unknown := sorted(set(entry) - {"query", "label", "max_images"}):
        raise PermanentError(f"{where} has the unknown key {quoted(unknown[0])}; known are query, label and max_images")
    cap = entry.get("max_images")
    if cap is not None and (not isinstance(cap, int) or isinstance(cap, bool) or not 1 <= cap <= MAX_INT4):
        raise PermanentError(f"{where}.max_images must be an integer from 1 to {MAX_INT4}, not {quoted(cap)}")
    query = keyword_text(entry["query"], f"{where}.query")
    return Keyword(query, keyword_text(entry.get("label", query), f"{where}.label"), cap)


def search_words(text: str) -> str:
    """Return a keyword without what full-text searches take for operators; nothing when it has nothing else.

    `-dog` excludes, `intitle:` and `insource:/.../` search other fields, `~`, `*`, `?` and `"` are patterns, AND, OR
    and NOT combine: https://www.mediawiki.org/wiki/Help:CirrusSearch, and the "simple query string" of Elasticsearch.
    """
    words = (word.lstrip("-!~+") for word in _OPERATORS.sub(" ", text).split())
    return " ".join(word.lower() if word in {"AND", "OR", "NOT"} else word for word in words if word)


def class_label(text: str) -> str | None:
    """Return the label that a text of any kind makes, written as the labels of keywords are; None when it makes none.

    Of a longer one than a keyword can be, the rest is a digest.
    """
    seen = "".join(one if unicodedata.category(one) not in {"Cc", "Cs"} else " " for one in text[:_MAX_RAW_LENGTH])
    label = ""
    while label != seen:  # what one pass removes may have kept another character visible
        label, seen = seen, " ".join(_without_invisible(normalized("NFC", seen)).split())
    if len(label) > MAX_KEYWORD_LENGTH or (label and len(text) > _MAX_RAW_LENGTH):
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
        label = f"{label[: MAX_KEYWORD_LENGTH - 9].strip()}-{digest}"
    return label or None


def _without_invisible(text: str) -> str:
    """Return a text without invisible characters, by which two labels that look alike would differ.

    Joiners and selectors stay where they can change how a word looks: between and after others than ASCII.
    """
    seen = [one for one in text if one not in _FILLERS and (unicodedata.category(one) != "Cf" or one in _JOINERS)]
    return "".join(
        one
        for one, before, after in zip(seen, [" ", *seen], [*seen[1:], " "], strict=False)
        if not (one in _JOINERS and (before.isascii() or after.isascii()))
        and not (one in _VARIANTS and before.isascii() and after != _KEYCAP)
    )


def keyword_text(value: object, where: str) -> str:
    """Return a text to search for as it is searched: normalized, with single spaces, without invisible characters.

    Raises:
        PermanentError: when it is no text, blank, or too long; the message begins with `where`.
    """
    if not isinstance(value, str):
        raise PermanentError(f"{where} must be a string, not {quoted(value)}")
    if len(value) > _MAX_RAW_LENGTH:
        raise PermanentError(f"{where} has {len(value)} characters; at most {MAX_KEYWORD_LENGTH} are allowed")
    text = " ".join(_without_invisible(normalized("NFC", value)).split())
    if not text:
        raise PermanentError(f"{where} is blank")
    if len(text) > MAX_KEYWORD_LENGTH:
        raise PermanentError(f"{where} has {len(text)} characters; at most {MAX_KEYWORD_LENGTH} are allowed")
    if any(unicodedata.category(character) in {"Cc", "Cs"} for character in text):
        raise PermanentError(f"{where} has control characters: {quoted(text)}")
    return text
