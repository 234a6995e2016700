"""Opt-outs of site owners in the headers of a response: X-Robots-Tag, and the TDM Reservation Protocol.

An X-Robots-Tag is a list of directives, which may be addressed: `noai, otherbot: noindex, nofollow` asks every crawler
`noai`, and only `otherbot` the rest. Anybody may send anything in it, so whatever cannot be read is passed over.
"""

import re

from multidict import MultiMapping

from pixcrawler_worker.domain.reasons import Reason, RejectedError

#: Directives by which an owner wants a file to be in no index and no training data. `none` is noindex and nofollow.
DIRECTIVES = frozenset({"noai", "noimageai", "noindex", "noimageindex", "noml", "none"})
#: Directives with a value after a colon, which looks like the name of a crawler before one.
_WITH_VALUE = frozenset({"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"})
#: Names by which every crawler is addressed; `robots` is that of the meta element in HTML.
_EVERYBODY = frozenset({"*", "robots"})
_SEPARATORS = re.compile("[,;]")
#: Headers of one name, and characters of each, that are read: more than any that means something.
_MAX_VALUES, _MAX_LENGTH = 100, 1 << 14


def check(headers: MultiMapping[str], url: str, *, agent: str) -> None:
    """Return when the owner of a file does not opt out.

    Args:
        headers: of the response, or of a redirect that leads to it.
        url: for the error.
        agent: product token of the User-Agent, in lower case: directives for other crawlers do not count.

    Raises:
        RejectedError: `OPTED_OUT` or `TDM_RESERVED`.
    """
    for value in headers.getall("X-Robots-Tag", ())[:_MAX_VALUES]:
        if directive := _opt_out(value[:_MAX_LENGTH], agent):
            raise RejectedError(Reason.OPTED_OUT, f"{url} has an X-Robots-Tag of {directive}")
    for value in headers.getall("TDM-Reservation", ())[:_MAX_VALUES]:
        if any(part.strip(" \t\"'") == "1" for part in _SEPARATORS.split(value[:_MAX_LENGTH])):
            raise RejectedError(Reason.TDM_RESERVED, f"{url} reserves text and data mining")


def _opt_out(value: str, agent: str) -> str | None:
    """Return the directive of an X-Robots-Tag that excludes a crawler; None when there is none."""
    addressed = "*"
    for part in _SEPARATORS.split(value.lower().replace('"', " ").replace("'", " ")):
        *names, words = (text.strip() for text in part.split(":"))
        for at, name in enumerate(names):
            if name in _WITH_VALUE:
                # After the first word of the value there are directives again, where the comma was forgotten.
                words = " ".join([*names[at + 1 :], words]).partition(" ")[2]
                break
            if _is_name(name):
                addressed = name.partition("/")[0]
        if (addressed in _EVERYBODY or addressed == agent) and (found := DIRECTIVES.intersection(words.split())):
            return min(found)
    return None


def _is_name(text: str) -> bool:
    """Return whether a text before a colon is the name of a crawler, and not a part of a date."""
    return text == "*" or (any(map(str.isalpha, text)) and not any(map(str.isspace, text)))
