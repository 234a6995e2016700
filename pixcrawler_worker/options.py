"""Options of jobs: the field types that all kinds share, one parser, and one style of message.

Options come from messages and from JSON columns, so any JSON value is possible. `parse` returns a model or raises a
`PermanentError` that names the column or argument, the field, what was expected and what was given:

    options.min_width: expected an integer of at least 1, got "wide"
    validation_rules.checks.blury: unknown option, did you mean 'blurry'?
"""

import contextlib
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    StrictStr,
    StringConstraints,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
)
from pydantic_core import CoreSchema, ErrorDetails, PydanticCustomError, core_schema

from pixcrawler_worker.domain import licenses, stored_json
from pixcrawler_worker.domain.facts import FORMATS
from pixcrawler_worker.domain.naming import hint
from pixcrawler_worker.domain.postgres_types import MAX_INT4, storable
from pixcrawler_worker.domain.stored_json import UnreadableJson
from pixcrawler_worker.errors import PermanentError

Model = TypeVar("Model", bound=BaseModel)
#: Keys and positions that lead to a value within JSON.
Path = tuple[str | int, ...]

#: Characters of a name: of a label, a source, a check.
MAX_NAME = 200
#: Characters of a key or value that a message quotes.
_MAX_QUOTE = 60
#: Bits of an integer that a message quotes.
_MAX_QUOTED_BITS = 128
#: Keys that a message shows without quotation marks.
_PLAIN_KEY = re.compile(rf"[\w-]{{1,{_MAX_QUOTE}}}", re.ASCII)
#: Type of the errors that the annotations of this module raise.
_EXPECTED = "expected"


class Options(BaseModel):
    """Base of all options: they are immutable, and unknown keys are invalid."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True, slots=True)
class Expected:
    """Annotates a type with the words for a valid value, in place of the messages of pydantic."""

    text: str

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Return the schema of the annotated type, with another message."""
        return _with_message(handler(source), lambda _: self.text)


@dataclass(frozen=True, slots=True)
class Integer:
    """Annotates `int` with bounds, both included. Booleans, floats and strings are invalid."""

    minimum: int
    maximum: int = MAX_INT4

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Return the schema of an integer within the bounds."""
        del source, handler
        return _with_message(core_schema.int_schema(strict=True, ge=self.minimum, le=self.maximum), self._expected)

    def _expected(self, value: object) -> str:
        if self.maximum != MAX_INT4:
            return f"an integer from {self.minimum} to {self.maximum}"
        # The limit of the database is mentioned only where it matters.
        if isinstance(value, int) and value > self.maximum:
            return f"an integer of at most {self.maximum}"
        return f"an integer of at least {self.minimum}"


@dataclass(frozen=True, slots=True)
class Number:
    """Annotates `float` with bounds. Booleans, strings, infinity and NaN are invalid.

    Attributes:
        minimum: included; None for none.
        maximum: included; None for none.
        above: a minimum that is not included; None for none.
    """

    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Return the schema of a finite number within the bounds."""
        del source, handler
        schema = core_schema.float_schema(
            strict=True, allow_inf_nan=False, ge=self.minimum, le=self.maximum, gt=self.above
        )
        return _with_message(schema, lambda _: self._expected())

    def _expected(self) -> str:
        if self.minimum is not None and self.maximum is not None:
            return f"a number from {self.minimum:g} to {self.maximum:g}"
        words = {"above": self.above, "of at least": self.minimum, "of at most": self.maximum}
        bounds = " and ".join(f"{word} {bound:g}" for word, bound in words.items() if bound is not None)
        return f"a number {bounds}" if bounds else "a finite number"


def _with_message(schema: CoreSchema, expected: Callable[[object], str]) -> CoreSchema:
    def validate(value: object, handler: ValidatorFunctionWrapHandler) -> object:
        try:
            return handler(value)
        except ValidationError:
            raise PydanticCustomError(_EXPECTED, "{expected}", {"expected": expected(value)}) from None

    return core_schema.no_info_wrap_validator_function(validate, schema)


def image_format(name: str) -> str:
    """Return the format as `ImageFacts.format` has it, for any usual notation.

    Raises:
        ValueError: when it is unknown.
    """
    plain = name.lower().removeprefix("image/").removeprefix(".")
    plain = {"jpeg": "jpg", "tif": "tiff", "heif": "heic"}.get(plain, plain)
    if plain not in FORMATS:
        raise ValueError(f"there is no image format {short(name)!r}; {hint(plain, FORMATS)}")
    return plain


def _license(name: str) -> str:
    try:
        return licenses.parse(name)
    except PermanentError as error:
        raise ValueError(str(error)) from None


#: A text that PostgreSQL can store.
Text = Annotated[StrictStr, AfterValidator(storable)]
#: A name that PostgreSQL can store: of a label, a source, a check.
Name = Annotated[
    Text,
    StringConstraints(pattern=r"\S", max_length=MAX_NAME),
    Expected(f"a string that is not blank, of at most {MAX_NAME} characters"),
]
#: Entries of a list of names, formats or licenses: more than any job needs, and few enough to compare each image with.
MAX_NAMES = 10_000
#: A format of images as `ImageFacts.format` has it; `JPEG`, `.jpg`, `image/jpeg` and `tif` are accepted, too.
ImageFormat = Annotated[
    StrictStr, AfterValidator(image_format), WithJsonSchema({"type": "string", "examples": list(FORMATS)})
]
#: A license or a family of licenses by its identifier; `CC BY 4.0` and the like are accepted, too.
License = Annotated[StrictStr, AfterValidator(_license)]
#: The SHA-256 of a stored file.
Sha256 = Annotated[
    StrictStr,
    StringConstraints(pattern=r"^[0-9a-fA-F]{64}$", to_lower=True),
    Expected("a SHA-256 of 64 hexadecimal digits"),
]
#: A number of pixels, images or pages.
Size = Annotated[int, Integer(1)]
#: A number that may be 0.
Count = Annotated[int, Integer(0)]
#: A share of a whole, from 0 to 1.
Share = Annotated[float, Number(minimum=0, maximum=1)]


def parse(
    model: type[Model],
    raw: object,
    where: str,
    *,
    aliases: Mapping[Path, Path] | None = None,
    known_aliases: Collection[str] = (),
) -> Model:
    """Return the options in a JSON value.

    Args:
        model: of the options.
        raw: the JSON value.
        where: name of the column or argument that has it.
        aliases: the paths that were given in place of those in `raw`.
        known_aliases: all top-level keys that are accepted besides the fields of the model.

    Raises:
        PermanentError: when a key is unknown or a value is invalid; the message names the field.
    """
    if not isinstance(raw, dict):
        raise PermanentError(f"{where}: expected an object, got {quoted(raw)}")
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        problems = [_Problem.of(one, raw) for one in error.errors(include_url=False, include_input=False)]
    except RecursionError:
        raise PermanentError(f"{where}: the options are nested too deeply") from None
    unknown = next((one.path for one in problems if one.is_unknown_key), None)
    if unknown is not None:
        shown = _shown(where, _given(unknown, aliases or {}))
        raise PermanentError(f"{shown}: unknown option, {_hint(model, unknown, known_aliases)}")
    # A union has an error for each of its types. Those that lie deepest belong to the type that was meant.
    depth = max(len(one.path) for one in problems)
    path = next(one.path for one in problems if len(one.path) == depth)
    message = _message([one for one in problems if one.path == path])
    raise PermanentError(f"{_shown(where, _given(path, aliases or {}))}: {message}")


def _given(path: Path, aliases: Mapping[Path, Path]) -> Path:
    """Return the path that was given in place of one in the options."""
    for aliased, alias in aliases.items():
        if path[: len(aliased)] == aliased:
            return (*alias, *path[len(aliased) :])
    return path


def short(name: str) -> str:
    """Return a name for a message, in at most 60 characters."""
    return name if len(name) <= _MAX_QUOTE else f"{name[: _MAX_QUOTE - 3]}..."


def quoted(value: object) -> str:
    """Return a JSON value for a message, in at most 60 characters; an object or an array by its type alone."""
    if isinstance(value, dict | list | tuple | UnreadableJson):
        return stored_json.quoted(value)
    if isinstance(value, str):
        text = json.dumps(value[: _MAX_QUOTE + 1], ensure_ascii=False).encode("utf-8", "replace").decode()
        return text if len(text) <= _MAX_QUOTE else f'{text[: _MAX_QUOTE - 4].rstrip(chr(92))}..."'
    if isinstance(value, int) and value.bit_length() > _MAX_QUOTED_BITS:
        return "a number with very many digits"
    if value is None or isinstance(value, bool | int | float):
        return json.dumps(value)
    return f"a value of the type {type(value).__name__}"


@dataclass(frozen=True, slots=True)
class _Problem:
    """An error of pydantic, with the path and the value in JSON that it is about."""

    path: Path
    value: object
    error: ErrorDetails

    @classmethod
    def of(cls, error: ErrorDetails, raw: object) -> "_Problem":
        """Return the problem; its path leaves out the parts of a location that name the types of a union."""
        path: list[str | int] = []
        value, location, is_key = raw, error["loc"], error["type"] == "invalid_key"
        for part in location[:-1] if is_key else location:
            with contextlib.suppress(LookupError):
                value = _child(value, part)
                path.append(part)
        if is_key:
            # It is not a string; the location may have it as text.
            path.append(str(location[-1]))
        elif location and location[-1] == "[key]":
            value = path.pop()
        return cls(tuple(path), value, error)

    @property
    def is_unknown_key(self) -> bool:
        """Whether a key is not one of the fields of its model."""
        return self.error["type"] in {"extra_forbidden", "invalid_key"}

    @property
    def expected(self) -> Sequence[str]:
        """The alternatives that would be valid."""
        type_, context = self.error["type"], self.error.get("ctx", {})
        if type_ in _EXPECTATIONS:
            return _EXPECTATIONS[type_]
        if "expected" in context:
            return (str(context["expected"]).replace("'", '"'),)
        if type_ == "missing":
            return (f"an object with `{self.error['loc'][-1]}`",)
        if type_ == "too_short":
            return (f"at least {context['min_length']} entries",)
        if type_ == "too_long":
            return (f"at most {context['max_length']} entries",)
        return (self.error["msg"],)


def _child(value: object, part: str | int) -> object:
    """Return the value of a key or at a position.

    Raises:
        LookupError: when there is none.
    """
    if isinstance(value, dict):
        return value[part]
    if isinstance(value, list) and isinstance(part, int):
        return value[part]
    raise LookupError(part)


_EXPECTATIONS: Mapping[str, Sequence[str]] = {
    "bool_type": ("true", "false"),
    "invalid-json-value": ("a JSON value",),
    "int_parsing_size": ("a number with fewer digits",),
    "string_unicode": ("a string of characters, without unpaired surrogates",),
    "dict_type": ("an object",),
    "list_type": ("an array",),
    "model_type": ("an object",),
    "string_type": ("a string",),
    "tuple_type": ("an array",),
}


def _message(problems: Sequence[_Problem]) -> str:
    """Return what is wrong with one value, of which a union has several problems."""
    for problem in problems:
        if problem.error["type"] == "value_error":
            return str(problem.error["ctx"]["error"])
    *others, last = dict.fromkeys(one for problem in problems for one in problem.expected)
    alternatives = " or ".join([*([", ".join(others)] if others else []), last])
    return f"expected {alternatives}, got {quoted(problems[0].value)}"


def _shown(where: str, path: Path) -> str:
    def part(one: str | int) -> str:
        if isinstance(one, int):
            return f"[{one}]"
        return f".{one}" if _PLAIN_KEY.fullmatch(one) else f".{quoted(one)}"

    return where + "".join(map(part, path))


def _hint(model: type[BaseModel], path: Path, known_aliases: Collection[str]) -> str:
    """Return the nearest known name to an unknown key, or all known names."""
    models = [model]
    for part in path[:-1]:
        fields = [one.model_fields[part].annotation for one in models if part in one.model_fields]
        if fields:
            models = [inner for annotation in fields for inner in _models(annotation)]
    known = list(dict.fromkeys(name for one in models for name in one.model_fields))
    return hint(str(path[-1]), [*known, *known_aliases] if len(path) == 1 else known)


def _models(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models(inner)
