"""Lists in all formats that are read, with the same URLs; and a pipe."""

import csv
import io
import json
from collections.abc import Sequence
from typing import BinaryIO

import pyarrow as pa
from pyarrow import parquet

URLS = [f"http://a.example/i/{number}.jpg?L" for number in range(3)]
PLAIN = "\n".join(URLS)
CAPTIONS = [(url, "a red cat") for url in URLS]
SWAPPED = [(text, url) for url, text in CAPTIONS]
OBJECTS = [{"url": url, "caption": "c", "tags": ["a"], "size": {"width": 1}, "seen": None} for url in URLS]


def table(separator: str, *rows: Sequence[str]) -> bytes:
    return "\n".join(separator.join(row) for row in rows).encode()


def written_csv(*rows: Sequence[str], dialect: str = "excel") -> bytes:
    file = io.StringIO()
    csv.writer(file, dialect).writerows(rows)
    return file.getvalue().encode()


def written_parquet(**columns: object) -> bytes:
    file = io.BytesIO()
    parquet.write_table(pa.table(columns), file)
    return file.getvalue()


def zstandard(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return bytes(sink.getvalue())


FORMATS = {
    "text": PLAIN.encode(),
    "csv": table(",", ("url", "caption"), *CAPTIONS),
    "url last": table(",", ("caption", "url"), *SWAPPED),
    "semicolons": table(";", ("URL", "TEXT"), *CAPTIONS),
    "bars": table("|", ("URL", "TEXT"), *CAPTIONS),
    "no header": table(",", *CAPTIONS),
    "no header, semicolons": table(";", *CAPTIONS),
    "no header, url last": table(",", *SWAPPED),
    "numbered": table(",", *((str(at), url) for at, url in enumerate(URLS))),
    "quoted": written_csv(("url", "caption"), *((url, 'a "red" cat,\nsitting') for url in URLS)),
    "header quoted": b'"url","caption"\n"' + b'","x"\n"'.join(url.encode() for url in URLS) + b'","x"\n',
    "one column": b"url\n" + PLAIN.encode(),
    "one column, quoted": b'"Image URL"\n' + b"\n".join(f'"{url}"'.encode() for url in URLS),
    "for Excel": b"sep=;\r\n" + table(";", ("URL", "TEXT"), *CAPTIONS),
    "for Excel, one column": b"sep=,\n" + PLAIN.encode(),
    "comments first": b"# cats\n\nurl,caption\n" + table(",", *CAPTIONS),
    "blank lines": b"url,caption\n\n" + table(",", *CAPTIONS).replace(b"\n", b"\n\n") + b"\n,\n\n",
    "tsv": table("\t", ("url", "caption"), *CAPTIONS),
    "cc3m": table("\t", *SWAPPED),
    "tsv, url first": table("\t", *CAPTIONS),
    "tsv with quotation marks": table("\t", ("TEXT", "URL"), *((f'"{at} feet', url) for at, url in enumerate(URLS))),
    "tsv, quoted": written_csv(("url", "caption"), *((url, 'a "red" cat') for url in URLS), dialect="excel-tab"),
    "array": json.dumps(URLS).encode(),
    "array, indented": json.dumps(URLS, indent=2).encode(),
    "array of objects": json.dumps(OBJECTS).encode(),
    "array of objects, indented": json.dumps(OBJECTS, indent=2).encode(),
    "JSON Lines": "\n".join(map(json.dumps, OBJECTS)).encode(),
    "JSON Lines, blank lines": "\r\n\r\n".join(map(json.dumps, OBJECTS)).encode(),
    "objects, indented": "\n".join(json.dumps(one, indent=1) for one in OBJECTS).encode(),
    "parquet": written_parquet(URL=URLS, TEXT=["a", None, "b"], tags=[["a"], [], None], point=[{"x": 1}] * 3),
}


class Unseekable(io.RawIOBase):
    """A pipe: it returns few bytes at a time."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        return self._file.read(min(size, 7)) or b""
