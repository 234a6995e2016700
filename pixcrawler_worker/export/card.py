"""README.md of a dataset: a dataset card of Hugging Face (huggingface.co/docs/hub/datasets-cards)."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping

from pixcrawler_worker.domain.list_columns import OTHERS, TEXT
from pixcrawler_worker.domain.safe_text import safe, safe_lines
from pixcrawler_worker.export.plan import Plan
from pixcrawler_worker.export.summary import Summary
from pixcrawler_worker.exporters.protocol import Feature

#: Name of the file.
NAME = "README.md"
#: Size categories of Hugging Face's hub, with their upper bounds.
_SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
)
#: The split that `datasets` keeps for all splits together, and what the one of that name is called for it.
_UNION, _UNION_SPLIT = "all", "all_images"
_MAX_TABLE_ROWS = 50
#: Classes up to which the card lists them for readers: it takes a second to read then.
_MAX_CLASSES = 10_000
#: Names of columns that need no quotation marks in YAML, and those that mean something else than a text there.
_PLAIN_NAME = re.compile(r"[a-z_]+")
_YAML_WORDS = frozenset({"n", "no", "null", "false", "off", "on", "true", "y", "yes"})
#: Identifiers of the hub for Creative Commons licenses; with any other one, it shows an error in place of the card.
#: Source: huggingface.co/docs/hub/repositories-licenses.
_HUB_LICENSES = frozenset(
    {
        *("cc0-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0"),
        *("cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0"),
        *("cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0"),
    }
)
#: Its identifiers for others of Creative Commons, and for all others.
_CREATIVE_COMMONS, _OTHER = "cc", "other"


def write(plan: Plan, summary: Summary, *, part: str = "") -> str:
    """Return the card.

    Args:
        plan: plan of the export.
        summary: counts of its images.
        part: the archive that the card describes, such as `part 3 of 7`; empty for the whole dataset.
    """
    return safe_lines("\n".join([*_front(plan, summary), *_body(plan, summary, part)]) + "\n")


def _front(plan: Plan, summary: Summary) -> Iterator[str]:
    """Yield the YAML front matter."""
    yield "---"
    yield f"pretty_name: {_string(plan.name)}"
    yield "task_categories:\n- image-classification"
    if summary.captions:
        yield "- image-to-text\n- text-to-image"
    yield f"size_categories:\n- {next((name for bound, name in _SIZES if summary.images < bound), '10M<n<100M')}"
    yield f"license: {_license(summary.licenses)}"
    # A split without images has no files, and a dataset whose card names missing files does not open.
    paths = {split: plan.layout.data_files(split) for split in plan.splits if summary.splits.get(split)}
    if not paths or None in paths.values():
        paths = {"train": plan.layout.data_files(None)}
    if all(paths.values()):
        # Without them, Hugging Face takes a class with the name of a split for that split.
        yield "configs:\n- config_name: default\n  data_files:"
        for split, path in paths.items():
            yield f"  - split: {_UNION_SPLIT if split == _UNION else split}\n    path: {json.dumps(path)}"
        for name, value in plan.layout.reader_options.items():
            yield f"  {name}: {json.dumps(value)}"
        columns = plan.layout.features(plan.labels) if len(plan.labels) <= _MAX_CLASSES else {}
        if columns and plan.columns.types:
            columns = plan.layout.with_columns(columns, plan.columns.types)
        if columns and plan.layout.features_are_options:
            yield "  features:"
            yield from _features(columns, "  ")
        if columns:
            yield "dataset_info:\n  features:"
            yield from _features(columns, "  ")
    yield "---"


def _features(columns: Mapping[str, Feature], margin: str) -> Iterator[str]:
    """Yield columns as `datasets` writes them. Source: its `Features._to_yaml_list`."""
    for name, feature in columns.items():
        is_plain = _PLAIN_NAME.fullmatch(name) and name not in _YAML_WORDS
        yield f"{margin}- name: {name if is_plain else _string(name)}"
        if isinstance(feature, str):
            yield f"{margin}  dtype: {feature}"
        elif isinstance(feature, Mapping):
            yield f"{margin}  struct:"
            yield from _features(feature, f"{margin}  ")
        else:
            yield f"{margin}  dtype:\n{margin}    class_label:\n{margin}      names:"
            yield from (f"{margin}        '{number}': {_string(label)}" for number, label in enumerate(feature))


def _string(text: str) -> str:
    """Return a string of YAML: a string of JSON. A safe text has only characters that YAML allows (YAML 1.2.2, 5.1)."""
    return json.dumps(safe(text), ensure_ascii=False)


def _license(licenses: Mapping[str, int]) -> str:
    """Return the hub's identifier of the license if all images have the same, `other` otherwise."""
    if len(licenses) != 1:
        return _OTHER
    (name,) = licenses
    if name in _HUB_LICENSES:
        return name
    return _CREATIVE_COMMONS if name.startswith("cc-by") else _OTHER


def _body(plan: Plan, summary: Summary, part: str) -> Iterator[str]:
    megabytes = summary.image_bytes / 1e6
    this = f" This archive is {part}." if part else ""
    yield f"\n# {_plain(plan.name)}\n"
    yield (
        f"{summary.images:,} images of {len(summary.labels):,} {'class' if len(summary.labels) == 1 else 'classes'}, "
        f"{megabytes:,.1f} MB, collected by PixCrawler{plan.until}.{this}\n"
    )
    yield f"Layout `{plan.layout_name}`: {plan.layout.summary}.\n"
    yield from _table("Classes", "class", summary.labels)
    if plan.splits:
        yield from _table("Splits", "split", summary.splits, plan.splits)
        if plan.options.splits.by == "duplicate_group":
            yield "An image and the near duplicates that a validation found of it are in one split.\n"
    yield from _table("Licenses", "license", summary.licenses)
    yield (
        "Each image has its own license, author and source, in the columns below. Those without a license are not free "
        "to use without permission of their owners. A license is what the source stated when the image was found.\n"
    )
    yield from _table("Formats", "format", summary.formats)
    yield "## Columns\n"
    yield from _COLUMNS
    yield from _list_columns(plan, summary)
    if summary.skipped:
        yield ""
        yield from _table("Left out", "reason", summary.skipped)


_COLUMNS = (
    "`file_name`, `label`, `split`, `width`, `height` (pixels), `bytes`, `sha256` (of the file here), `phash` (64-bit",
    "perceptual hash), `mime`, `source_url` (of the file), `page_url` (of the page that shows it), `title`, `author`,",
    "`license`, `license_url`, `attribution` (a line to print next to the image), `engine` (which source found it),",
    "`query`, `crawled_at`, `flags` (what a validation found). An unknown text is empty.",
)


def _list_columns(plan: Plan, summary: Summary) -> Iterator[str]:
    if TEXT in plan.columns.types:
        yield f"\n`{TEXT}` is the caption of the image: {summary.captions:,} of {summary.images:,} images have one."
    if plan.columns.columns:
        yield "\nFurther columns come from the list of URLs:\n"
        yield "| column | type | in the list |\n| --- | --- | --- |"
        for one in plan.columns.columns:
            yield f"| {_plain(one.name)} | {one.type} | {_plain(safe(one.key))} |"
    if OTHERS in plan.columns.types:
        yield f"\n`{OTHERS}` has the values of all other columns of the list as a JSON object."


def _table(title: str, what: str, counts: Mapping[str, int], order: Iterable[str] | None = None) -> Iterator[str]:
    names = list(order or sorted(counts, key=lambda name: (-counts[name], name)))
    yield f"## {title}\n"
    yield f"| {what} | images |\n| --- | ---: |"
    for name in names[:_MAX_TABLE_ROWS]:
        yield f"| {_plain(name) or 'unknown'} | {counts.get(name, 0):,} |"
    if len(names) > _MAX_TABLE_ROWS:
        yield f"| {len(names) - _MAX_TABLE_ROWS:,} more | {sum(counts[name] for name in names[_MAX_TABLE_ROWS:]):,} |"
    yield ""


def _plain(text: str) -> str:
    """Return untrusted text on one line, escaped for Markdown and HTML."""
    line = " ".join(text.split())
    return "".join(f"\\{letter}" if letter in "\\`*_{}[]<>()#+!|~&" else letter for letter in line)
