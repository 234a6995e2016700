"""`export_jobs.export_options`: which images an export has, and how they lie in it.

The models here are the vocabulary: their JSON Schema is what documents and APIs show.
"""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
    StringConstraints,
    ValidationError,
    model_validator,
)

from pixcrawler_worker.domain import licenses
from pixcrawler_worker.domain.facts import FORMATS
from pixcrawler_worker.domain.naming import hint
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.exporters import protocol
from pixcrawler_worker.exporters.protocol import ExportFormat, Layout

#: What `auto` is.
_AUTO = {ExportFormat.ZIP: "imagefolder", ExportFormat.TAR: "webdataset", ExportFormat.CSV: "table"}


#: Splits in the order in which people name them.
_USUAL = {name: place for place, name in enumerate(("train", "validation", "valid", "val", "dev", "test"))}


def _license(text: str) -> str:
    try:
        return licenses.parse(text)
    except PermanentError as error:
        raise ValueError(str(error)) from error


_Side = Annotated[StrictInt, Field(ge=1)]
_Colour = Annotated[StrictStr, StringConstraints(pattern=r"^#[0-9a-fA-F]{6}$")]
_SplitName = Annotated[StrictStr, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,19}$")]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Select(_Strict):
    """Which images of the crawl job."""

    only_valid: StrictBool = Field(default=True, description="leave out what the standing validation judged invalid")
    exclude_flags: tuple[StrictStr, ...] = Field(
        default=("exact_duplicate",), description="leave out what these checks of the standing validation found"
    )
    labels: tuple[StrictStr, ...] | None = Field(default=None, description="classes to take; all when left out")
    licenses: tuple[Annotated[StrictStr, AfterValidator(_license)], ...] | None = Field(
        default=None, description="licenses and families to take, such as cc0 or cc-by; all when left out"
    )
    min_width: _Side | None = None
    min_height: _Side | None = None
    limit: _Side | None = Field(default=None, description="most images, chosen by their hashes: an even sample")


class Splits(_Strict):
    """Which part of the dataset an image belongs to, by the hash of its group: see `domain/splits.py`."""

    ratios: Mapping[_SplitName, Annotated[float, Field(gt=0)]] | None = Field(
        default=None, max_length=10, description='for example {"train": 0.8, "val": 0.1, "test": 0.1}; none: no splits'
    )
    seed: StrictInt = 0
    by: Literal["duplicate_group", "image"] = Field(
        default="duplicate_group", description="what is never divided: an image with its near duplicates, or an image"
    )
    stratify: Literal["label"] | None = Field(
        default=None, description="label: each class has the ratios; adding images may then move others"
    )


class Resize(_Strict):
    """How images are brought to a size."""

    mode: Literal["fit", "cover", "pad", "shortest"] = Field(
        default="fit",
        description="fit: within a square; cover: fill it, cut off; pad: within it, on the background; "
        "shortest: the shorter side has the size",
    )
    size: Annotated[StrictInt, Field(ge=8, le=4096)] = 512
    only_shrink: StrictBool = Field(default=True, description="leave smaller images as they are")


class ImageOptions(_Strict):
    """How image files are changed. Without any of it they are copied byte for byte."""

    format: Literal[("keep", *FORMATS)] = "keep"  # type: ignore[valid-type]  # the names are listed once
    resize: Resize | None = None
    quality: Annotated[StrictInt, Field(ge=1, le=100)] = Field(default=90, description="of JPEG, WebP and AVIF")
    background: _Colour = Field(default="#ffffff", description="behind transparency, where the format has none")
    orient: StrictBool = Field(default=True, description="turn pixels as EXIF says, for readers that do not look")
    strip_metadata: StrictBool = Field(default=False, description="leave out EXIF, XMP and comments")
    on_error: Literal["skip", "fail"] = Field(
        default="skip", description="what follows from an image that is missing, changed or cannot be converted"
    )


class Archives(_Strict):
    """How large archives become: one that would grow beyond either limit is followed by another one."""

    part_max_bytes: Annotated[StrictInt, Field(ge=1_000_000, le=4_000_000_000)] = 2_000_000_000
    part_max_images: Annotated[StrictInt, Field(ge=1, le=50_000)] = 50_000


class Extras(_Strict):
    """What lies beside the images."""

    images_csv: StrictBool = True
    attribution: StrictBool = Field(default=True, description="whose each image is, to print or to pass on")
    sha256sums: StrictBool = True
    dataset_card: StrictBool = Field(default=True, description="README.md, as Hugging Face reads it")
    croissant: StrictBool = Field(default=True, description="croissant.json beside the archives: what loaders read")
    html_report: StrictBool = Field(default=True, description="a page with counts and a contact sheet")


class ExportOptions(_Strict):
    """The options of an export job. `{}` means every valid image, as it is stored."""

    version: Literal[1] = 1
    layout: StrictStr = Field(default="auto", description="imagefolder for zip, webdataset for tar, table for csv")
    select: Select = Select()
    splits: Splits = Splits()
    image: ImageOptions = ImageOptions()
    max_files_per_dir: Annotated[StrictInt, Field(ge=100)] = 5000
    archive: Archives = Archives()
    extras: Extras = Extras()
    url_ttl_s: Annotated[StrictInt, Field(ge=60, le=366 * 86_400)] = Field(
        default=604_800,
        description="seconds from the end of the export to that of its link; its files go an hour later",
    )

    @model_validator(mode="after")
    def _known_layout(self) -> "ExportOptions":
        if self.layout != "auto" and self.layout not in protocol.LAYOUTS.installed():
            raise ValueError(
                f"layout: there is no {self.layout!r}; {hint(self.layout, ['auto', *protocol.LAYOUTS.installed()])}"
            )
        return self

    def layout_name(self, format_: ExportFormat) -> str:
        """Return the name of the layout, where none is given that which is usual."""
        return _AUTO[format_] if self.layout == "auto" else self.layout

    def layout_for(self, format_: ExportFormat) -> type[Layout]:
        """Return the layout.

        Raises:
            PermanentError: when it cannot be delivered like that, or its package is broken.
        """
        name = self.layout_name(format_)
        layout = protocol.load(name)
        if format_ not in layout.carriers:
            listed = ", ".join(sorted(layout.carriers))
            raise PermanentError(f"export_options: layout {name} is delivered as {listed}, not as {format_}")
        if format_ is ExportFormat.CSV and not self.extras.images_csv:
            raise PermanentError("export_options: extras.images_csv is false, and a csv export is nothing else")
        return layout

    def ratios(self, layout: type[Layout]) -> Mapping[str, float]:
        """Return the splits with their ratios, in the usual order; empty for none.

        The order that they were written in is gone: PostgreSQL's jsonb has another one.
        """
        asked = layout.default_splits if self.splits.ratios is None else self.splits.ratios
        return dict(sorted(asked.items(), key=lambda item: (_USUAL.get(item[0], len(_USUAL)), item[0])))


def parse(raw: object) -> ExportOptions:
    """Return the options in a row. What an export wrote there when it was done, `result`, is passed over.

    Raises:
        PermanentError: on an unknown key or a wrong value; the message names the key.
    """
    if not isinstance(raw, dict):
        raise PermanentError(f"export_options must be an object, not {type(raw).__name__}")
    plain = {key: value for key, value in raw.items() if key != "result"}
    _refuse_unknown("", plain, ExportOptions)
    try:
        return ExportOptions.model_validate(plain)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in problem["loc"])
        what = problem["msg"].removeprefix("Value error, ")
        raise PermanentError(f"export_options: {where}: {what}" if where else f"export_options: {what}") from None


def format_of(name: object) -> ExportFormat:
    """Return the format of a row.

    Raises:
        PermanentError: when there is no such format.
    """
    try:
        return ExportFormat(str(name).lower())
    except ValueError:
        raise PermanentError(
            f"format: there is no {name!r}; {hint(str(name), [one.value for one in ExportFormat])}"
        ) from None


def _refuse_unknown(where: str, given: Mapping[str, Any], model: type[BaseModel]) -> None:
    """Raise PermanentError for the first key, at any depth, that no model has."""
    for key, value in given.items():
        if key not in model.model_fields:
            raise PermanentError(f"export_options: there is no {where}{key}; {_hint(key, model.model_fields)}")
        if isinstance(value, dict) and (inner := _model_of(model, key)):
            _refuse_unknown(f"{where}{key}.", value, inner)


def _model_of(model: type[BaseModel], key: str) -> type[BaseModel] | None:
    annotation = model.model_fields[key].annotation
    candidates = [annotation, *getattr(annotation, "__args__", ())]
    return next((one for one in candidates if isinstance(one, type) and issubclass(one, BaseModel)), None)


def _hint(key: object, known: Iterable[str]) -> str:
    return hint(str(key), known)
