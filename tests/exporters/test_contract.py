"""The conformance suite of layouts: runs for every installed layout."""

import json
import re
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from fnmatch import fnmatchcase
from itertools import accumulate, chain

import pytest
from layout_samples import EXTRAS, LABELS, SPLITS, Written, archives, content, dataset, sample, write
from split_names import KEYWORDS, splits_in, suspicious

from pixcrawler_worker.domain import tables
from pixcrawler_worker.domain.facts import WRITTEN_FORMATS
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.exporters import protocol
from pixcrawler_worker.exporters.protocol import Entry, ExportFormat
from pixcrawler_worker.exporters.spool import Spool

LAYOUTS = list(protocol.LAYOUTS.installed())
#: Names that Windows keeps for devices, with any extension.
DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(1, 10))}

every_layout = pytest.mark.parametrize("name", LAYOUTS)
every_dataset = pytest.mark.parametrize("splits", [(), SPLITS], ids=["whole", "split"])
every_size = pytest.mark.parametrize("parts", [1, 3])


def exported(name: str, splits: tuple[str, ...], parts: int) -> list[Written]:
    layout = protocol.load(name)
    return [write(layout, described, samples) for described, samples in archives(layout, splits=splits, parts=parts)]


def folders(path: str) -> Iterator[str]:
    """Return the path and all its parent folders."""
    return accumulate(path.split("/"), lambda above, name: f"{above}/{name}")


def assert_portable(path: str) -> None:
    assert path.isascii()
    assert path.isprintable()
    assert len(path) <= 200
    assert not set(path) & set('\\:*?"<>|')
    for part in path.split("/"):
        assert len(part) <= 99
        assert part not in {"", ".", ".."}
        assert part == part.strip(" .")
        assert part.partition(".")[0].lower() not in DEVICES


def assert_distinct(paths: list[str]) -> None:
    """Assert that paths and folders are unique, also on file systems that ignore case."""
    assert len({path.lower() for path in paths}) == len(paths)
    above = {folder for path in paths for folder in folders(path) if folder != path}
    assert len({folder.lower() for folder in above}) == len(above)
    assert not {path.lower() for path in paths} & {folder.lower() for folder in above}


def test_all_layouts_of_the_package_are_installed() -> None:
    ours = {"imagefolder", "webdataset", "table", "flat", "yolo", "coco", "label_studio", "parquet", "tfrecord"}
    assert ours <= set(LAYOUTS)


def test_an_unknown_layout_is_reported_with_the_nearest_name() -> None:
    with pytest.raises(PermanentError, match="webdataset"):
        protocol.load("webdatset")


@every_layout
def test_it_describes_itself(name: str) -> None:
    layout = protocol.load(name)
    assert layout.summary
    assert "\n" not in layout.summary
    assert layout.export_formats
    assert layout.export_formats <= set(ExportFormat)
    assert layout.image_formats
    assert set(layout.image_formats) <= set(WRITTEN_FORMATS)
    assert sum(layout.default_splits.values()) == pytest.approx(1 if layout.default_splits else 0)


@every_layout
@every_dataset
@every_size
def test_its_archives_can_be_unpacked_on_all_systems_and_into_one_folder(
    name: str, splits: tuple[str, ...], parts: int
) -> None:
    paths = [path for archive in exported(name, splits, parts) for path in archive.files]
    for path in paths:
        assert_portable(path)
    assert_distinct(paths)


@every_layout
@every_dataset
@every_size
def test_it_has_every_image_unchanged(name: str, splits: tuple[str, ...], parts: int) -> None:
    layout = protocol.load(name)
    if layout.export_formats == {ExportFormat.CSV}:
        pytest.skip("it has no images")
    for described, samples in archives(layout, splits=splits, parts=parts):
        files = list(write(layout, described, samples).files.values())
        for one in samples:
            assert sum(body.count(one.body) for body in files) == 1


@every_layout
@every_dataset
@every_size
def test_its_file_names_are_those_of_the_files(name: str, splits: tuple[str, ...], parts: int) -> None:
    whole = exported(name, splits, parts)
    names = list(chain.from_iterable(archive.names for archive in whole))
    assert len({one.lower() for one in names}) == len(names) == 42
    for archive in whole:
        # Layouts without a file per image have the names inside their files.
        assert list(archive.images) in ([], list(archive.names))


@every_layout
@every_dataset
@every_size
def test_the_same_images_give_the_same_bytes_in_the_same_order(name: str, splits: tuple[str, ...], parts: int) -> None:
    first, second = exported(name, splits, parts), exported(name, splits, parts)
    assert [list(archive.files.items()) for archive in first] == [list(archive.files.items()) for archive in second]


@every_layout
@every_dataset
def test_sidecar_files_have_paths_of_their_own(name: str, splits: tuple[str, ...]) -> None:
    layout = protocol.load(name)
    described, samples = next(archives(layout, splits=splits, parts=1))
    made = layout(described)
    entries = [entry for one in samples for entry in made.add(one)[1]]
    extras = [path for extra in EXTRAS if (path := made.extra_path(extra)) is not None]
    entries += made.close()
    for entry in entries:
        content(entry)
    for path in extras:
        assert_portable(path)
    assert_distinct([*(entry.path for entry in entries), *extras])


@every_layout
@every_size
def test_the_patterns_of_a_whole_dataset_match_its_images_and_no_sidecar_file(name: str, parts: int) -> None:
    layout = protocol.load(name)
    patterns = layout.data_files(None)
    if not isinstance(patterns, tuple):
        return
    paths = [path for archive in exported(name, (), parts) for path in archive.files]

    def matched(pattern: str) -> set[str]:
        # As in fsspec, where `**/` may be nothing.
        beside = {*EXTRAS, "failed.jsonl", "croissant.json", "manifest.json", "quality.html"}
        return {path for path in (*paths, *beside) if fnmatchcase(f"./{path}", pattern)}

    found = [matched(pattern) for pattern in patterns]
    assert all(found), "Hugging Face does not open a dataset of which a pattern matches no file"
    assert set.union(*found) == set(paths)


@every_layout
def test_the_pattern_of_a_split_for_hugging_face_matches_the_files_of_the_split(name: str) -> None:
    layout = protocol.load(name)
    patterns = [layout.data_files(split) for split in SPLITS]
    if None in patterns:
        assert patterns == [None] * len(SPLITS)
        return
    whole = exported(name, SPLITS, 3)
    paths = [path for archive in whole for path in archive.files]
    if layout.split_per_part:
        # The pattern matches archives, which are named by their split.
        paths = [f"{split}-00000.tar" for split in SPLITS]
    found = [{path for path in paths if fnmatchcase(path, str(pattern))} for pattern in patterns]
    assert all(found)
    assert sum(map(len, found)) == len(set.union(*found))
    assert set.union(*found) == set(paths)


@every_layout
@every_size
def test_only_real_splits_look_like_splits(name: str, parts: int) -> None:
    """Without splits, `train` is that of layouts whose readers need one; with splits, each path has its image's."""
    layout = protocol.load(name)
    whole = [path for archive in exported(name, (), parts) for path in archive.files]
    assert {path for path in whole if splits_in(path)} in (set(), {path for path in whole if "train-" in path})
    for archive in exported(name, SPLITS, parts):
        for path in archive.files:
            assert len(splits_in(path)) <= 1
            real = re.sub(rf"(?:^|(?<=/))(?:{'|'.join(SPLITS)})(?=[/-])|(?<=_)(?:{'|'.join(SPLITS)})(?=[.-])", "", path)
            assert not splits_in(real)
            assert not suspicious([real])
    assert not suspicious(filter(None, map(layout.extra_path, EXTRAS)))


@pytest.mark.parametrize("name", ["imagefolder", "yolo"])
def test_classes_with_the_names_of_splits_have_folders_of_other_names(name: str) -> None:
    labels = [*chain.from_iterable(KEYWORDS.values()), "steam train", "steam trains", "Test Tube", "dev.val-eval test"]
    made = protocol.load(name)(dataset(labels=sorted(labels)))
    paths = [made.add(sample(number, label=label))[0] for number, label in enumerate(labels)]
    assert not any(map(splits_in, paths))
    assert len({path.split("/")[0] for path in paths}) == len(labels)
    for path in paths:
        assert_portable(path)


@every_layout
def test_the_columns_for_hugging_face_name_the_classes(name: str) -> None:
    layout = protocol.load(name)
    columns = layout.features(LABELS)
    assert bool(columns) == (layout.data_files(None) is not None)
    if columns:
        assert [column for column in columns.values() if isinstance(column, tuple | list)] == [
            [tables.cell(label) for label in LABELS] if name == "table" else LABELS
        ]


@pytest.mark.parametrize("name", ["imagefolder", "flat"])
def test_a_class_that_looks_like_a_time_is_declared_as_the_metadata_has_it(name: str) -> None:
    labels = ("2020-01-02", "2020-01-02 10:30", "2020-01-02 10:30:00", "2020-01-02T10:30:00+02", "cat")
    layout = protocol.load(name)
    samples = [sample(number, label=label) for number, label in enumerate(labels)]
    metadata = write(layout, dataset(labels=labels), samples).files["metadata.jsonl"]
    classes = [json.loads(line)["label"] for line in metadata.splitlines()]
    # `datasets` looks for the text, and then for the text without white space around it.
    assert tuple(one.strip() for one in classes) == layout.features(labels)["label"]


@every_layout
def test_an_export_that_names_no_format_has_one_of_the_layout(name: str) -> None:
    layout = protocol.load(name)
    assert layout.default_format() in layout.export_formats
    assert layout.default_format() is {"webdataset": ExportFormat.TAR, "table": ExportFormat.CSV}.get(
        name, ExportFormat.ZIP
    )


@every_layout
def test_its_memory_stays_flat(name: str) -> None:
    layout = protocol.load(name)
    made = layout(dataset(splits=SPLITS))
    pattern = sample(0, extension=layout.image_formats[0])

    def add(first: int, last: int) -> None:
        for number in range(first, last):
            one = replace(
                pattern,
                stem=f"{number:064x}",
                label=LABELS[number % len(LABELS)],
                split=SPLITS[number % len(SPLITS)],
                row={**pattern.row, "title": f"{number}"},
                body=b"%d" % number,
            )
            for entry in made.add(one)[1]:
                content(entry)

    # After these, the spools are on disk: filling them does not count as growth.
    add(0, 15_000)
    tracemalloc.start()
    try:
        add(15_000, 20_000)
        grown, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        for entry in made.close():
            content(entry)
    # Their rows would take 6 MB, and their names alone more than half a megabyte.
    assert grown < 400_000


@every_layout
def test_large_images_are_not_kept_in_memory(name: str) -> None:
    layout = protocol.load(name)
    made = layout(dataset(splits=SPLITS))
    pattern = sample(0, extension=layout.image_formats[0])
    tracemalloc.start()
    try:
        for number in range(100):
            one = replace(pattern, stem=f"{number:064x}", split=SPLITS[number % len(SPLITS)], body=bytes(1 << 20))
            for entry in made.add(one)[1]:
                drain(entry)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        for entry in made.close():
            drain(entry)
    # At most half of the images, including copies.
    assert peak < 50 << 20


def drain(entry: Entry) -> None:
    if isinstance(entry.body, Spool):
        for block in entry.body.blocks():
            del block
