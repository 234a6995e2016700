"""Text from outside, made safe for every file that is written and for terminals: one function for all of them.

A title can hold escape sequences that control a terminal, marks that reverse the order of the text after them, and
characters that only a parser sees. `safe` replaces or removes them:

- Line breaks, tabs, other white space of the controls and fillers become a space; a text is one line.
- All other controls (C0, DEL, C1), unpaired surrogates and noncharacters become U+FFFD: they were there, and what they
  divided stays divided.
- Invisible formatting is removed: marks, embeddings, overrides and isolates of the bidirectional algorithm (whose
  effect would go on in the text after it), zero-width spaces, byte order marks, soft hyphens, tags, invisible
  operators.
- Joiners and variation selectors stay where writing systems and emoji need them: one after a letter of a script
  without cases (Arabic, Persian, the scripts of India, ...), after a mark, or after a symbol.

Everything else stays, right-to-left text among it: Unicode's algorithm orders it without marks.
"""

import re
import unicodedata
from collections.abc import Mapping
from typing import Literal

#: Limit of a text in a file: longer ones are cut off.
MAX_LENGTH = 10_000
#: Limit of a URL in a file; longer ones are not requested.
MAX_URL_LENGTH = 8_192

#: Among them those that only look like spaces: fillers of Hangul, and the empty cell of Braille.
_SPACES = frozenset("\t\n\v\f\r\x1c\x1d\x1e\x1f\x85\u2028\u2029\u115f\u1160\u2800\u3164\uffa0")
_NONCHARACTERS = "\ufdd0-\ufdef" + "".join(
    f"{chr(plane | 0xFFFE)}{chr(plane | 0xFFFF)}" for plane in range(0, 0x110000, 0x10000)
)
#: What is replaced by U+FFFD.
_REPLACED = re.compile(f"[\x00-\x1f\x7f-\x9f\ud800-\udfff{_NONCHARACTERS}]")
#: Zero-width non-joiner and joiner, the vowel separator and selectors of Mongolian, and selectors for all scripts.
_JOINERS = "\u200c\u200d"
_MONGOLIAN = "\u180b-\u180f"
_SELECTORS = "\ufe00-\ufe0f"
_IDEOGRAPHIC_SELECTORS = "\U000e0100-\U000e01ef"
#: Whatever is not kept in any case. Of the format characters (`Cf`), those that are visible are not here: signs above
#: numbers in Arabic and Syriac, and what arranges hieroglyphs.
_ODD = re.compile(
    f"[\x00-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5{_MONGOLIAN}\u200b-\u200f\u2028-\u202e\u2060-\u206f\u2800\u3164"
    f"\ud800-\udfff{_SELECTORS}\ufeff\uffa0\ufff0-\ufffb{_NONCHARACTERS}\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
#: Those of them that are removed whatever is before them.
_REMOVED = re.compile(
    "[\xad\u034f\u061c\u17b4\u17b5\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff0-\ufffb"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e00ff\U000e01f0-\U000e0fff]+"
)
_JOINER = re.compile(f"[{_JOINERS}]")
_MONGOLIAN_MARK, _SELECTOR = re.compile(f"[{_MONGOLIAN}]"), re.compile(f"[{_SELECTORS}]")
_IDEOGRAPHIC_SELECTOR = re.compile(f"[{_IDEOGRAPHIC_SELECTORS}]")
#: Categories of characters after which a joiner may stand: letters without cases, marks, symbols and skin colors.
_JOINED = frozenset({"Lo", "Mn", "Mc", "So", "Sk"})
#: Marks after a letter.
_MAX_MARKS = 30
_CUT_OFF = "\N{HORIZONTAL ELLIPSIS}"


def safe(text: str, *, max_length: int = MAX_LENGTH) -> str:
    """Return a text in one line that is safe in files and on terminals. A text that is safe stays the same.

    Args:
        text: any string.
        max_length: of the result, in characters; what is longer ends with an ellipsis.
    """
    if len(text) > max_length:
        text = f"{text[: max_length - 1]}{_CUT_OFF}"
    if (text.isascii() and text.isprintable()) or not _ODD.search(text):
        return text
    return _without_odd(text, kept="")


def safe_lines(text: str) -> str:
    """Return a document of any length that is safe, with its line feeds."""
    return _without_odd(text, kept="\n") if _ODD.search(text) else text


def safe_json(value: object) -> object:
    """Return a JSON value with all its texts safe, the names of fields among them."""
    if isinstance(value, str):
        return safe(value)
    if isinstance(value, Mapping):
        return {safe(str(name)): safe_json(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [safe_json(one) for one in value]
    return value


def safe_url(url: str) -> str:
    """Return a URL that is safe in files and on terminals: what is odd in it is percent-encoded, as browsers do."""
    if url.isascii() and url.isprintable():
        return url[:MAX_URL_LENGTH]
    return _ODD.sub(_escaped, url[:MAX_URL_LENGTH])


def normalized(form: Literal["NFC", "NFKD"], text: str) -> str:
    """Return a text in a form of Unicode; the same text when it has more marks in a row than any writing has.

    Sorting them takes quadratic time. The limit is that of the stream-safe format (UAX #15, 13).
    """
    if text.isascii():
        return text
    run = 0
    for one in text:
        run = run + 1 if unicodedata.combining(one) else 0
        if run > _MAX_MARKS:
            return text
    return unicodedata.normalize(form, text)


def _without_odd(text: str, *, kept: str) -> str:
    text = _REMOVED.sub("", text)
    parts: list[str] = []
    end = 0
    before = ""
    for found in _ODD.finditer(text):
        start, one = found.start(), found[0]
        if start > end:
            parts.append(text[end:start])
            before = text[start - 1]
        end = start + 1
        if replaced := one if one in kept else _replacement(one, before):
            parts.append(replaced)
            before = replaced
    parts.append(text[end:])
    return "".join(parts)


def _replacement(one: str, before: str) -> str:
    """Return what stands for an odd character after another one; nothing when it is removed."""
    if one in _SPACES:
        return " "
    if _REPLACED.match(one):
        return "\N{REPLACEMENT CHARACTER}"
    category = unicodedata.category(before) if before else ""
    if _JOINER.match(one):
        is_kept = category in _JOINED
    elif _SELECTOR.match(one):
        # One only: a row of them can hide any text.
        is_kept = category[:1] in {"L", "N", "P", "S"}
    elif _MONGOLIAN_MARK.match(one):
        is_kept = "\u1820" <= before <= "\u18aa"
    elif _IDEOGRAPHIC_SELECTOR.match(one):
        is_kept = category == "Lo"
    else:
        is_kept = False
    return one if is_kept else ""


def _escaped(found: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in found[0].encode("utf-8", "replace"))
