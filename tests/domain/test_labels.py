import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from split_names import KEYWORDS, splits_in

from pixcrawler_worker.domain.labels import (
    MAX_LENGTH,
    UNLABELED,
    class_folder,
    default_label,
    file_labels,
    has_split_word,
    slug,
)
from pixcrawler_worker.domain.safe_text import safe


@pytest.mark.parametrize(
    ("label", "name"),
    [("cat", "cat"), ("red panda", "red-panda"), ("snake_case", "snake_case"), ("class 7", "class-7")],
)
def test_a_plain_label_is_its_own_folder(label: str, name: str) -> None:
    assert slug(label) == name


LABELS = [
    "cat",
    "Cat",
    "CAT",
    "c\u00e1t",
    "cat!",
    "cat/",
    "../cat",
    "cat-",
    "-cat",
    "red panda",
    "red-panda",
    "red_panda",
]
LABELS += [
    "Red Panda",
    "red  panda",
    "red/panda",
    "\u732b",
    "\u72ac",
    "\ufb01sh",
    "fish",
    "x" * 60,
    "x" * 61,
    ".",
    "..",
]


def test_labels_that_look_alike_do_not_share_a_folder() -> None:
    assert len({slug(label).lower() for label in LABELS}) == len(LABELS)


@pytest.mark.parametrize(
    "label", ["cat", "red panda", "trainer", "contest", "steam trains", "devil", "evaluate", "v_a_l"]
)
def test_the_folder_of_a_class_is_named_like_the_label(label: str) -> None:
    assert class_folder(label) == slug(label)


@pytest.mark.parametrize(
    ("label", "start"),
    [("train", "trains-"), ("steam train", "steam-trains-"), ("Test Tube", "tests-tube-"), ("my_val", "my_vals-")],
)
def test_the_folder_of_a_class_with_the_name_of_a_split_has_another_name(label: str, start: str) -> None:
    assert splits_in(f"{slug(label)}/1.jpg")
    assert re.fullmatch(f"{start}[0-9a-f]{{8}}", class_folder(label))


labels = st.one_of(
    st.text(alphabet="aB c-_./\u00e9\u732b", min_size=1, max_size=4),
    st.text(alphabet=st.characters(codec="utf-8"), min_size=1, max_size=60),
)


@given(labels)
def test_a_folder_has_a_safe_short_name(label: str) -> None:
    assert re.fullmatch(r"[a-z0-9_][a-z0-9_-]{0,49}", slug(label))


@settings(deadline=None)
@given(st.lists(labels, min_size=2, max_size=6, unique=True))
def test_different_labels_never_share_a_folder(several: list[str]) -> None:
    assert len({slug(label) for label in several}) == len(several)


words = st.lists(st.sampled_from([*KEYWORDS["train"], *KEYWORDS["validation"], *KEYWORDS["test"], "trains", "7"]))
titles = st.builds(lambda parts, by: by.join(parts) or "x", words, st.sampled_from([" ", "-", "_", ".", "", "  "]))


@given(titles)
def test_no_name_looks_like_a_split(title: str) -> None:
    assert not splits_in(f"{class_folder(title)}/1.jpg")
    assert has_split_word(slug(title)) == bool(splits_in(f"{slug(title)}.zip"))
    assert re.fullmatch(r"[a-z0-9_][a-z0-9_-]{0,59}", class_folder(title))


@settings(deadline=None)
@given(st.lists(titles, min_size=2, max_size=6, unique=True))
def test_different_labels_never_share_a_folder_of_a_class(several: list[str]) -> None:
    assert len({class_folder(label) for label in several}) == len(several)


@pytest.mark.parametrize(
    ("raw", "label"),
    [
        (["cat"], "cat"),
        ([{"query": "cat", "label": "feline"}], "feline"),
        (["cat", "dog"], UNLABELED),
        (["cat", "cat"], "cat"),
        ("cat", UNLABELED),
        (None, UNLABELED),
    ],
)
def test_images_without_a_label_get_that_of_the_only_keyword(raw: object, label: str) -> None:
    assert default_label(raw) == label


def test_labels_in_files_are_safe_and_differ_from_each_other() -> None:
    raw = ["cat", "cat\u200b", "c\u202eat", "\u200b", "\u202e", "dog\n1", "x" * 300, "x" * 300 + "y", "cat-3f2a", "  "]
    found = file_labels(raw)
    assert list(found) == raw
    assert found["cat"] == "cat"
    assert found["dog\n1"] == "dog 1"
    assert len(set(found.values())) == len(raw)
    assert all(safe(label, max_length=MAX_LENGTH) == label and label.strip() for label in found.values())
    # A name that is made is not taken by a label that has it already.
    made = file_labels(["cat", "cat\u200b"])["cat\u200b"]
    again = file_labels(["cat", made, "cat\u200b"])
    assert again[made] == made
    assert len(set(again.values())) == 3
