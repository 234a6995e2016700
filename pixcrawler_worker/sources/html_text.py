"""The visible text of a piece of HTML, in time that grows with its length and no faster.

The standard library's parser takes quadratic time for some texts in Python 3.11, and an error for others. Texts of
providers are short, and need no tree: elements that are not shown are left out with what is in them, and what is not
closed ends with the text, as in browsers.
"""

import html
import re
from collections import Counter
from collections.abc import Mapping

#: Elements that are not shown, that stand on a line of their own, and that have no end tag.
_UNSEEN = frozenset({"style", "script", "template", "head", "title", "noscript"})
_BREAKS = frozenset({"br", "div", "p", "li", "ul", "ol", "tr", "td", "th", "table", "hr", "dd", "dt"})
_VOID = frozenset(
    {"br", "hr", "img", "input", "link", "meta", "wbr", "area", "base", "col", "embed", "source", "track"}
)
#: Elements whose content is no HTML, with their ends.
_RAW = {name: re.compile(rf"</{name}(?=[\s/>])", re.IGNORECASE) for name in ("script", "style")}
_NAME = re.compile(r"</?([A-Za-z][^\s/>]*+)")
#: The rest of a tag. None of its parts can match in two ways, so that nothing is tried twice.
_REST = re.compile(r"""(?:[^>=]++|=\s*+(?:"[^"]*+"|'[^']*+')?+)*+>""")
_ATTRIBUTE = re.compile(r"""([^\s/>=]++)(?:\s*+=\s*+("[^"]*+"|'[^']*+'|[^\s>]*+))?+""")
_MAY_HIDE = re.compile("hidden|style", re.IGNORECASE)
#: References to characters with more digits than any character has: Python does not read the number.
_LONG_REFERENCE = re.compile(r"&#(?:[0-9]{9,}|[xX][0-9a-fA-F]{9,});?")


def visible_text(source: str, *, max_length: int) -> str:
    """Return the text of a piece of HTML as a browser shows it, in one line.

    Args:
        source: the HTML.
        max_length: characters of it that are read.
    """
    found = _Text()
    source = source[:max_length]
    at = 0
    while at < len(source):
        start = source.find("<", at)
        if start < 0:
            start = len(source)
        found.add(source[at:start])
        tag = _NAME.match(source, start)
        if tag is None:
            end = _end_of_other(source, start)
            if end is None:
                # An angle bracket that begins nothing.
                found.add("<" if start < len(source) else "")
            at = end or start + 1
            continue
        rest = _REST.match(source, tag.end())
        if rest is None:
            break
        at = rest.end()
        name = tag[1].lower()
        if source[start + 1] == "/":
            found.close(name)
        else:
            found.open(name, rest[0])
            if name in _RAW:
                closing = _RAW[name].search(source, at)
                at = len(source) if closing is None else closing.start()
    return found.line()


class _Text:
    """The text that was shown so far."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        # Open elements below the first one that is not shown, that one included, and how many there are of each.
        self._hidden: list[str] = []
        self._counts: Counter[str] = Counter()

    def add(self, text: str) -> None:
        if not self._hidden:
            self._parts.append(text)

    def open(self, name: str, rest: str) -> None:
        if name in _BREAKS:
            self.add(" ")
        if name not in _VOID and (self._hidden or name in _UNSEEN or _is_hidden(rest)):
            self._hidden.append(name)
            self._counts[name] += 1

    def close(self, name: str) -> None:
        if name in _BREAKS:
            self.add(" ")
        if self._counts[name]:
            # Elements that were not closed end with the one around them.
            while (closed := self._hidden.pop()) != name:
                self._counts[closed] -= 1
            self._counts[name] -= 1

    def line(self) -> str:
        text = _LONG_REFERENCE.sub("\N{REPLACEMENT CHARACTER}", "".join(self._parts))
        return " ".join(html.unescape(text).split())


def _end_of_other(source: str, start: int) -> int | None:
    """Return the end of a comment, a declaration or an instruction; None when there is none of them."""
    if source.startswith("<!--", start):
        end = source.find("-->", start + 2)
        return len(source) if end < 0 else end + 3
    if source.startswith(("<!", "<?", "</"), start):
        end = source.find(">", start)
        return len(source) if end < 0 else end + 1
    return None


def _is_hidden(rest: str) -> bool:
    if not _MAY_HIDE.search(rest):
        return False
    attributes: Mapping[str, str] = {
        found[1].lower(): (found[2] or "").strip("\"'") for found in _ATTRIBUTE.finditer(rest)
    }
    style = "".join(html.unescape(attributes.get("style", "")).split()).lower()
    return "hidden" in attributes or "display:none" in style or "visibility:hidden" in style
