"""JSON that has all rows of a list in one object, as many datasets are published: what to do about it.

Such are `{"info": ..., "annotations": [...]}`, and objects with an array for each column.
"""

import json
import re
from collections.abc import Mapping

from pixcrawler_worker.crawl.lists.plain_text import is_url

#: Elements of an array that are looked at.
_SAMPLE = 100
_decoder = json.JSONDecoder(parse_int=str)
_BETWEEN, _COLON = re.compile(r"[\s,]*"), re.compile(r"\s*:\s*")


def advice(values: Mapping[str, object], name: str, last: str | None = None) -> str:
    """Return what to run for one row for each image; empty where that is not known.

    Args:
        values: of the object.
        name: of its file.
        last: key of an array that is longer than all others.
    """
    arrays = {key: value for key, value in values.items() if isinstance(value, list) and value}
    of_rows = [key for key, value in arrays.items() if any(map(_is_row, value[:_SAMPLE]))]
    of_urls = [key for key, value in arrays.items() if any(map(_is_url, value[:_SAMPLE]))]
    found = of_rows or of_urls
    if not found:
        return ""
    key = last if last in found else max(found, key=lambda one: len(arrays[one]))
    path = f".{key}" if re.fullmatch(r"[A-Za-z_]\w*", key, re.ASCII) else f".[{json.dumps(key)}]"
    if not of_rows and (len(values) > 1 or last is not None):
        # Columns; what is no array has no value for an image.
        program = f". as $all | range({path} | length) as $at | $all | map_values(.[$at]?)"
    else:
        program = f"{path}[]"
    return "" if "'" in program else f"jq -c '{program}' {name}"


def beginning(text: str) -> tuple[dict[str, object], str | None]:
    """Return the values of an object that is cut off, of the last one its first element, and the key of that one."""
    found: dict[str, object] = {}
    at = 1
    while True:
        try:
            key, at = _decoder.raw_decode(text, _end(_BETWEEN, text, at))
            at = _end(_COLON, text, at)
        except (ValueError, RecursionError):
            return found, None
        try:
            found[str(key)], at = _decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            found[str(key)] = _first(text, at)
            return found, str(key)


def _first(text: str, at: int) -> list[object]:
    try:
        return [_decoder.raw_decode(text, _end(_BETWEEN, text, at + 1))[0]] if text[at : at + 1] == "[" else []
    except (ValueError, RecursionError):
        return []


def _end(pattern: "re.Pattern[str]", text: str, at: int) -> int:
    found = pattern.match(text, at)
    return at if found is None else found.end()


def _is_row(value: object) -> bool:
    return isinstance(value, Mapping) and any(map(_is_url, value.values()))


def _is_url(value: object) -> bool:
    return isinstance(value, str) and is_url(value)
