import re
from collections.abc import Mapping, Sequence

import pytest

from pixcrawler_worker.domain.keyword_expansion import check_template, expanded
from pixcrawler_worker.domain.keywords import Keyword
from pixcrawler_worker.errors import PermanentError

CAT, DOG = Keyword("cat", "cat"), Keyword("dog", "dog")


def queries(
    *keywords: Keyword, variants: Sequence[str] = (), synonyms: Mapping[str, Sequence[str]] | None = None
) -> list[tuple[str, ...]]:
    return [one.queries for one in expanded(keywords, variants=variants, synonyms=synonyms or {})]


@pytest.mark.parametrize("template", ["{keyword} close-up", "{keyword}", "a {keyword}, {keyword}", "\u732b {keyword}"])
def test_a_template_has_the_keyword(template: str) -> None:
    assert check_template(template) == template


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("close-up", "expected {keyword} in it, in whose place each keyword is put, got 'close-up'"),
        ("{keyword} {color}", "there is no placeholder {color}; the only one is {keyword}"),
        ("{Keyword}", "there is no placeholder {Keyword}"),
        ("{ keyword }", "there is no placeholder { keyword }"),
        ("{keyword:>10}", "there is no placeholder {keyword:>10}"),
        ("{} {keyword}", "there is no placeholder {}"),
        ("{0.__class__} {keyword}", "there is no placeholder {0.__class__}"),
        ("{keyword", "expected {keyword}, got a single {"),
        ("keyword}", "expected {keyword}, got a single }"),
        ("{{keyword}}", "got a single {"),
        ("%s {keyword} }", "got a single }"),
    ],
)
def test_a_template_has_nothing_else_in_braces(template: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        check_template(template)


def test_a_keyword_is_searched_first_then_its_synonyms_and_then_its_variants() -> None:
    found = queries(CAT, DOG, variants=["{keyword} close-up", "a {keyword}"], synonyms={"cat": ["kitten", "Katze"]})
    assert found == [
        ("cat", "kitten", "Katze", "cat close-up", "a cat"),
        ("dog", "dog close-up", "a dog"),
    ]


def test_labels_and_limits_of_keywords_stay() -> None:
    keyword = Keyword("red panda", "panda", 7)
    (found,) = expanded([keyword], variants=["{keyword} cub"], synonyms={"panda": ["Ailurus fulgens"]})
    assert (found.label, found.max_images) == ("panda", 7)
    assert found.queries == ("red panda", "Ailurus fulgens", "red panda cub")


def test_without_any_nothing_changes() -> None:
    assert expanded([CAT, DOG], synonyms={"cat": []}) == (CAT, DOG)


def test_what_is_searched_already_is_left_out_in_whatever_case() -> None:
    assert queries(CAT, synonyms={"cat": ["Cat", "kitten", " KITTEN "]}, variants=["{keyword}", "kitten{keyword}"]) == [
        ("cat", "kitten", "kittencat")
    ]
    assert queries(CAT, synonyms={"cat": ["cat toy"]}, variants=["{keyword}  toy"]) == [("cat", "cat toy")]


def test_keywords_of_one_class_share_a_search() -> None:
    kitten = Keyword("kitten", "cat")
    assert queries(CAT, kitten, synonyms={"cat": ["kitten", "puss"], "kitten": ["puss"]}) == [
        ("cat", "puss"),
        ("kitten",),
    ]


def test_a_synonym_of_a_label_belongs_to_its_first_keyword() -> None:
    first, second = Keyword("red panda", "panda"), Keyword("lesser panda", "panda")
    assert queries(first, second, synonyms={"panda": ["firefox animal"]}) == [
        ("red panda", "firefox animal"),
        ("lesser panda",),
    ]


def test_a_variant_that_is_another_class_is_left_to_it() -> None:
    toy = Keyword("cat toy", "toy")
    assert queries(CAT, toy, variants=["{keyword} toy"]) == [("cat",), ("cat toy", "cat toy toy")]
    assert queries(toy, CAT, variants=["{keyword} toy"]) == [("cat toy", "cat toy toy"), ("cat",)]


@pytest.mark.parametrize(
    ("synonyms", "said"),
    [
        ({"cat": ["DOG"]}, "'DOG' of 'cat' is searched for 'dog', too, and an image has one label"),
        ({"cat": ["pet"], "dog": ["Pet"]}, "'Pet' of 'dog' is searched for 'cat', too"),
        ({"cats": ["kitten"]}, "options.synonyms: there is no keyword 'cats' in the job, did you mean 'cat'?"),
        ({"zebra": ["horse"]}, "there is no keyword 'zebra' in the job, which has 'cat', 'dog'"),
        ({" ": ["horse"]}, "options.synonyms: a keyword is blank"),
        ({"cat": [" "]}, "options.synonyms of 'cat' is blank"),
        ({"cat": ["a\0b"]}, "options.synonyms of 'cat' has control characters"),
        ({"cat": ["x" * 201]}, "options.synonyms of 'cat' has 201 characters; at most 200 are allowed"),
    ],
)
def test_a_table_that_does_not_fit_the_keywords_is_rejected(synonyms: dict[str, list[str]], said: str) -> None:
    with pytest.raises(PermanentError) as caught:
        queries(CAT, DOG, synonyms=synonyms)
    assert said in str(caught.value)


def test_a_variant_that_becomes_too_long_is_named() -> None:
    long = Keyword("x" * 195, "x")
    with pytest.raises(PermanentError, match=r"options\.variants\[1\] with 'x+.* has 204 characters; at most 200"):
        queries(CAT, long, variants=["a {keyword}", "{keyword} close-up"])


def test_there_is_a_limit_of_all_searches_together() -> None:
    many = [Keyword(str(number), str(number)) for number in range(4000)]
    assert len(expanded(many, variants=["a {keyword}"], synonyms={})) == 4000
    with pytest.raises(PermanentError, match=r"4000 keywords with their variants and synonyms are 12000 searches"):
        queries(*many, variants=["a {keyword}", "the {keyword}"])


def test_a_message_names_few_of_many_keywords() -> None:
    many = [Keyword(f"k{number}", "x") for number in range(100)]
    with pytest.raises(PermanentError, match=r"which has 'k0', .*'k9' and 90 others"):
        queries(*many, synonyms={"qqqqqq": ["y"]})
