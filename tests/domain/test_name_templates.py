"""Names of image files from templates: what is accepted, what they look like, and that no two are the same."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from split_names import splits_in

from pixcrawler_worker.domain.name_templates import MAX_NAME, NamedImage, NameTemplate

CAT = NamedImage(
    index=41, id=7, digest="ab" * 32, copy=0, label="red panda", title="A Panda, at \N{GREEK SMALL LETTER PI}!"
)
VALID = (
    "{index}",
    "{id}",
    "{sha256}",
    "{label}-{index}",
    "{label}_{title}_{index:3}",
    "{title}-{sha256}",
    "{index}-{title}",
    "{id}_{label}-{title}{label}",
    "{label}{title}-{id}",
    "te{title}_{sha256}",
    "{label}-{title}-{sha256}",
    "{sha256:4}{label}-{index}",
    "{index}-{id}",
    "{sha256:6}-{label}-{sha256}",
    "Photo{title}_{id:12}",
)


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("{label}-{index}", "red-panda-000042"),
        ("{label}_{index:3}", "red-panda_042"),
        ("{index:06d}-{title}", "000042-a-panda-at"),
        ("{id}-{sha256:8}", "7-abababab"),
        ("{id:012}", "000000000007"),
        ("{sha256:.12}_{index:1}", "abababababab_42"),
        ("{sha256}", "ab" * 32),
        ("Panda_{id}", "Panda_7"),
    ],
)
def test_a_template_is_written_as_in_other_programs(template: str, name: str) -> None:
    assert NameTemplate.parse(template).name(CAT) == name


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("", "names must differ"),
        ("cat", "names must differ"),
        ("{label}", "names must differ whatever labels and titles are: begin with {index}- or {id}-, or end with "),
        ("{label}{index}", "names must differ"),
        ("{index}{label}", "names must differ"),
        ("a{index}b", "names must differ"),
        ("{label}-{sha256:12}", "names must differ"),
        ("{sha256}-{title}", "names must differ"),
        ("{label}-{index}-{title}", "names must differ"),
        ("{label}-{index}{id}", "names must differ"),
        ("{lable}-{index}", "there is no field {lable}; known are {index}, {id}, {sha256}, {label}, {title}"),
        ("{}-{index}", "there is no field {}"),
        ("{label.__class__}-{index}", "there is no field {label.__class__}"),
        ("{label[0]}-{index}", "there is no field {label[0]}"),
        ("{index}.{extension}", "{extension} is not needed: the extension of the image's format is added to each name"),
        ("{index}.jpg", "names have no dot"),
        ("../{index}", "names have no folders: the layout makes those"),
        ("{label}/{index}", "names have no folders"),
        ("{label}\\{index}", "names have no folders"),
        ("a b-{index}", "names have letters, digits, - and _ besides the fields, got 'a b-'"),
        ("caf\u00e9-{index}", r"names have letters, digits, - and _ besides the fields, got 'caf\xe9-'"),
        ("{{index}}-{index}", "names have letters, digits, - and _ besides the fields, got '{'"),
        ("{index", "names have letters"),
        ("-{index}", "names do not begin with '-': readers skip such files"),
        ("_{index}", "names do not begin with '_'"),
        ("train-{index}", "readers take 'train-' in the name of a file for a split: use another word"),
        ("{index:99}", "{index:99} is not known: expected a number of digits"),
        ("{label:5}-{index}", "{label:5} is not known"),
        ("{index:>6}", "{index:>6} is not known"),
        ("x" * 90 + "-{index}", "names could be longer than 94 characters"),
        ("{title}-{label}-{sha256}-{index}", "names could be longer than 94 characters"),
        ("{index}-" * 30, "the template has more than 200 characters"),
    ],
)
def test_other_templates_are_rejected_with_what_is_expected(template: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        NameTemplate.parse(template)


#: Titles and labels that are meant to make the names of two images the same, or to be taken for something else.
HOSTILE = st.one_of(
    st.text(),
    st.lists(
        st.sampled_from(["1", "-", "_", "000001", "000042", "7", "test", "train", "val", "../", ".", "con", "\0", "ab"])
    ).map("".join),
)
IMAGES = st.builds(
    NamedImage,
    index=st.integers(0, 2**31 - 2) | st.integers(0, 3),
    id=st.integers(1, 2**63 - 1) | st.integers(1, 3),
    digest=st.sampled_from(["ab" * 32, "12" * 32, "1" * 64]),
    copy=st.integers(0, 2**31 - 1) | st.integers(0, 2),
    label=HOSTILE,
    title=HOSTILE,
)


@given(st.sampled_from(VALID), IMAGES, IMAGES)
def test_two_images_never_have_the_same_name(template: str, one: NamedImage, other: NamedImage) -> None:
    parsed = NameTemplate.parse(template)
    # What no two images of an export share.
    if one.index == other.index or one.id == other.id or (one.digest, one.copy) == (other.digest, other.copy):
        return
    names = {parsed.name(one).lower(), parsed.name(other).lower()}
    assert len(names) == 2


@given(st.sampled_from(VALID), IMAGES)
def test_a_name_is_one_that_every_reader_takes(template: str, image: NamedImage) -> None:
    name = NameTemplate.parse(template).name(image)
    assert re.fullmatch("[A-Za-z0-9][A-Za-z0-9_-]*", name)
    assert len(name) <= MAX_NAME
    assert not splits_in(f"{name}.jpg")


def test_digits_of_a_title_are_not_taken_for_those_of_the_index() -> None:
    template = NameTemplate.parse("{title}-{index}")
    first = NamedImage(index=0, id=1, digest="ab" * 32, copy=0, label="", title="cat 000002")
    second = NamedImage(index=1, id=2, digest="cd" * 32, copy=0, label="", title="cat")
    assert {template.name(first), template.name(second)} == {"cat-000002-000001", "cat-000002"}


def test_a_title_without_letters_has_a_name() -> None:
    image = NamedImage(index=0, id=1, digest="ab" * 32, copy=0, label="\u732b", title="\u732b")
    assert NameTemplate.parse("{title}-{index}").name(image) == "untitled-000001"
