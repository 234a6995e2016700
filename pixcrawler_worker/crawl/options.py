"""What a caller may ask of one crawl."""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr, ValidationError

from pixcrawler_worker.domain import licenses
from pixcrawler_worker.domain.facts import FORMATS
from pixcrawler_worker.domain.naming import hint
from pixcrawler_worker.errors import PermanentError


def _storable(text: str) -> str:
    """Return a text without what PostgreSQL cannot keep: an address that had it is refused later, and counted."""
    return text.replace("\x00", "").encode("utf-8", "replace").decode()


_Text = Annotated[StrictStr, AfterValidator(_storable)]


def _format(name: str) -> str:
    """Return a format as `ImageFacts.format` has it, for the ways people write it."""
    plain = name.lower().removeprefix(".").removeprefix("image/")
    plain = {"jpeg": "jpg", "tif": "tiff"}.get(plain, plain)
    if plain not in FORMATS:
        raise ValueError(f"{name!r} is no format; known are {', '.join(FORMATS)}")
    return plain


_Format = Annotated[StrictStr, AfterValidator(_format)]


def _license(name: str) -> str:
    """Return a license, or a family of them, by its one name."""
    try:
        return licenses.parse(name)
    except PermanentError as error:
        raise ValueError(str(error)) from None


_License = Annotated[StrictStr, AfterValidator(_license)]


class CrawlOptions(BaseModel):
    """Options of a crawl. They are kept in the ledger, so that a retry or a recovery needs no message."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sources: tuple[_Text, ...] | None = Field(None, description="names of sources; every usable one when left out")
    urls: tuple[_Text, ...] = Field((), description="addresses for the `urls` source")
    licenses: tuple[_License, ...] | None = Field(None, description="cc0, cc-by-4.0, ...; all when left out")
    min_width: Annotated[StrictInt, Field(ge=1)] = Field(32, description="pixels")
    min_height: Annotated[StrictInt, Field(ge=1)] = Field(32, description="pixels")
    formats: tuple[_Format, ...] | None = Field(None, description="jpg, png, ...; all when left out")
    chunk_size: Annotated[StrictInt, Field(ge=1, le=1000)] | None = Field(None, description="candidates per chunk")
    max_rounds: Annotated[StrictInt, Field(ge=1, le=100)] = Field(5, description="rounds, the first one included")
    safe_search: StrictBool = Field(True, description="ask sources that can to leave out adult content")


def parse(raw: object) -> CrawlOptions:
    """Return the options in a message.

    Raises:
        PermanentError: on an unknown option or a wrong value; the message names it.
    """
    if not isinstance(raw, dict):
        raise PermanentError(f"options must be an object, not {type(raw).__name__}")
    unknown = sorted(str(key) for key in set(raw) - set(CrawlOptions.model_fields))
    if unknown:
        raise PermanentError(f"there is no option {unknown[0]!r}; {hint(unknown[0], CrawlOptions.model_fields)}")
    try:
        return CrawlOptions.model_validate(raw)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise PermanentError(f"option {where}: {problem['msg']}") from None


def kept(options: CrawlOptions) -> dict[str, Any]:
    """Return the options as the ledger keeps them: without the URLs, which have a table of their own."""
    return options.model_dump(mode="json", exclude={"urls"}, exclude_defaults=True)
