import io

import pytest

from pixcrawler_worker.crawl import synonym_tables
from pixcrawler_worker.errors import PermanentError

EXPECTED = {"cat": ["kitten", "Katze"], "dog": ["Hund"]}


def read(content: str | bytes) -> dict[str, list[str]]:
    return synonym_tables.read(io.BytesIO(content.encode() if isinstance(content, str) else content), "table")


@pytest.mark.parametrize(
    "content",
    [
        '{"cat": ["kitten", "Katze"], "dog": ["Hund"]}',
        ' \n{"cat": ["kitten", "Katze"], "dog": "Hund"}',
        '{"cat": ["kitten"], "dog": ["Hund"], "cat": ["Katze"]}',
        "cat,kitten,Katze\ndog,Hund\n",
        "cat,kitten\ndog,Hund\ncat,Katze",
        "keyword,synonyms,\ncat,kitten,Katze\ndog,Hund,\n",
        "Keyword,Synonym 1,Synonym 2\r\ncat,kitten,Katze\r\n\r\ndog,Hund,\r\n",
        "# animals, in two languages\ncat, kitten , Katze\n  \ndog, Hund",
        '"cat";"kitten";"Katze"\n"dog";Hund\n',
        "cat\tkitten\tKatze\ndog\tHund\t\n",
        "cat|kitten|Katze\rdog|Hund\r",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_json_and_csv_of_any_kind_are_the_same_table(content: str, encoding: str) -> None:
    assert read(content.encode(encoding)) == EXPECTED


def test_a_cell_may_have_a_separator_and_a_keyword_the_name_of_a_column() -> None:
    assert read('cat,"kitten, small"\n') == {"cat": ["kitten, small"]}
    assert read("label,etiquette\n") == {"label": ["etiquette"]}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "table has no synonyms: expected a keyword and its synonyms"),
        ("keyword,synonym\n", "table has no synonyms"),
        ("{}", "table has no synonyms"),
        ("cat\ndog\n", "table, line 1: expected a keyword and its synonyms, as in cat,kitten,Katze"),
        ("cat,kitten\n,Hund\n", "table, line 2: expected a keyword"),
        ("cat,kitten\ndog,,\n", "table, line 2: expected a keyword"),
        ("<!doctype html>\n<title>Cats</title>", "table, line 1: expected a keyword"),
        ('{"cat": ["kitten",}', "table, line 1: "),
        ('["cat"]', "table: expected a keyword and its synonyms, as in"),
        ('{"cat": 7}', "table: the synonyms of 'cat' must be an array of strings"),
        ('{"cat": {"de": "Katze"}}', "table: the synonyms of 'cat' must be an array of strings"),
        ('{"cat": ["kitten", null]}', "table: the synonyms of 'cat' must be strings"),
        ("[" * 100_000, "table: expected a keyword"),
        ('cat,"kitten\n', "table, line 1: unexpected end of data"),
        (b"cat,K\xe4tzchen\n", "table is not a text in UTF-8: byte 5 is another"),
        (b"\x89PNG\r\n\x1a\n", "table is not a text in UTF-8: byte 0 is another"),
        (b"cat,\x00kitten,\n" + b"x" * (10 << 20), "table has more than 10 MiB"),
    ],
)
def test_what_is_no_table_is_rejected_with_its_place(content: str | bytes, said: str) -> None:
    with pytest.raises(PermanentError) as caught:
        read(content)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le"])
def test_every_encoding_of_unicode_is_read(encoding: str) -> None:
    table = "cat,K\xe4tzchen,\u732b\ndog,Hund\n".encode(encoding)
    assert read(table) == {"cat": ["K\xe4tzchen", "\u732b"], "dog": ["Hund"]}


def test_languages_are_a_header() -> None:
    for header in ("keyword,de,pt-BR", "Label,fr,zh_Hant"):
        assert read(f"{header}\ncat,Katze,gato\n".encode()) == {"cat": ["Katze", "gato"]}
    assert read(b"class,lesson,course\n") == {"class": ["lesson", "course"]}


def test_only_line_ends_divide_rows() -> None:
    assert read("cat,a\x0cb,c\u2028d\rdog,e\r\n".encode()) == {
        "cat": ["a\x0cb", "c\u2028d"],
        "dog": ["e"],
    }
