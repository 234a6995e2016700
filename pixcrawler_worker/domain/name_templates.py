"""Templates for the names of image files in a dataset, such as `{label}-{index}`.

A name is one that every file system, archive and reader takes: ASCII letters, digits, `-` and `_`, without an extension
or a folder. Two images never have the same name, whatever their labels and titles are: a template begins or ends with a
field that no two images share, and nothing before or after it can be taken for a part of it.
"""

import re
from dataclasses import dataclass
from typing import TypeAlias

from pixcrawler_worker.domain.labels import has_split_word, plain_name, slug, without_split_words

#: Characters of a name: with the extension, the limit of a tar, in which a name has at most 99.
MAX_NAME = 94
#: Characters of a template, and those that a text must have room for in every name.
_MAX_TEMPLATE, _MIN_TEXT = 200, 8
#: Digits of a number, without and with a width; and the largest one.
_DIGITS, _MAX_WIDTH = 6, 12
_MAX_DIGITS = {"index": 10, "id": 19}
#: Digits of a SHA-256, and of the copy behind it.
_SHA256, _COPY_DIGITS = 64, 11

_NUMBERS, _TEXTS = ("index", "id"), ("label", "title")
FIELDS = ("index", "id", "sha256", "label", "title")
_FIELD = re.compile(r"\{([^{}:]*)(?::([^{}]*))?\}")
_UNTITLED = "untitled"


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedImage:
    """What a name may have of an image.

    Attributes:
        index: position in the dataset, from 0.
        id: of its row.
        digest: hexadecimal digits of the SHA-256 by which files are named.
        copy: number among the images with that digest, from 0.
        label: its class.
        title: as its source states it; possibly empty.
    """

    index: int
    id: int
    digest: str
    copy: int
    label: str
    title: str


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    width: int | None


_Part: TypeAlias = str | _Field


@dataclass(frozen=True, slots=True)
class NameTemplate:
    """A template that was checked.

    Attributes:
        parts: texts and fields, in their order.
        room: characters of each text of an image.
    """

    parts: tuple[_Part, ...]
    room: int

    @classmethod
    def parse(cls, text: str) -> "NameTemplate":
        """Return a template.

        Raises:
            ValueError: when it is invalid; the message says what is expected.
        """
        if len(text) > _MAX_TEMPLATE:
            raise ValueError(f"the template has more than {_MAX_TEMPLATE} characters")
        parts = tuple(_parts(text))
        _check_texts(parts)
        _check_unique(parts)
        fixed = sum(len(part) if isinstance(part, str) else _max_length(part) for part in parts)
        texts = sum(isinstance(part, _Field) and part.name in _TEXTS for part in parts)
        room = MAX_NAME - fixed
        if room < texts * _MIN_TEXT:
            raise ValueError(f"names could be longer than {MAX_NAME} characters: shorten the template")
        return cls(parts, room // max(texts, 1))

    def name(self, image: NamedImage) -> str:
        """Return the name of an image, without its extension."""
        room = self.room
        # Replacing the words that readers take for splits may make a name longer.
        while len(name := self._rendered(image, room)) > MAX_NAME:
            room -= 1
        return name

    def _rendered(self, image: NamedImage, room: int) -> str:
        texts = (part if isinstance(part, str) else _value(part, image, room) for part in self.parts)
        return without_split_words("".join(texts).lstrip("-_"))


def _parts(text: str) -> list[_Part]:
    parts: list[_Part] = []
    end = 0
    for found in _FIELD.finditer(text):
        parts += [text[end : found.start()], _field(found[1], found[2])]
        end = found.end()
    return [part for part in (*parts, text[end:]) if part]


def _field(name: str, spec: str | None) -> _Field:
    if name in {"ext", "extension", "format"}:
        raise ValueError(f"{{{name}}} is not needed: the extension of the image's format is added to each name")
    if name not in FIELDS:
        raise ValueError(f"there is no field {{{name[:20]}}}; known are {', '.join(f'{{{one}}}' for one in FIELDS)}")
    if spec is None:
        return _Field(name, None)
    # As Python and others write it, too: {index:06d}, {sha256:.8}.
    number = re.fullmatch(r"0?([1-9]\d?)d?" if name in _NUMBERS else r"\.?([1-9]\d?)", spec, re.ASCII)
    limit = _MAX_WIDTH if name in _NUMBERS else _SHA256
    if name in _TEXTS or number is None or int(number[1]) > limit:
        raise ValueError(
            f"{{{name}:{spec[:20]}}} is not known: expected a number of digits, as in {{index:6}} or {{sha256:12}}"
        )
    return _Field(name, int(number[1]))


def _check_texts(parts: tuple[_Part, ...]) -> None:
    for text in (part for part in parts if isinstance(part, str)):
        if "/" in text or "\\" in text:
            raise ValueError("names have no folders: the layout makes those")
        if "." in text:
            raise ValueError("names have no dot: the extension of the image's format is added to each name")
        if not re.fullmatch(r"[A-Za-z0-9_-]+", text):
            raise ValueError(f"names have letters, digits, - and _ besides the fields, got {text[:20]!a}")
        if has_split_word(text.lower()):
            raise ValueError(f"readers take {text[:20]!r} in the name of a file for a split: use another word")
    if parts and isinstance(parts[0], str) and parts[0][0] in "-_":
        raise ValueError(f"names do not begin with {parts[0][0]!r}: readers skip such files")


def _check_unique(parts: tuple[_Part, ...]) -> None:
    """Check that one of the fields at the ends is that of one image alone, and cannot run into its neighbor."""

    def is_apart(neighbor: _Part | None, at: int) -> bool:
        return neighbor is None or (isinstance(neighbor, str) and neighbor[at] in "-_")

    first, last = (parts[0], parts[-1]) if parts else ("", "")
    begins = isinstance(first, _Field) and first.name in _NUMBERS
    ends = isinstance(last, _Field) and (last.name in _NUMBERS or last == _Field("sha256", None))
    if begins and is_apart(parts[1] if len(parts) > 1 else None, 0):
        return
    if ends and is_apart(parts[-2] if len(parts) > 1 else None, -1):
        return
    raise ValueError(
        "names must differ whatever labels and titles are: begin with {index}- or {id}-, or end with -{index}, -{id} "
        "or -{sha256}"
    )


def _max_length(field: _Field) -> int:
    if field.name in _NUMBERS:
        return max(field.width or 0, _MAX_DIGITS[field.name])
    if field.name == "sha256":
        return field.width or _SHA256 + _COPY_DIGITS
    return 0


def _value(field: _Field, image: NamedImage, room: int) -> str:
    match field.name:
        case "index":
            return f"{image.index + 1:0{field.width or _DIGITS}}"
        case "id":
            return f"{image.id:0{field.width or 1}}"
        case "sha256":
            copy = f"-{image.copy + 1}" if image.copy and field.width is None else ""
            return image.digest[: field.width] + copy
        case "label":
            return slug(image.label)[:room].strip("-_")
        case _:
            return plain_name(image.title)[:room].strip("-_") or _UNTITLED[:room]
