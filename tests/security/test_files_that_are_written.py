"""Every file that is written, with hostile text in every column, as people and programs open it."""

import csv
import html.parser
import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree as ET

import ledger
import pytest
import yaml
from export import exporting
from export.exporting import StoredImage, crawl_of, image_bytes, untarred, unzipped
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from ruamel.yaml import YAML
from security.hostile_text import (
    ANY_TEXT,
    READABLE,
    TEXTS,
    changes_of_a_terminal,
    formulas_in,
    texts_in,
    unsafe_in,
)

from pixcrawler_worker.crawl.lists import plain_text
from pixcrawler_worker.crawl.report import write_crawl_report
from pixcrawler_worker.db.exports import ExportRequest
from pixcrawler_worker.db.image_records import ImageRecord
from pixcrawler_worker.db.models import ExportJob
from pixcrawler_worker.domain import tables
from pixcrawler_worker.domain.list_columns import ColumnFacts, ListColumns
from pixcrawler_worker.domain.safe_text import safe, safe_url
from pixcrawler_worker.export import card, croissant, report
from pixcrawler_worker.export.kind import EXPORT
from pixcrawler_worker.export.plan import Plan
from pixcrawler_worker.export.summary import Summary
from pixcrawler_worker.exporters.protocol import LAYOUTS
from pixcrawler_worker.jobs import submission
from pixcrawler_worker.runtime import Runtime

#: What identifiers begin with that a card has without quotation marks.
LICENSE_STARTS = st.sampled_from(["cc-by", "cc0-", "cc-by-4.0"])
COLUMNS = (
    "page_url",
    "title",
    "author",
    "license",
    "license_url",
    "attribution",
    "query",
    "source",
    "label",
    "caption",
)


@pytest.fixture(scope="module")
def crawl(runtime: Runtime) -> int:
    """A crawl job whose rows have a hostile text in every column."""
    count = len(TEXTS) + len(READABLE)
    job = crawl_of(runtime, [StoredImage(image_bytes(number), label="cat") for number in range(count)])
    texts = [*TEXTS, *READABLE]
    with runtime.sessions.begin() as session:
        connection = session.connection()
        ids = [
            row[0]
            for row in connection.exec_driver_sql("SELECT id FROM images WHERE crawl_job_id = %s ORDER BY id", (job,))
        ]
        for number, image_id in enumerate(ids):
            values = {name: texts[(number + place) % count] for place, name in enumerate(COLUMNS)}
            values |= {"page_url": f"https://example.org/{texts[number]}", "source": values["source"][:50]}
            # Its name and its values, as they are and nested.
            odd = texts[(number + 1) % count]
            values["columns"] = json.dumps(
                {"of all": odd, odd[:100]: texts[number], "nested": {odd: [odd]}, "n": number}
            )
            assignments = ", ".join(f"{name} = %({name})s" for name in values)
            connection.exec_driver_sql(
                f"UPDATE pixcrawler.image_facts SET {assignments} WHERE image_id = %(id)s", {**values, "id": image_id}
            )
            connection.exec_driver_sql(
                "UPDATE images SET original_url = %s WHERE id = %s",
                (f"https://example.org/{number}?{texts[number]}", image_id),
            )
    ledger.execute(runtime.sessions, "UPDATE crawl_jobs SET name = 'x'")
    return job


def written(runtime: Runtime, crawl: int, layout: str, format_: str, name: str) -> Mapping[str, bytes]:
    """Return every file of an export, those in archives among them."""
    options = {"layout": layout, "archive": {"part_max_images": 12}}
    ref = exporting.make_export(runtime, crawl, options, format_=format_)
    with runtime.sessions.begin() as session:
        session.get_one(ExportJob, ref.id).name = name
    exporting.drive(runtime, submission.start(runtime, EXPORT, ref.id))
    row = exporting.row(runtime, ref)
    assert row.status == "completed", row.error_message
    assert not unsafe_in("".join(texts_in(row.export_options["result"])))
    found: dict[str, bytes] = {}
    for path, body in exporting.files(runtime, ref).items():
        packed = unzipped(body) if path.endswith(".zip") else untarred(body) if path.endswith(".tar") else None
        found |= {path: body} if packed is None else {f"{path}/{inner}": one for inner, one in packed.items()}
    assert all(path.isascii() and path.isprintable() for path in found)
    return found


class Tags(html.parser.HTMLParser):
    """What is in an HTML document: the names of its elements, and all text and attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.texts += [value for name, value in attrs if value]
        assert not [name for name, _ in attrs if name.startswith("on")]
        assert not [value for _, value in attrs if (value or "").lower().startswith("javascript:")]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def check(path: str, body: bytes) -> str:
    """Open a file as its readers do; return what kind of file it was."""
    kind = re.sub(r".*[./-]", "", path.removesuffix(".txt") if "ATTRIBUTION" not in path else "a.txt")
    if kind in {"jpg", "png", "tfrecord"}:
        assert b"\x1b]0;owned" not in body
        assert "photo\u202e".encode() not in body
        return kind
    if kind == "parquet":
        for text in texts_in(parquet.read_table(io.BytesIO(body)).drop_columns(["image"]).to_pylist()):
            assert not unsafe_in(text), (path, text)
        return kind
    text = body.decode()
    assert not unsafe_in(text, allowed="\n"), path
    if kind == "csv":
        assert formulas_in(text) == []
        rows = list(csv.reader(io.StringIO(text)))
        columns = len(rows[0])
        assert {len(row) for row in rows} == {columns}
        assert columns > len(tables.COLUMNS)
        assert len(text.splitlines()) == len(rows)
        assert all(line.startswith('"') and line.endswith('"') for line in text.splitlines()[1:])
        assert text.count('","') >= (len(rows) - 1) * (columns - 1)
        assert not [name for name in rows[0] if formulas_in(f'"{name}"\n') or unsafe_in(name)]
    elif kind in {"json", "jsonl"}:
        for line in text.splitlines() if kind == "jsonl" else [text]:
            assert not unsafe_in("".join(texts_in(json.loads(line)))), path
    elif kind == "md":
        check_card(text)
    elif kind == "html":
        check_html(text)
    elif kind == "xml":
        assert not [one for element in ET.fromstring(text).iter() for one in element.attrib.values() if unsafe_in(one)]
    return kind


def check_card(text: str) -> None:
    _, front, body = re.split(r"^---\n", text, maxsplit=2, flags=re.MULTILINE)
    found = yaml.safe_load(front)
    assert json.loads(json.dumps(YAML(typ="safe", pure=True).load(front))) == found
    assert set(found) <= {"pretty_name", "task_categories", "size_categories", "license", "configs", "dataset_info"}
    assert not unsafe_in("".join(texts_in(found)))
    assert not re.search(r"(?<!\\)<script", body)
    assert "---" not in re.sub(r"^\| --- \| ---: \|$", "", body, flags=re.MULTILINE).splitlines()


def check_html(text: str) -> None:
    tags = Tags()
    tags.feed(text)
    tags.close()
    assert "script" not in tags.names
    assert not unsafe_in("".join(tags.texts), allowed="\n")


@pytest.mark.parametrize("layout", sorted(LAYOUTS.installed()))
def test_every_file_of_an_export_is_safe_to_open(runtime: Runtime, crawl: int, layout: str) -> None:
    format_ = "csv" if layout == "table" else "tar" if layout == "webdataset" else "zip"
    name = {"imagefolder": TEXTS[11], "coco": TEXTS[6]}.get(layout, TEXTS[8])[:100]
    files = written(runtime, crawl, layout, format_, name)
    kinds = {check(path, body) for path, body in files.items()}
    if layout == "coco":
        for path, body in files.items():
            if path.endswith((".txt", ".csv", ".md")):
                shown = "\n".join(line[:200] for line in body.decode().splitlines())
                assert not changes_of_a_terminal(shown), path
    assert {"json", "csv"} <= kinds
    assert layout in {"table", "webdataset"} or {"md", "html", "txt", "csv"} <= kinds


def rows_of(files: Mapping[str, bytes]) -> Iterator[dict[str, str]]:
    for path, body in files.items():
        if path.endswith(".csv"):
            yield from csv.DictReader(io.StringIO(body.decode()))


def test_readable_text_stays_readable_in_files(runtime: Runtime, crawl: int) -> None:
    rows = list(rows_of(written(runtime, crawl, "table", "csv", "My images")))
    titles, labels = {row["title"] for row in rows}, {row["label"] for row in rows}
    assert set(READABLE) <= titles
    assert set(READABLE) <= labels
    assert "ok;'=cmd|' /C calc'!A0" in titles


def test_the_column_of_urls_is_a_url_list(runtime: Runtime, crawl: int) -> None:
    rows = list(rows_of(written(runtime, crawl, "table", "csv", "My images")))
    texts = [*TEXTS, *READABLE]
    # A line with two URLs is not one of a list.
    column = "\n".join(row["source_url"] for row in rows if "://evil" not in row["source_url"])
    found = [line.text for line in plain_text.read(io.BytesIO(column.encode()), "list")]
    # What a list has around its URLs, a comma or spaces, is no part of them.
    expected = {
        plain_text.trimmed(safe_url(f"https://example.org/{number}?{text}"))
        for number, text in enumerate(texts)
        if "://evil" not in text
    }
    assert set(found) == expected
    assert "https://example.org/1?ok;=cmd|' /C calc'!A0" in found


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([*"a1/?&=;+-@'\"%~.,()", ";=", ";'", ";'="]), max_size=20).map("".join))
def test_a_url_of_a_table_is_the_same_in_a_list(text: str) -> None:
    url = f"https://example.org/{text}"
    table = io.StringIO()
    csv.writer(table, quoting=csv.QUOTE_ALL).writerow([tables.cell(safe_url(url))])
    ((cell,),) = csv.reader(io.StringIO(table.getvalue()))
    assert plain_text.trimmed(cell) == plain_text.trimmed(url) or ";'" in url


def test_reports_are_safe_to_open(runtime: Runtime, crawl: int, tmp_path: Path) -> None:
    path = write_crawl_report(runtime, crawl, tmp_path / "report.html", dataset=tmp_path)
    check("report.html", path.read_bytes())


@example(["cat"], "x", "cc-by-4.0: [a")
@example(["cat"], "x", 'cc-by-4.0 # !!python/name:os.system "')
@example(["^\u200c", "\u06a9\u200c"], "x", "")
@settings(max_examples=40, deadline=None)
@given(
    st.lists(ANY_TEXT, min_size=1, max_size=6), ANY_TEXT, ANY_TEXT | st.builds("{}{}".format, LICENSE_STARTS, ANY_TEXT)
)
def test_cards_and_metadata_are_valid_whatever_the_names_are(labels: list[str], name: str, license_: str) -> None:
    request = ExportRequest(
        crawl_job_id=1,
        name=name,
        format="zip",
        options={"layout": "imagefolder"},
        keywords=[],
        crawl_ended_at=datetime.now(UTC),
    )
    # The names of columns are as odd as those of classes.
    facts = [ColumnFacts(key=key, values=1, numbers=False, integers=False, booleans=False) for key in set(labels)]
    columns = ListColumns.of(facts, images=1, has_captions=True, row_bytes=0)
    plan = Plan.of(request, sorted(set(labels)), columns)
    assert len(set(plan.labels)) == len(plan.labels) == len(set(labels))
    assert all(plan.labels)
    summary = Summary(images=1)
    image = record(license_=license_, label=labels[0])
    summary.add(image, label=plan.file_labels[labels[0]], split=None, extension="jpg", size=1, has_caption=True)
    text = card.write(plan, summary)
    check("README.md", text.encode())
    features = yaml.safe_load(re.split(r"^---\n", text, maxsplit=2, flags=re.MULTILINE)[1])["dataset_info"]["features"]
    (classes,) = [one["dtype"]["class_label"]["names"] for one in features if isinstance(one["dtype"], dict)]
    assert list(classes.values()) == list(plan.labels)
    named = {one["name"]: one["dtype"] for one in features if one["name"] not in {*tables.COLUMNS, "image"}}
    assert named == columns.types
    check("croissant.json", croissant.write(plan, summary, []))
    check("dataset.html", report.write(plan, summary, report.Sheet([], {}, {})))


def record(*, license_: str, label: str) -> ImageRecord:
    values: dict[str, object] = dict.fromkeys(field.name for field in fields(ImageRecord))
    return ImageRecord(**values | {"license": license_, "label": label, "source": license_})  # type: ignore[arg-type]  # no other is read


def test_the_checks_notice_what_they_look_for() -> None:
    assert changes_of_a_terminal(TEXTS[6]) == ["title", "cleared or overwritten"]
    for text in TEXTS[6:11]:
        assert unsafe_in(text)
        assert not unsafe_in(safe(text))
    assert {delimiter for delimiter, _ in formulas_in(f'"a","{TEXTS[1]}"\n')} == {";"}
    assert {delimiter for delimiter, _ in formulas_in('"a","ok\t=1"\n')} == {"\t"}
    assert formulas_in('"a","-5"\n') == []
