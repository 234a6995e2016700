"""The export options that `pixcrawler export` and `pixcrawler build` read from their arguments."""

from typing import Any, TextIO

import click

from pixcrawler_worker.cli import arguments
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.export import options
from pixcrawler_worker.exporters.protocol import ExportFormat


def parse(file: TextIO | None, *, format_: str, layout: str | None) -> dict[str, Any]:
    """Return the options of an export, as the row has them.

    Args:
        file: options as a JSON object.
        format_: the file format, which has to fit the layout.
        layout: overrides the layout in the file.

    Raises:
        click.UsageError: when they are invalid.
    """
    given = {} if file is None else arguments.read_json_object(file)
    if layout is not None:
        given["layout"] = layout
    try:
        options.parse(given).layout_for(ExportFormat(format_))
    except PermanentError as error:
        raise click.UsageError(str(error)) from error
    return given
