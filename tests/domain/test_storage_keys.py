import pytest
from factories import make_facts
from hypothesis import given
from hypothesis import strategies as st

from pixcrawler_worker.domain.storage_keys import crawl_job_prefix, image_filename, image_key, url_hash


def test_urls_differ_in_everything_but_their_fragment() -> None:
    assert url_hash("https://x/a#top") == url_hash("https://x/a") == url_hash("https://x/a#")
    assert len({url_hash(url) for url in ("https://x/a", "https://x/A", "https://x/a?", "http://x/a")}) == 4


@given(st.text(alphabet=st.characters(codec=None)))
def test_any_text_in_place_of_a_url_has_a_hash(url: str) -> None:
    assert len(url_hash(url)) == 16


def test_a_key_has_the_job_the_label_and_the_name_of_the_file() -> None:
    facts = make_facts("a", sha256=bytes(range(32)), format="png")
    assert image_filename(facts) == "000102030405060708090a0b0c0d0e0f.png"
    assert image_key(7, "Red panda", facts).startswith(crawl_job_prefix(7))
    assert image_key(7, "cat", facts) == f"crawl_jobs/7/cat/{image_filename(facts)}"


@pytest.mark.parametrize("label", ["../x", "/etc", "a/b", "."])
def test_a_label_never_leaves_the_folder_of_its_job(label: str) -> None:
    assert image_key(7, label, make_facts("a")).count("/") == 3
