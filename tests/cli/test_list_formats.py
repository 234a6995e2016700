"""A URL list gives the same dataset in every format, compressed or not, wherever it is read from."""

import csv
import gzip
import io
import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from http.server import SimpleHTTPRequestHandler
from itertools import product
from pathlib import Path

import ledger
import pytest
import redis
from calls import call
from doubles import drive, image_urls, query
from export import exporting
from fakes import hosts, threaded
from list_samples import written_csv, written_parquet, zstandard

from pixcrawler_worker.crawl.kind import CRAWL
from pixcrawler_worker.jobs import submission
from pixcrawler_worker.runtime import Runtime

#: What the rows say besides their URLs; texts, since those of CSV have no other types.
CAPTIONS, LABELS, WORDS = (
    ['a "red" cat, sitting', "b", "\u732b"],
    ["cat", "dog", "cat"],
    ["7", "x;y", "0.50"],
)


def text(urls: list[str]) -> bytes:
    return "\n".join(urls).encode()


def separated(urls: list[str], *, dialect: str) -> bytes:
    header = ("caption", "url", "label", "word")
    return written_csv(header, *zip(CAPTIONS, urls, LABELS, WORDS, strict=True), dialect=dialect)


def objects(urls: list[str]) -> list[dict[str, str]]:
    rows = zip(urls, CAPTIONS, LABELS, WORDS, strict=True)
    return [dict(zip(("url", "caption", "label", "word"), row, strict=True)) for row in rows]


FORMATS: dict[str, Callable[[list[str]], bytes]] = {
    "txt": text,
    "csv": partial(separated, dialect="excel"),
    "tsv": partial(separated, dialect="excel-tab"),
    "json": lambda urls: json.dumps(objects(urls), indent=1).encode(),
    "jsonl": lambda urls: "\n".join(map(json.dumps, objects(urls))).encode(),
    "parquet": lambda urls: written_parquet(url=urls, caption=CAPTIONS, label=LABELS, word=WORDS),
}
COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".gz": gzip.compress, ".zst": zstandard}
ORIGINS = ("file", "stdin", "URL")
ALL = list(product(FORMATS, COMPRESSIONS, ORIGINS))
#: Every two of format, compression and origin.
PAIRS = [
    one
    for one in ALL
    if (list(FORMATS).index(one[0]) + list(COMPRESSIONS).index(one[1]) + ORIGINS.index(one[2])) % 3 == 0
]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def urls() -> Iterator[list[str]]:
    with hosts.serving() as server:
        yield image_urls(server, "same", 3)


@pytest.mark.parametrize(
    "combinations", [pytest.param(PAIRS, id="pairs"), pytest.param(ALL, id="all", marks=pytest.mark.scale)]
)
def test_a_list_gives_the_same_dataset_in_every_format_and_from_everywhere(
    env: Mapping[str, str],
    broker: redis.Redis,
    runtime: Runtime,
    urls: list[str],
    combinations: list[tuple[str, str, str]],
) -> None:
    del broker
    datasets: dict[str, list[dict[str, bytes]]] = {"txt": [], "table": []}
    allowed = {**env, "PIXCRAWLER_ALLOWED_NETWORKS": "127.0.0.0/8"}
    with threaded.serving(partial(Quiet, directory=str(Path.cwd()))) as server:
        for name, suffix, origin in combinations:
            content = COMPRESSIONS[suffix](FORMATS[name](urls))
            path = Path(f"list.{name}{suffix}")
            path.write_bytes(content)
            where = {"file": str(path), "stdin": "-", "URL": f"{server}/{path}"}[origin]
            stdin = content if origin == "stdin" else None
            result = call(allowed, "crawl", "cat", "--urls", where, stdin=stdin)
            assert (result.exit_code, result.stderr) == (0, ""), (name, suffix, origin)
            datasets["txt" if name == "txt" else "table"].append(dataset(runtime))
    for found in datasets.values():
        assert [one for one in found if one != found[0]] == []
    plain, table = (datasets[kind][0] for kind in ("txt", "table"))
    assert said(plain) == {url: {"label": "cat"} for url in urls}
    assert said(table) == {
        row.pop("url"): {"label": row["label"], "text": row["caption"], "word": row["word"]} for row in objects(urls)
    }
    files = [sorted(body for name, body in one.items() if name.endswith(".jpg")) for one in (plain, table)]
    assert len(files[0]) == 3
    assert files[0] == files[1]


def dataset(runtime: Runtime) -> dict[str, bytes]:
    """Return the files of the dataset of the newest job, which is run first."""
    ((job,),) = query(runtime, "SELECT max(id) FROM crawl_jobs")
    drive(runtime, submission.start(runtime, CRAWL, job, {}))
    ledger.execute(runtime.sessions, "UPDATE pixcrawler.image_facts SET crawled_at = '2026-01-02T03:04:05Z'")
    return exporting.made(runtime, exporting.export(runtime, job, {"extras": {"html_report": False}}))


def said(files: Mapping[str, bytes]) -> dict[str, dict[str, str]]:
    """Return what a dataset says of its images that may come from the list, by URL."""
    rows = csv.DictReader(io.StringIO(files["images.csv"].decode()))
    return {row["source_url"]: {name: row[name] for name in ("label", "text", "word") if name in row} for row in rows}
