"""A result is compared with that of an undisturbed run, and every difference is named."""

from dataclasses import replace

from chaos.recipes import RECIPES, SET_APART, CrawlResult, ExportResult, ValidationResult, differences

CRAWL = CrawlResult("completed", frozenset({("a", "1"), ("b", "2")}), {"total_images": 2}, {"empty": 1})
VALIDATION = ValidationResult("completed", {"invalid_images": 1}, frozenset({("a", True, "[]"), ("b", False, "[]")}))
EXPORT = ExportResult("completed", 2, 10, (("one.zip", 10, "f00"),))


def test_equal_results_do_not_differ() -> None:
    for result in (CRAWL, VALIDATION, EXPORT):
        assert not differences(result, result, exact=True)
        assert not differences(result, result, exact=False)


def test_every_difference_is_named() -> None:
    other = replace(CRAWL, images=frozenset({("a", "1"), ("c", "3")}), reasons={})
    assert differences(CRAWL, other, exact=True) == [
        "images: 1 missing [('b', '2')], 1 unexpected [('c', '3')]",
        "reasons: {} instead of {'empty': 1}",
    ]
    assert differences(VALIDATION, replace(VALIDATION, status="failed"), exact=True) == [
        "status: failed instead of completed"
    ]
    assert differences(EXPORT, replace(EXPORT, archives=(("one.zip", 10, "bad"),)), exact=True)


def test_where_images_may_differ_their_number_may_not() -> None:
    other = replace(CRAWL, images=frozenset({("c", "3"), ("d", "4")}), counters={})
    assert not differences(CRAWL, other, exact=False)
    assert differences(CRAWL, replace(other, images=frozenset()), exact=False) == ["images: 0 instead of 2"]


def test_the_names_of_recipes_differ() -> None:
    names = [recipe.name for recipe in (*RECIPES, *SET_APART)]
    assert len(set(names)) == len(names)
