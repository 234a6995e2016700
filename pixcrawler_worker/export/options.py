"""The options of an export, as `export_jobs.export_options` has them: which images, and how the dataset has them.

The JSON Schema of these models is what documents and APIs show.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StrictBool, StrictStr, StringConstraints, WithJsonSchema

from pixcrawler_worker import options
from pixcrawler_worker.domain.exclusions import MAX_EXCLUDED
from pixcrawler_worker.domain.facts import WRITTEN_FORMATS
from pixcrawler_worker.domain.name_templates import NameTemplate
from pixcrawler_worker.domain.naming import nearest
from pixcrawler_worker.domain.postgres_types import MAX_INT8
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.exporters import protocol
from pixcrawler_worker.exporters.protocol import ExportFormat, Layout
from pixcrawler_worker.options import (
    Expected,
    Integer,
    License,
    Name,
    Number,
    Options,
    Sha256,
    Size,
    image_format,
)

#: The layout that depends on the format, and what it stands for.
_AUTOMATIC = "auto"
_AUTO = {ExportFormat.ZIP: "imagefolder", ExportFormat.TAR: "webdataset", ExportFormat.CSV: "table"}
#: Splits in their usual order.
_USUAL_SPLITS = {name: place for place, name in enumerate(("train", "validation", "valid", "val", "dev", "test"))}
_KEEP = "keep"


def _target_format(name: str) -> str:
    if name.lower() == _KEEP:
        return _KEEP
    found = image_format(name)
    if found not in WRITTEN_FORMATS:
        raise ValueError(f"{found} can be read only; images are written as {', '.join(WRITTEN_FORMATS)}")
    return found


def _layout(name: str) -> str:
    known = [_AUTOMATIC, *protocol.LAYOUTS.installed()]
    by_folded = {one.casefold(): one for one in known}
    if name.casefold() not in by_folded:
        raise ValueError(f"there is no layout {options.short(name)!r}; {_hint(name, known)}")
    return by_folded[name.casefold()]


def _hint(name: str, known: Sequence[str]) -> str:
    """Return the end of a message about an unknown name: the name that was probably meant, and all known names."""
    every = f"known are {', '.join(known)}"
    return f"did you mean {near!r}? {every[0].upper()}{every[1:]}" if (near := nearest(name, known)) else every


def _name_template(text: str) -> str:
    NameTemplate.parse(text)
    return text


Color = Annotated[StrictStr, StringConstraints(pattern=r"^#[0-9a-fA-F]{6}$"), Expected("a color such as #ffffff")]
LayoutName = Annotated[StrictStr, AfterValidator(_layout)]
SplitName = Annotated[
    StrictStr,
    StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,19}$"),
    Expected("a name of at most 20 lower-case letters, digits and underscores"),
]
#: `keep`, or an image format in any notation that `options.ImageFormat` accepts.
TargetFormat = Annotated[
    StrictStr,
    AfterValidator(_target_format),
    WithJsonSchema({"type": "string", "examples": [_KEEP, *WRITTEN_FORMATS]}),
]


class Select(Options):
    """Which images of the crawl job are exported."""

    only_valid: StrictBool = Field(
        default=True, description="exclude images that the effective validation found invalid"
    )
    exclude_flags: tuple[Name, ...] = Field(
        default=("exact_duplicate",),
        max_length=options.MAX_NAMES,
        description="exclude images with findings of these checks in the effective validation",
    )
    labels: tuple[Name, ...] | None = Field(
        default=None, max_length=options.MAX_NAMES, description="labels to export; by default all"
    )
    licenses: tuple[License, ...] | None = Field(
        default=None,
        max_length=options.MAX_NAMES,
        description="licenses and families to export, such as cc0 or cc-by; by default all",
    )
    min_width: Size | None = None
    min_height: Size | None = None
    exclude_images: tuple[Sha256, ...] = Field(
        default=(),
        max_length=MAX_EXCLUDED,
        description="exclude the images with these SHA-256, which name their files unless there is a name_template",
    )
    limit: Size | None = Field(
        default=None, description="maximum number of images, chosen by their hashes: an even sample"
    )


class Splits(Options):
    """Which split an image belongs to, by the hash of its group: see `domain/splits.py`."""

    ratios: Mapping[SplitName, Annotated[float, Number(above=0)]] | None = Field(
        default=None,
        max_length=10,
        description='for example {"train": 0.8, "val": 0.1, "test": 0.1}; by default those of the layout',
    )
    seed: Annotated[int, Integer(-(2**63), MAX_INT8)] = 0
    by: Literal["duplicate_group", "image"] = Field(
        default="duplicate_group", description="what is never divided: a group of near duplicates, or a single image"
    )
    stratify: Literal["label"] | None = Field(
        default=None, description="label: each label has the ratios; more images may then move others"
    )


class Resize(Options):
    """How images are resized."""

    mode: Literal["fit", "cover", "pad", "shortest"] = Field(
        default="fit",
        description="fit: within a square; cover: fill the square, cropped; pad: within the square, on the background; "
        "shortest: the shorter side has the size",
    )
    size: Annotated[int, Integer(8, 4096)] = 512
    only_shrink: StrictBool = Field(default=True, description="do not enlarge smaller images")


class ImageOptions(Options):
    """How image files are converted. With the defaults they are copied byte for byte, unless EXIF rotates them."""

    format: TargetFormat = Field(default="keep", description="keep, or an image format such as jpg")
    resize: Resize | None = None
    quality: Annotated[int, Integer(1, 100)] = Field(default=90, description="of JPEG, WebP and AVIF")
    background: Color = Field(default="#ffffff", description="for transparent images, in formats without transparency")
    orient: StrictBool = Field(
        default=True, description="rotate pixels by the EXIF orientation, for readers that ignore it"
    )
    strip_metadata: StrictBool = Field(default=False, description="remove EXIF, XMP and comments")
    on_error: Literal["skip", "fail"] = Field(
        default="skip", description="what to do with an image that is missing, changed or cannot be converted"
    )


class Archives(Options):
    """The limits of an archive; the images that exceed one go into another archive."""

    part_max_bytes: Annotated[int, Integer(1_000_000, 4_000_000_000)] = 2_000_000_000
    part_max_images: Annotated[int, Integer(1, 50_000)] = 50_000


class Extras(Options):
    """Which sidecar files a dataset has."""

    images_csv: StrictBool = True
    attribution: StrictBool = Field(default=True, description="author and license of each image, as text")
    sha256sums: StrictBool = True
    dataset_card: StrictBool = Field(default=True, description="README.md, as Hugging Face reads it")
    croissant: StrictBool = Field(default=True, description="croissant.json, next to the archives")
    failures: StrictBool = Field(
        default=False,
        description="failed.jsonl, next to the archives: the URLs of the crawl job that did not become images",
    )
    html_report: StrictBool = Field(default=True, description="an HTML report with counts and a contact sheet")


class ExportOptions(Options):
    """The options of an export job. `{}` exports every valid image as it is stored."""

    version: Literal[1] = 1
    layout: LayoutName = Field(default=_AUTOMATIC, description="imagefolder for zip, webdataset for tar, table for csv")
    select: Select = Select()
    splits: Splits = Splits()
    image: ImageOptions = ImageOptions()
    name_template: Annotated[StrictStr, AfterValidator(_name_template)] | None = Field(
        default=None,
        description="names of the image files, without their extension, from {index}, {id}, {sha256}, {label} and "
        "{title}, for example {label}-{index}; by default the SHA-256",
    )
    max_files_per_dir: Annotated[int, Integer(100)] = 5000
    archive: Archives = Archives()
    extras: Extras = Extras()
    reproducible: StrictBool = Field(
        default=False, description="leave out times, so that another crawl of the same images gives the same archives"
    )
    url_ttl_s: Annotated[int, Integer(60, 366 * 86_400)] = Field(
        default=604_800,
        description="seconds for which the link works after the end of the export; the files are deleted an hour later",
    )

    def layout_name(self, format_: ExportFormat) -> str:
        """Return the name of the layout; `auto` stands for the usual layout of the format."""
        return _AUTO[format_] if self.layout == _AUTOMATIC else self.layout

    def default_format(self) -> ExportFormat:
        """Return the format of an export that names none: that of the layout.

        Raises:
            PermanentError: when the package of the layout is broken.
        """
        return ExportFormat.ZIP if self.layout == _AUTOMATIC else protocol.load(self.layout).default_format()

    def layout_for(self, format_: ExportFormat) -> type[Layout]:
        """Return the layout.

        Raises:
            PermanentError: when the layout does not support the format, or its package is broken.
        """
        name = self.layout_name(format_)
        layout = protocol.load(name)
        if format_ not in layout.export_formats:
            listed = ", ".join(sorted(layout.export_formats))
            raise PermanentError(f"export_options.layout: {name} is delivered as {listed}, not as {format_}")
        if format_ is ExportFormat.CSV and not self.extras.images_csv:
            raise PermanentError(
                "export_options.extras.images_csv: expected true, since a csv export has no other file, got false"
            )
        return layout

    def ratios(self, layout: type[Layout]) -> Mapping[str, float]:
        """Return the splits with their ratios, in the usual order; empty for none.

        The order in which they were given is lost, because PostgreSQL sorts the keys of jsonb.
        """
        given = layout.default_splits if self.splits.ratios is None else self.splits.ratios
        return dict(sorted(given.items(), key=lambda item: (_USUAL_SPLITS.get(item[0], len(_USUAL_SPLITS)), item[0])))


def parse(raw: object) -> ExportOptions:
    """Return the options in a row. The key `result`, which a completed export adds, is ignored.

    Raises:
        PermanentError: when a key is unknown or a value is invalid; the message names the key.
    """
    if isinstance(raw, dict):
        raw = {key: value for key, value in raw.items() if key != "result"}
    return options.parse(ExportOptions, raw, "export_options")


def format_of(name: object) -> ExportFormat:
    """Return the format of a row.

    Raises:
        PermanentError: when there is no such format.
    """
    try:
        return ExportFormat(str(name).lower())
    except ValueError:
        raise PermanentError(
            f"format: there is no {options.short(str(name))!r}; {_hint(str(name), [one.value for one in ExportFormat])}"
        ) from None
