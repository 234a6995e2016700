"""Recipes: everything that determines a dataset, in a TOML file that `pixcrawler build` reads and writes."""

import contextlib
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import click
import tomli_w
from pydantic import Field

from pixcrawler_worker import options
from pixcrawler_worker.cli import crawl_arguments
from pixcrawler_worker.cli.crawl_arguments import CrawlArguments
from pixcrawler_worker.crawl import planner
from pixcrawler_worker.crawl.lists import remote
from pixcrawler_worker.crawl.lists.rows import Columns
from pixcrawler_worker.crawl.lists.stored import StoredList
from pixcrawler_worker.crawl.options import CrawlOptions, in_row, parse
from pixcrawler_worker.db import crawls
from pixcrawler_worker.db.job_views import CrawlView
from pixcrawler_worker.db.session import Session
from pixcrawler_worker.domain.keywords import parse_keywords
from pixcrawler_worker.errors import PermanentError
from pixcrawler_worker.export.options import ExportOptions, format_of
from pixcrawler_worker.exporters.protocol import ExportFormat
from pixcrawler_worker.options import Options, Sha256, Size, Text
from pixcrawler_worker.runtime import Runtime
from pixcrawler_worker.sources import protocol
from pixcrawler_worker.validate import rules

#: The newest version of recipes that is known.
VERSION = 1
#: Options that depend on what else a database has.
_OF_OTHER_JOBS = {"skip_known", "extends"}
#: Bytes of a recipe: one with the most excluded images has a tenth.
_MAX_BYTES = 100_000_000


class RecipeList(Options):
    """The URL list of a dataset."""

    path: Text = Field(description="path, from the directory of the recipe, or URL")
    sha256: Sha256 = Field(description="SHA-256 of the list")
    url_column: Text | None = None
    caption_column: Text | None = None
    label_column: Text | None = None


class Recipe(Options):
    """Everything that determines a dataset, besides what its sources and hosts return."""

    version: int = VERSION
    keywords: tuple[Any, ...] = Field(min_length=1)
    max_images: Size
    urls: RecipeList | None = Field(None, description="the URL list")
    crawl: CrawlOptions = Field(parse({}), description="options of the crawl: sources, licenses, filters")
    rules: dict[str, Any] = Field({}, description="rules of the validation")
    format: Text | None = Field(None, description="file format: zip, tar or csv; by default that of the layout")
    export: ExportOptions = Field(ExportOptions(), description="options of the export: layout, splits, images")

    @property
    def export_format(self) -> ExportFormat:
        """The file format.

        Raises:
            PermanentError: when it is unknown, or does not fit to the layout.
        """
        found = self.export.default_format() if self.format is None else format_of(self.format)
        self.export.layout_for(found)
        return found

    def to_toml(self, *, extends: int | None = None) -> str:
        """Return the file.

        Args:
            extends: the job whose dataset was extended, which is one of a database, and no part of a recipe.
        """
        found = self.model_dump(mode="json", exclude_none=True, exclude={"crawl": _OF_OTHER_JOBS | {"urls"}})
        note = f"# To add to a dataset as job {extends} had it: pixcrawler build --recipe FILE --extend {extends}\n"
        return (note if extends else "") + tomli_w.dumps(_without_null(found))


def read(path: Path) -> Recipe:
    """Return the recipe in a file. A relative path of its list is one from the directory of the recipe.

    Raises:
        PermanentError: when the file is none, of a newer version, or has an unknown key or an invalid value; the
            message has the name of the file, and the line or the key.
    """
    try:
        with path.open("rb") as file:
            body = file.read(_MAX_BYTES + 1)
        if len(body) > _MAX_BYTES:
            raise PermanentError(f"{path} is no recipe: it has more than {_MAX_BYTES:,} bytes")
        text = body.decode("utf-8-sig")
        raw = tomllib.loads(text)
    except OSError as error:
        raise PermanentError(f"{path} could not be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise PermanentError(f"{path} is no recipe: it is not UTF-8") from error
    except (ValueError, RecursionError) as error:
        # An integer of thousands of digits is no error of TOML.
        raise PermanentError(f"{path} is not valid TOML: {error}") from error
    _check_version(raw.get("version"), path)
    try:
        recipe = options.parse(Recipe, raw, _ROOT)
        parse_keywords(list(recipe.keywords))
        rules.parse(recipe.rules)
        _ = recipe.export_format
        _check_crawl(recipe)
    except PermanentError as error:
        raise PermanentError(_located(str(error), text, path)) from error
    if recipe.urls is None or remote.is_remote(recipe.urls.path):
        return recipe
    listed = recipe.urls.model_copy(update={"path": str((path.parent / recipe.urls.path).absolute())})
    return recipe.model_copy(update={"urls": listed})


def of_job(runtime: Runtime, session: Session, job: CrawlView, build: Mapping[str, Any]) -> Recipe:
    """Return the recipe of a job, for another one like it.

    Args:
        runtime: has the sources.
        session: read only.
        job: the crawl job.
        build: what its build was requested with; empty for a job without one.

    Raises:
        PermanentError: when the options in the row are invalid, or the path of its URL list is not known.
    """
    known = crawls.recorded_options(session, job.id)
    recorded = parse(known.options) if known else in_row(job.keywords) or parse({})
    if recorded.skip_known:
        raise PermanentError(
            f"job {job.id} has left out what other jobs had (--skip-known): no recipe gives its images again"
        )
    keywords = job.keywords.get("keywords") if isinstance(job.keywords, dict) else job.keywords
    has_list = known is not None and crawls.load(session, job.id).url_pages > 0
    if has_list and not isinstance(build.get("list"), dict):
        raise PermanentError(
            f"job {job.id} has a URL list whose file is not known: give it to `pixcrawler build --urls FILE "
            "--save-recipe RECIPE`"
        )
    return make(
        runtime,
        keywords=keywords if isinstance(keywords, list) else [],
        max_images=job.max_images,
        crawl=recorded,
        build=build,
    )


def make(
    runtime: Runtime,
    *,
    keywords: list[Any] | tuple[Any, ...],
    max_images: int,
    crawl: CrawlOptions,
    build: Mapping[str, Any],
) -> Recipe:
    """Return the recipe of a dataset. Defaults are written out, since other versions may have others.

    Args:
        runtime: has the sources.
        keywords: of the job.
        max_images: of the job.
        crawl: options of the job.
        build: what its build is requested with: `format`, `options`, `rules` and `list`, each where there is one.

    Raises:
        PermanentError: when something in it is invalid.
    """
    listed = build.get("list")
    used = planner.sources(runtime, crawl, has_urls=isinstance(listed, dict))
    chunk_size = crawl.chunk_size or runtime.settings.chunk_size
    export = build.get("options")
    raw = {
        "keywords": list(keywords),
        "max_images": max_images,
        "crawl": crawl.model_dump(mode="json", exclude=_OF_OTHER_JOBS | {"urls"}, exclude_none=True)
        | {"sources": list(used), "chunk_size": chunk_size, "reproducible": True},
        "rules": build.get("rules") or {},
        "export": {**(export if isinstance(export, dict) else {}), "reproducible": True},
        **({"format": build["format"]} if build.get("format") else {}),
        **({"urls": listed} if isinstance(listed, dict) else {}),
    }
    recipe = options.parse(Recipe, raw, _ROOT)
    format_, chosen = recipe.export_format, recipe.export
    ratios = chosen.ratios(chosen.layout_for(format_)) or None
    splits = chosen.splits.model_copy(update={"ratios": ratios})
    chosen = chosen.model_copy(update={"layout": chosen.layout_name(format_), "splits": splits})
    return recipe.model_copy(update={"format": format_.value, "export": chosen})


def crawl_of(recipe: Recipe, path: Path, *, extends: int | None = None) -> CrawlArguments:
    """Return the crawl of a recipe that was read from a file. Its list is closed with the context of the command.

    Args:
        recipe: that was read.
        path: of its file.
        extends: the job whose dataset it adds to; None for none.

    Raises:
        PermanentError: when a source is not installed, or its list cannot be read or is not the one that it was.
    """
    for name in recipe.crawl.sources or ():
        protocol.SOURCES.require(name)
    crawl = recipe.crawl.model_copy(update={"extends": extends})
    context = click.get_current_context()
    if recipe.urls is None:
        return CrawlArguments(recipe.keywords, crawl, recipe.max_images, context.with_resource(StoredList(())))
    where: str | BinaryIO = recipe.urls.path
    columns = Columns(recipe.urls.url_column, recipe.urls.caption_column, recipe.urls.label_column)
    with contextlib.ExitStack() as opened:
        if not remote.is_remote(recipe.urls.path):
            try:
                where = opened.enter_context(Path(recipe.urls.path).open("rb"))
            except OSError as error:
                raise PermanentError(f"{recipe.urls.path}, the list of {path}: {error.strerror or error}") from error
        stored, digest = crawl_arguments.stored_list(where, columns)
    listed = context.with_resource(stored)
    if digest != recipe.urls.sha256:
        raise PermanentError(
            f"{recipe.urls.path} has changed since the recipe was saved: its SHA-256 is {digest}, and {path} has "
            f"{recipe.urls.sha256}"
        )
    origin = recipe.urls.model_dump(exclude_none=True)
    return CrawlArguments(recipe.keywords, crawl, recipe.max_images, listed, origin)


def save(path: Path, runtime: Runtime, crawl: CrawlArguments, build: Mapping[str, Any]) -> Recipe:
    """Write the recipe of a build to a new file, and return it. See `make`.

    Raises:
        PermanentError: when it cannot be written, or there is such a file already.
    """
    if crawl.listed and crawl.origin is None:
        raise PermanentError(
            "a recipe names its URL list, so the list must not come from stdin, nor from a URL with a password or with "
            "parameters: give --urls a file to save a recipe"
        )
    recipe = make(runtime, keywords=crawl.keywords, max_images=crawl.max_images, crawl=crawl.options, build=build)
    if recipe.urls is not None and crawl.origin is not None and recipe.urls.path != crawl.origin["path"]:
        raise PermanentError(
            "a recipe names its URL list, and the name of this one has characters that TOML does not have: rename it"
        )
    text = _named_from(recipe, path).to_toml(extends=crawl.options.extends)
    try:
        with path.open("x", encoding="utf-8") as file, contextlib.ExitStack() as undo:
            undo.callback(path.unlink, missing_ok=True)
            file.write(text)
            file.flush()
            undo.pop_all()
    except OSError as error:
        raise PermanentError(f"{path} could not be written: {error.strerror or error}") from error
    return recipe


def _named_from(recipe: Recipe, path: Path) -> Recipe:
    """Return a recipe for a file, whose list is named from the directory of the file."""
    if recipe.urls is None or remote.is_remote(recipe.urls.path):
        return recipe
    listed = Path(recipe.urls.path)
    # `..` is relative to where the directory really is.
    relative = os.path.relpath(listed.parent.resolve() / listed.name, path.parent.resolve())
    return recipe.model_copy(update={"urls": recipe.urls.model_copy(update={"path": Path(relative).as_posix()})})


_ROOT = "recipe"
#: The beginning of a message: where, and what.
_WHERE = re.compile(rf"(?:{_ROOT}|export_options|validation_rules|options)((?:\.[\w-]+|\.\"[^\"]*\"|\[\d+\])+): ")
_MISSING = re.compile(rf"{_ROOT}((?:\.[\w-]+)*): expected an object with `(\w+)`, got an object")
_TABLES = {"export_options": "export", "validation_rules": "rules", "options": "crawl"}


def _check_version(version: object, path: Path) -> None:
    if version is None:
        raise PermanentError(f"{path} is no recipe: expected version = {VERSION}")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise PermanentError(f"{path}: version: expected {VERSION}, got {options.quoted(version)}")
    if version > VERSION:
        raise PermanentError(
            f"{path} is a recipe of version {version}, and this PixCrawler knows recipes up to version {VERSION}: "
            "upgrade it"
        )


def _check_crawl(recipe: Recipe) -> None:
    """Raise PermanentError when the crawl of a recipe depends on other jobs, or does not fit to its list."""
    if recipe.crawl.extends is not None:
        raise PermanentError(
            f"{_ROOT}.crawl.extends: a recipe does not depend on the jobs of a database: leave it out, and give "
            "--extend to pixcrawler build"
        )
    if recipe.crawl.skip_known:
        raise PermanentError(
            f"{_ROOT}.crawl.skip_known: a recipe does not depend on the jobs of a database: leave it out"
        )
    if recipe.crawl.urls:
        raise PermanentError(
            f"{_ROOT}.crawl.urls: a recipe has no URLs: name a file with them as path in a table [urls]"
        )
    if recipe.urls is not None and crawl_arguments.has_secret(recipe.urls.path):
        raise PermanentError(f"{_ROOT}.urls.path: expected a path, or a URL without password and parameters")
    if recipe.urls is not None and len(parse_keywords(list(recipe.keywords))) > 1:
        raise PermanentError(f"{_ROOT}.keywords: a URL list has one label: give it one keyword")
    crawl_arguments.check(recipe.keywords, recipe.crawl, has_list=recipe.urls is not None)


def _located(message: str, text: str, path: Path) -> str:
    """Return a message of the parser of options with the name of the file, and the line where the key can be found."""
    if missing := _MISSING.match(message):
        dotted = f"{missing[1].lstrip('.')}.{missing[2]}".lstrip(".")
        return f"{path}: {dotted} is missing"
    found = _WHERE.match(message)
    if found is None:
        # Of keywords and formats, whose messages have their own words.
        line = _line(text, [re.split(r"\W", message, maxsplit=1)[0]])
        return f"{path}, line {line}: {message}" if line else f"{path}: {message}"
    table = _TABLES.get(message.split(".", 1)[0])
    keys = [quoted or plain for plain, quoted in re.findall(r"\.(?:([\w-]+)|\"([^\"]*)\")", found[1])]
    keys = [table, *keys] if table else keys
    line = _line(text, keys)
    where = f"{path}, line {line}" if line else str(path)
    dotted = (f"{table}{found[1]}" if table else found[1]).lstrip(".")
    return f"{where}: {dotted}: {message[found.end() :]}"


def _line(text: str, keys: list[str]) -> int | None:
    """Return the number of the line that has a key, from 1; None when it is not written in the usual way."""
    header = ""
    *above, last = keys
    for number, line in enumerate(text.splitlines(), 1):
        if (table := re.match(r"\s*\[\[?\s*([^\]]+?)\s*\]", line)) and "=" not in line.split("]")[0]:
            header = table[1].replace('"', "")
            if header == ".".join(keys):
                return number
        elif re.match(rf"\s*\"?{re.escape(last)}\"?\s*[=.]", line) and header == ".".join(above):
            return number
    # The value is in an array or an inline table of a key above it.
    return _line(text, above) if above else None


def _without_null(value: Any) -> Any:  # noqa: ANN401 - any JSON
    """Return a value without null, which TOML does not have."""
    if isinstance(value, dict):
        return {key: _without_null(one) for key, one in value.items() if one is not None}
    if isinstance(value, list):
        return [_without_null(one) for one in value if one is not None]
    return value
