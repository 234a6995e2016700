"""Reading HTML reports: their tables, links and headings, and how they fit a screen."""

import base64
import html
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlsplit

from browser import look

#: HTML attributes that load a resource; `href` does so except in links that are clicked.
LOADING = {"src", "href", "srcset", "action", "data", "poster", "background", "formaction", "xlink:href"}
#: Elements without an end tag.
VOID = {"meta", "br", "wbr", "img", "input", "line", "rect"}
_MEASURE = """<script>
const frame = document.createElement("iframe");
frame.style = "border: 0; width: WIDTHpx; height: 900px";
frame.srcdoc = new TextDecoder().decode(Uint8Array.from(atob("BODY"), (c) => c.charCodeAt(0)));
frame.onload = () => {
  const seen = frame.contentDocument.documentElement;
  document.title = `${seen.scrollWidth} of ${seen.clientWidth}`;
};
document.body.append(frame);
</script>"""


@dataclass
class Document(HTMLParser):
    """The parts of an HTML document that matter in tests.

    Attributes:
        tables: counts by the names of their rows, by the headings of their sections; the last row is the sum.
        headings: levels, in their order.
        headers: of each table, the number of its columns and the `scope` of its `th` elements.
    """

    tags: list[str] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    handlers: list[str] = field(default_factory=list)
    attributes: list[tuple[str, str]] = field(default_factory=list)
    tables: dict[str, dict[str, int]] = field(default_factory=dict)
    headings: list[int] = field(default_factory=list)
    scopes: list[str | None] = field(default_factory=list)
    alts: list[str | None] = field(default_factory=list)
    open: list[str] = field(default_factory=list)
    text: str = ""
    _heading: str = ""
    _row: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        given = dict(attrs)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
            self._heading = ""
        elif tag == "th":
            self.scopes.append(given.get("scope"))
        elif tag == "img":
            self.alts.append(given.get("alt"))
        elif tag == "tr":
            self._row = []
        if tag in {"th", "td"}:
            self._row.append("")
        for name, value in attrs:
            self.attributes.append((name, value or ""))
            self.handlers += [name] if name.startswith("on") else []
            if tag == "a" and name == "href":
                self.links.append(value or "")
            elif name in LOADING:
                self.loaded.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes another element"
        if tag == "tr" and re.fullmatch(r"-?[0-9,]+", self._row[1]):
            rows = self.tables.setdefault(self._heading, {})
            assert self._row[0] not in rows, f"two rows of {self._heading} have one name"
            rows[self._row[0]] = int(self._row[1].replace(",", ""))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in VOID
        self.handle_starttag(tag, attrs)

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.open and re.fullmatch("h[1-6]", self.open[-1]):
            self._heading += data
        if {"th", "td"} & set(self.open):
            self._row[-1] += data


def parse(text: str) -> Document:
    """Read HTML."""
    found = Document()
    found.feed(text)
    found.close()
    assert found.open == []
    return found


def read(path: Path) -> Document:
    """Read a report."""
    return parse(path.read_text(encoding="utf-8").removeprefix("<!doctype html>"))


def harmless(found: Document) -> None:
    """No scripts run, nothing is loaded from outside, and links lead to files of the dataset or to the web."""
    assert not {"script", "iframe", "object", "embed", "link", "base", "form"} & set(found.tags)
    assert found.handlers == []
    assert all(url.startswith("data:image/jpeg;base64,") for url in found.loaded)
    for url in found.links:
        parts = urlsplit(url)
        assert parts.scheme in {"", "http", "https"}, url
        assert bool(parts.scheme) == bool(parts.netloc), url


def adds_up(found: Document) -> None:
    """The rows of every table sum to its last one."""
    assert found.tables
    for heading, rows in found.tables.items():
        *counts, total = rows.values()
        assert (list(rows)[-1], sum(counts)) == ("total", total), heading


def accessible(found: Document) -> None:
    """Headings have no gaps, tables have headers with a scope, images have a text."""
    assert found.headings[0] == 1
    assert found.headings.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(found.headings, found.headings[1:], strict=False))
    assert found.tags.count("table") == found.tags.count("thead") == len(found.tables)
    assert set(found.scopes) <= {"row", "col"}
    assert found.alts
    assert all(found.alts)
    assert ("lang", "en") in found.attributes
    assert found.tags.count("main") == 1


def fits(path: Path, folder: Path) -> None:
    """A report has no horizontal scroll bar on a phone, nor on a desktop."""
    # The policy of the report forbids scripts, and so would this one be.
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", path.read_text(encoding="utf-8"), count=1)
    for width in (360, 1280):
        measuring = folder / f"measuring-{width}.html"
        body = base64.b64encode(text.encode()).decode()
        script = _MEASURE.replace("WIDTH", str(width)).replace("BODY", body)
        measuring.write_text(f"<!doctype html><title>nothing</title><body>{script}</body>")
        seen = html.unescape(look(measuring.as_uri(), f"{path.stem}-{width}", width=width))
        found = re.search(r"<title>(\d+) of (\d+)</title>", seen)
        assert found, seen[:200]
        assert int(found[1]) <= int(found[2]) == width
