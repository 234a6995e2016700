"""Lists of URLs with captions, from the command line into the ledger; and by the reader of img2dataset into its shards.

    python benchmarks/lists.py [--rows 1000000] [--runs 3]

The command reads, checks and records every row, with its caption and its other columns, and creates the job that the
rows belong to. The reader of img2dataset writes the same columns to files of Arrow, 10,000 rows each, which is what its
downloads begin with. CPU and memory are those of the reading process, without the database.
"""

import multiprocessing
import random
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import frame
from frame import Run, Topic
from sqlalchemy import text
from stage import service

from pixcrawler_worker.runtime import Runtime

_WORDS = ["a", "red", "cat", "sits", "on", "the", "old", "wooden", "table", "near", "some", "green", "plants", "warm"]
#: Rows that are written at a time.
_BATCH = 100_000
_PEER = """
import sys, tempfile
from img2dataset.reader import Reader
with tempfile.TemporaryDirectory() as folder:
    more = ["width", "height", "similarity"]
    reader = Reader(sys.argv[1], sys.argv[2], "url", "caption", None, None, more, 10_000, set(), folder)
    assert sum(1 for _ in reader) > 0
"""


def write(folder: Path, rows: int) -> dict[str, Path]:
    """Write the same rows as CSV and as Parquet; return the files."""
    # The memory of this process would count for all that it starts.
    import pyarrow as pa  # noqa: PLC0415
    from pyarrow import parquet  # noqa: PLC0415

    texts, numbers = pa.string(), pa.int32()
    schema = pa.schema(
        {"url": texts, "caption": texts, "width": numbers, "height": numbers, "similarity": pa.float64()}
    )
    noise = random.Random(1)
    captions = [" ".join(noise.choices(_WORDS, k=noise.randint(4, 14))) for _ in range(5000)]
    files = {"csv": folder / "list.csv", "parquet": folder / "list.parquet"}
    with files["csv"].open("w") as csv, parquet.ParquetWriter(files["parquet"], schema) as writer:
        csv.write(",".join(schema.names) + "\n")
        for start in range(0, rows, _BATCH):
            batch = [
                (
                    f"https://img{at % 997}.example.org/photos/{at * 7919 % 1_000_003}/{at}.jpg",
                    f"{captions[at % len(captions)]}, {at}",
                    300 + at % 1000,
                    200 + at % 900,
                    at % 1_000_000 / 1_000_000,
                )
                for at in range(start, min(rows, start + _BATCH))
            ]
            csv.writelines(
                f'{url},"{caption}",{width},{height},{like}\n' for url, caption, width, height, like in batch
            )
            columns = [
                pa.array(column, type_) for column, type_ in zip(zip(*batch, strict=True), schema.types, strict=True)
            ]
            writer.write_batch(pa.record_batch(columns, schema=schema))
    return files


def ours(opened: Runtime, file: Path, rows: int) -> Callable[[], Run]:
    """Return a contender: the command that creates a job with a list."""

    def run() -> Run:
        with opened.sessions.begin() as session:
            session.execute(text("DELETE FROM crawl_jobs"))
        run = frame.run_command([Path(sys.executable).with_name("pixcrawler"), "crawl", "cat", "--urls", file], rows)
        with opened.sessions.begin() as session:
            recorded = session.scalar(text("SELECT sum(cardinality(urls)) FROM pixcrawler.crawl_urls"))
        assert recorded == rows
        return run

    return run


def theirs(file: Path, rows: int) -> Callable[[], Run]:
    """Return a contender: the reader of img2dataset."""
    return lambda: frame.run_command([frame.peer("img2dataset"), "-c", _PEER, file, file.suffix[1:]], rows)


def main() -> None:
    """Measure and print."""
    parser = frame.arguments(__doc__, runs=3)
    parser.add_argument("--rows", type=int, default=1_000_000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, service() as opened:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as writer:
            files = writer.submit(write, Path(folder), args.rows).result()
        contenders = {f"pixcrawler, {name}": ours(opened, file, args.rows) for name, file in files.items()}
        contenders |= {f"img2dataset, {name}": theirs(file, args.rows) for name, file in files.items()}
        topic = Topic("lists", "rows", "pixcrawler, csv", f"Lists of {args.rows:,} rows", ["pyarrow", "psycopg"])
        frame.publish(topic, frame.alternate(contenders, args.runs), write=args.write)


if __name__ == "__main__":
    main()
