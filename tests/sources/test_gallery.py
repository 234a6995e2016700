import json
import unicodedata
from urllib.parse import unquote

import pytest
import source_client
from fakes import hosts
from hypothesis import given, settings
from hypothesis import strategies as st
from source_client import LOOPBACK

from pixcrawler_worker.domain.facts import Credit
from pixcrawler_worker.domain.keywords import parse_keywords
from pixcrawler_worker.errors import PermanentError, TransientError
from pixcrawler_worker.sources.protocol import Candidate, Page
from pixcrawler_worker.web.addresses import Network
from pixcrawler_worker.web.policy import Policy


def response(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body


def search(
    base_url: str, text: str = "cat", *, networks: tuple[Network, ...] = LOOPBACK, max_bytes: int = 1 << 20
) -> Page:
    policy = Policy(user_agent="test", allowed_networks=networks, max_bytes=max_bytes)
    return source_client.search("gallery", base_url, policy=policy, text=text, page_size=100)


def offered(index: object, text: str = "cat") -> tuple[Candidate, ...]:
    """Return the candidates of a gallery with this index, with `BASE` for where it is served."""
    with hosts.serving(responses={"/pets/index.json": response(json.dumps(index).encode())}) as server:
        page = search(f"{server.base}/pets", text)
        return tuple(
            Candidate(url=found.url.replace(server.base, "BASE"), credit=found.credit) for found in page.candidates
        )


def url_of(file: str) -> str:
    (found,) = offered({"cat": [file]})
    return found.url


@pytest.mark.parametrize(
    ("label", "text"),
    [
        ("cat", "cat"),
        ("Cat", "cat"),
        ("cat", "CAT"),
        ("STRASSE", "straße"),
        ("Красная панда", "красная ПАНДА"),
        (unicodedata.normalize("NFD", "Pokémon"), "pokémon"),
    ],
)
def test_labels_are_compared_without_case_and_however_accents_are_written(label: str, text: str) -> None:
    (keyword,) = parse_keywords([text])
    assert [found.url for found in offered({"other": ["1.jpg"], label: ["2.jpg"]}, keyword.query)] == [
        "BASE/pets/2.jpg"
    ]


@pytest.mark.parametrize("text", ["", "ca", "cats", "cat ", "*", "index.json"])
def test_a_label_that_the_index_does_not_have_is_an_empty_page(text: str) -> None:
    assert offered({"cat": ["1.jpg"]}, text) == ()


@pytest.mark.parametrize(
    ("file", "url"),
    [
        ("cat/1.jpg", "BASE/pets/cat/1.jpg"),
        ("a cat.jpg", "BASE/pets/a%20cat.jpg"),
        ("no#1.jpg", "BASE/pets/no%231.jpg"),
        ("100%.jpg", "BASE/pets/100%25.jpg"),
        ("a%20b.jpg", "BASE/pets/a%2520b.jpg"),
        ("what?.jpg", "BASE/pets/what%3F.jpg"),
        ("Kätzchen/猫.jpg", "BASE/pets/K%C3%A4tzchen/%E7%8C%AB.jpg"),
        ("a:b.jpg", "BASE/pets/a%3Ab.jpg"),
        ("a\\b.jpg", "BASE/pets/a%5Cb.jpg"),
        ("two\nlines.jpg", "BASE/pets/two%0Alines.jpg"),
        ("/elsewhere/1.jpg", "BASE/elsewhere/1.jpg"),
        ("../cats/1.jpg", "BASE/cats/1.jpg"),
        ("\ud800.jpg", "BASE/pets/%ED%A0%80.jpg"),
        ("https://other.example/a%20b.jpg?size=large&n=1", "https://other.example/a%20b.jpg?size=large&n=1"),
        ("HTTP://other.example/1.jpg", "HTTP://other.example/1.jpg"),
        ("file:///etc/passwd", "BASE/pets/file%3A/etc/passwd"),
    ],
)
def test_a_file_has_a_url_whatever_its_name(file: str, url: str) -> None:
    assert url_of(file) == url


@settings(max_examples=30, deadline=None)
@given(
    names=st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="/\x00"), min_size=1, max_size=12).filter(
            lambda name: name not in {".", ".."}
        ),
        unique=True,
    )
)
def test_the_name_of_every_file_can_be_read_from_its_url(names: list[str]) -> None:
    found = offered({"cat": [f"cat/{name}" for name in names]})
    assert [unquote(candidate.url) for candidate in found] == [f"BASE/pets/cat/{name}" for name in names]


def test_an_entry_has_the_credit_of_its_image() -> None:
    described = {
        "file": "1.jpg",
        "title": "A cat",
        "author": "Jo",
        "license": "cc0-1.0",
        "license_url": "https://creativecommons.org/publicdomain/zero/1.0/",
        "page_url": "https://images.example/1",
        "attribution": "A cat, by Jo",
    }
    (found,) = offered({"cat": [described]})
    assert found.credit == Credit(**{name: value for name, value in described.items() if name != "file"})


def test_fields_of_another_type_are_unknown() -> None:
    odd = {"file": "1.jpg", "title": 7, "author": None, "license": ["cc0-1.0"], "page_url": {}, "color": "red"}
    assert offered({"cat": [odd, {"file": "2.jpg"}, "3.jpg"]}) == (
        Candidate(url="BASE/pets/1.jpg"),
        Candidate(url="BASE/pets/2.jpg"),
        Candidate(url="BASE/pets/3.jpg"),
    )


@pytest.mark.parametrize("entry", [None, 1, [], {}, {"file": None}, {"name": "1.jpg"}])
def test_an_entry_without_a_file_does_not_cost_the_others_and_is_counted(entry: object) -> None:
    assert len(offered({"cat": ["1.jpg", entry, "2.jpg"]})) == 2
    with hosts.serving(responses={"/pets/index.json": response(json.dumps({"cat": [entry]}).encode())}) as server:
        assert search(f"{server.base}/pets") == Page((), more=False, invalid=1)


def test_the_label_is_taken_as_it_is_written_before_one_of_another_case() -> None:
    assert [found.url for found in offered({"Cat": ["1.jpg"], "cat": ["2.jpg"]})] == ["BASE/pets/2.jpg"]


def test_the_base_may_end_with_a_slash() -> None:
    with hosts.serving(responses={"/pets/index.json": response(b'{"cat": ["1.jpg"]}')}) as server:
        assert search(f"{server.base}/pets/") == search(f"{server.base}/pets")


def test_a_gallery_at_a_forbidden_address_is_a_permanent_error() -> None:
    with (
        hosts.serving(responses={"/index.json": response(b'{"cat": ["1.jpg"]}')}) as server,
        pytest.raises(PermanentError, match="forbidden_address"),
    ):
        search(server.base, networks=())


def test_an_index_that_is_too_large_is_a_permanent_error() -> None:
    with (
        hosts.serving(responses={"/index.json": response(b'{"cat": ["1.jpg"]}')}) as server,
        pytest.raises(PermanentError, match="too_many_bytes"),
    ):
        search(server.base, max_bytes=10)


def test_a_server_that_closes_the_connection_is_a_transient_error() -> None:
    with (
        hosts.serving(responses={"/index.json": b""}) as server,
        pytest.raises(TransientError, match="gallery could not be reached: reset"),
    ):
        search(server.base)
