import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixcrawler_worker.domain.safe_text import MAX_LENGTH, MAX_URL_LENGTH, safe, safe_json, safe_lines, safe_url

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=40)

#: What no file should have, by their categories: controls, halves of pairs, line and paragraph separators.
NEVER = {"Cc", "Cs", "Zl", "Zp"}
#: What is invisible and always removed.
INVISIBLE = [
    *range(0x202A, 0x202F),
    *range(0x2066, 0x206A),
    *(0x200E, 0x200F, 0x061C, 0x200B, 0x2060, 0xFEFF, 0x00AD, 0x034F),
    *range(0xE0000, 0xE0080),
    *range(0xFFF9, 0xFFFC),
]


@pytest.mark.parametrize(
    "text",
    [
        *("", "cat", "Café Grüße", "日本語", "Привет", "a\xa0b", "→ ½ §"),
        # Joiners and selectors of emoji, and of writing systems that need them.
        *("👨\u200d👩\u200d👧\u200d👦", "❤\ufe0f\u200d🔥", "👩🏽\u200d💻", "🏳\ufe0f\u200d🌈", "#\ufe0f\u20e3", "🇩🇪"),
        *("می\u200cخواهم", "क्\u200dष", "র\u200c্য", "ന്\u200d", "ශ්\u200dරී", "葛\U000e0100", "ᠨ\u180bᠡ"),  # noqa: RUF001
        *("שלום עולם", "مرحبا بالعالم 123 abc", "٣\u06dd"),
    ],
)
def test_readable_text_stays_as_it_is(text: str) -> None:
    assert safe(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb\r\nc\td", "a b  c d"),
        ("a\x85b\u2028c\u2029d\v", "a b c d "),
        ("\x1b[31mred\x1b[0m", "\ufffd[31mred\ufffd[0m"),
        ("java\0script", "java\ufffdscript"),
        ("a\x7fb\x9bc", "a\ufffdb\ufffdc"),
        ("a\ud800b\udfff", "a\ufffdb\ufffd"),
        ("a\ufdd0b\uffffc\U0010fffe", "a\ufffdb\ufffdc\ufffd"),
        ("gpj.\u202eexe", "gpj.exe"),
        ("\u2067a\u2069\u200e\u200f\u061c", "a"),
        ("\ufeffpay\u200bpal\u2060\xad", "paypal"),
        ("a\u200db\u200c", "ab"),
        ("\U0001f3f4\U000e0067\U000e0062\U000e007f", "\U0001f3f4"),
        ("x" + "\ufe00\ufe01\ufe02" * 5, "x\ufe00"),
        ("👩" + "\u200d" * 5 + "💻", "👩\u200d💻"),
    ],
)
def test_what_is_unsafe_is_replaced_or_removed(text: str, shown: str) -> None:
    assert safe(text) == shown


@pytest.mark.parametrize("between", ["", "ب"])
def test_no_character_is_forgotten(between: str) -> None:
    found = set(safe_lines(between.join(map(chr, range(0x110000))))) - {"\n"}
    assert not {unicodedata.category(one) for one in found} & NEVER
    assert not found & set(map(chr, INVISIBLE))
    assert not [one for one in found if ord(one) & 0xFFFE == 0xFFFE or "\ufdd0" <= one <= "\ufdef"]
    kept = {chr(code) for code in range(0x110000) if unicodedata.category(chr(code))[0] in "LNPS"}
    assert kept - found == set("\u115f\u1160\u2800\u3164\uffa0"), "letters, numbers and symbols stay"


@given(ANY_TEXT)
def test_safe_text_stays_the_same(text: str) -> None:
    found = safe(text)
    assert safe(found) == found
    assert safe_lines(found) == found
    assert safe_url(found).isprintable() or found
    found.encode()
    assert "\n" not in found


@given(ANY_TEXT)
def test_a_document_keeps_its_lines(text: str) -> None:
    found = safe_lines(text)
    assert found.split("\n") == [safe(line) for line in text.split("\n")]


def test_a_long_text_is_cut_off() -> None:
    found = safe("é" * MAX_LENGTH * 2)
    assert len(found) == MAX_LENGTH
    assert found.endswith("…")
    assert safe(found) == found
    assert safe("abcdef", max_length=4) == "abc…"
    assert len(safe_url("https://a/" + "b" * 10_000)) == MAX_URL_LENGTH


def test_a_url_leads_to_the_same_place() -> None:
    assert safe_url("https://a/b?c=d;e") == "https://a/b?c=d;e"
    assert safe_url("https://a/é/日本") == "https://a/é/日本"
    assert safe_url("https://a/\u202eb\nc\x1b\u200d") == "https://a/%E2%80%AEb%0Ac%1B%E2%80%8D"
    assert safe_url("https://a/\ud800").isascii()


def test_every_text_of_a_json_value_is_safe() -> None:
    value = {"a\x1b": ["\u202eb", 1, None, True, {"c": ("d\0",)}]}
    assert safe_json(value) == {"a\ufffd": ["b", 1, None, True, {"c": ["d\ufffd"]}]}
