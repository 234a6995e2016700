"""The export options that `pixcrawler export` and `pixcrawler build` read from their arguments."""

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Concatenate, ParamSpec, TextIO, TypeVar

import click

from pixcrawler_worker.cli import arguments
from pixcrawler_worker.domain import exclusions
from pixcrawler_worker.domain.facts import WRITTEN_FORMATS
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.export import options
from pixcrawler_worker.exporters import protocol
from pixcrawler_worker.exporters.protocol import ExportFormat

Parameters = ParamSpec("Parameters")
Returned = TypeVar("Returned")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportArguments:
    """The arguments of a command that exports, as click passes them.

    Attributes:
        format_: the file format; None for that of the layout.
        layout: its name; None for the one in the options, or the usual one.
        resize: pixels of the square that images fit into.
        convert: format of all images.
        split: names of splits and their ratios.
        only_valid: False for invalid images and exact duplicates, too.
        name_template: of the names of image files.
        failures: whether there is a list of the URLs that did not become images.
        exclude: SHA-256 of images to leave out; None without a list of them.
    """

    format_: str | None = None
    layout: str | None = None
    resize: int | None = None
    convert: str | None = None
    split: dict[str, float] | None = None
    only_valid: bool | None = None
    name_template: str | None = None
    failures: bool | None = None
    exclude: Sequence[str] | None = None


class _Ratios(click.ParamType["str | dict[str, float]", "dict[str, float]"]):
    """Names of splits with their ratios, such as `train=0.8,val=0.1,test=0.1`."""

    name = "ratios"

    def convert(
        self, value: str | dict[str, float], param: click.Parameter | None, ctx: click.Context | None
    ) -> dict[str, float]:
        if isinstance(value, dict):
            return value
        ratios: dict[str, float] = {}
        for one in value.split(","):
            name, _, ratio = (part.strip() for part in one.partition("="))
            try:
                number = float(ratio)
            except ValueError:
                self.fail(f"expected splits such as train=0.8,val=0.1,test=0.1, got {value!r}", param, ctx)
            if name in ratios:
                self.fail(f"the split {name!r} is there twice", param, ctx)
            ratios[name] = number
        return ratios


class _Exclusions(click.ParamType["str | Sequence[str]", "Sequence[str]"]):
    """A file with images to leave out; the value has their SHA-256. It is read once, as stdin can be."""

    name = "filename"

    def convert(
        self, value: str | Sequence[str], param: click.Parameter | None, ctx: click.Context | None
    ) -> Sequence[str]:
        if not isinstance(value, str):
            return value
        with click.File(encoding="utf-8-sig").convert(value, param, ctx) as file:
            try:
                return exclusions.digests(json.load(file))
            except PermanentError as error:
                raise click.UsageError(f"{file.name}: {error}") from error
            except (ValueError, RecursionError) as error:
                raise click.UsageError(f"{file.name} is not valid JSON: {error}") from error


_OPTIONS = (
    click.option(
        "--format",
        "format_",
        type=click.Choice([one.value for one in ExportFormat], case_sensitive=False),
        help="File format.  [default: that of the layout, mostly zip]",
    ),
    click.option(
        "--layout",
        metavar="NAME",
        shell_complete=arguments.completing(protocol.LAYOUTS.installed),
        help="Dataset layout; pixcrawler export --layouts lists them.  [default: imagefolder]",
    ),
    click.option(
        "--resize",
        type=arguments.NUMBER,
        metavar="PIXELS",
        help="Shrink larger images to fit into a square of this size.",
    ),
    click.option(
        "--convert",
        metavar="FORMAT",
        shell_complete=arguments.completing(lambda: WRITTEN_FORMATS),
        help="Image format of all images, such as jpg.  [default: as they are stored]",
    ),
    click.option(
        "--split",
        type=_Ratios(),
        metavar="RATIOS",
        help="Splits with their ratios, such as train=0.8,val=0.1,test=0.1.",
    ),
    click.option(
        "--only-valid/--all",
        default=None,
        help="Leave out what the validation finds invalid, and exact duplicates, or not.  [default: --only-valid]",
    ),
    click.option(
        "--name-template",
        metavar="TEXT",
        help="Names of image files from {index}, {id}, {sha256}, {label} and {title}, such as {label}-{index}.  "
        "[default: {sha256}]",
    ),
    click.option(
        "--failures/--no-failures",
        default=None,
        help="Add failed.jsonl, the URLs that did not become images, or not.  [default: only build adds it]",
    ),
    click.option(
        "--exclude",
        type=_Exclusions(),
        help="JSON file with the SHA-256 of images to leave out, or - for stdin.",
    ),
)


def add_options(
    command: Callable[Concatenate[ExportArguments, Parameters], Returned],
) -> Callable[Parameters, Returned]:
    """Add the options to a command, which gets their values as its first argument."""

    @functools.wraps(command)
    def called(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Returned:
        given: Any = {name: kwargs.pop(name) for name in ExportArguments.__dataclass_fields__}
        return command(ExportArguments(**given), *args, **kwargs)

    for option in reversed(_OPTIONS):
        called = option(called)
    return called


def parse(given: ExportArguments, file: TextIO | None = None) -> tuple[ExportFormat, dict[str, Any]]:
    """Return the file format and the options of an export, as the row has them.

    Args:
        given: arguments; each overrides the value in the file.
        file: options as a JSON object.

    Raises:
        click.UsageError: when they are invalid, or the format does not fit the layout.
    """
    found = {} if file is None else arguments.read_json_object(file)
    values: Mapping[tuple[str, ...], object] = {
        ("layout",): given.layout,
        ("image", "resize", "size"): given.resize,
        ("image", "format"): given.convert,
        ("splits", "ratios"): given.split,
        ("name_template",): given.name_template,
        ("select", "only_valid"): given.only_valid,
        ("select", "exclude_flags"): [] if given.only_valid is False else None,
        ("select", "exclude_images"): None if given.exclude is None else list(given.exclude),
        ("extras", "failures"): given.failures,
    }
    for path, value in values.items():
        if value is not None:
            _set(found, path, value)
    select = found.get("select")
    if given.only_valid and isinstance(select, dict) and select.get("exclude_flags") == []:
        # Of an earlier --all: without it, exact duplicates are left out.
        del select["exclude_flags"]
    try:
        parsed = options.parse(found)
        format_ = options.format_of(given.format_) if given.format_ else parsed.default_format()
        parsed.layout_for(format_)
    except PermanentError as error:
        raise click.UsageError(str(error)) from error
    return format_, found


def _set(found: dict[str, Any], path: tuple[str, ...], value: object) -> None:
    """Set a value within nested objects. Whatever is there in place of an object is left to the parser of options."""
    *above, last = path
    for name in above:
        below = found.get(name)
        if below is None:
            below = found[name] = {}
        if not isinstance(below, dict):
            return
        found = below
    found[last] = value
