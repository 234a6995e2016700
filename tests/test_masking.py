import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pixcrawler_worker.errors import OutageError, PermanentError
from pixcrawler_worker.masking import MASK, mask, mask_url, mask_value

SECRET = "hunter2"
#: What a password may have that a URL must not: each alone breaks the reading of one part of it.
ODD = "/?#@:[]%&=;,+ \\'\"<>{}|~é\u2028\N{PILE OF POO}"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("postgresql://ada:hunter2@db/pix", "postgresql://ada:****@db/pix"),
        ("postgresql://ada:hun@ter2@db:5432/pix?sslmode=require", "postgresql://ada:****@db:5432/pix?sslmode=require"),
        (
            "postgresql://a:b@one:1,two:2/pix?options=-c%20a%3Dhunter2",
            "postgresql://a:****@one:1,two:2/pix?options=****",
        ),
        ("postgresql://ada@db/pix", "postgresql://ada@db/pix"),
        ("redis://hunter2@host:6379/0", "redis://****@host:6379/0"),
        ("redis://:hun/ter2@host/0", "redis://:****@host/0"),
        ("redis://:hun#te?r2@host/0", "redis://:****@host/0"),
        ("redis://:1234", "redis://****"),
        ("redis+socket://:hunter2@/run/redis?virtual_host=1", "redis+socket://:****@/run/redis?virtual_host=1"),
        ("s3://key:hunter2@bucket/prefix?sig=hunter2&region=eu", "s3://****@bucket/prefix?sig=****&region=eu"),
        ("https://a.example/x?page=2&token=hunter2#hunter2", "https://a.example/x?page=2&token=****#****"),
        ("https://a.example/x%3Fsig%3Dhunter2", "https://a.example/****"),
        ("https://a.example/token/hunter2/x", "https://a.example/token/****/x"),
        ("https://a.example/x?hunter2", "https://a.example/x?****"),
        ("host=db password='hunter2'", "****"),
        ("hunter2", "****"),
        ("file:///srv/My%20Pictures", "file:///srv/My%20Pictures"),
        ("memory://", "memory://"),
        ("https://[2001:db8::1]:8443/x", "https://[2001:db8::1]:8443/x"),
    ],
)
def test_of_a_url_is_shown_what_finds_mistakes_and_of_anything_else_nothing(value: str, shown: str) -> None:
    assert mask_url(value) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (
            "GET https://a.example/1.jpg?X-Amz-Signature=hunter2&a=b: HTTP 404",
            "GET https://a.example/1.jpg?****: HTTP 404",
        ),
        ("cannot connect to redis://:hun/ter2@host:1/0 now", "cannot connect to redis://:****@host:1/0 now"),
        ("cannot connect to redis://:hun ter2@host:1/0 now", "cannot connect to redis://****@host:1/0 now"),
        ("connect to redis://:a'hunter2@host:1/0 failed", "connect to redis://****@host:1/0 failed"),
        ('{"url": "postgres://ada:a<hun\\"ter2@host/db"}', '{"url": "postgres://****@host/db"}'),
        ("amqp://ada:a`hunter2\n@host/0", "amqp://****@host/0"),
        ("postgres://ada:1'hunter2@host/db", "postgres://****@host/db"),
        ('http://user:a"hunter2@proxy:80/x', "http://****@proxy:80/x"),
        ("http://user:12/hunter2@proxy:80/x", "http://****@proxy:80/x"),
        ("url=https://u:hunter2@a.example/x", "url=https://****@a.example/x"),
        ("ada:hunter2@db:5432", "ada:****@db:5432"),
        ("Authorization: Bearer hunter2hunter2\nAccept: a", "Authorization: ****\nAccept: a"),
        ("{'Authorization': 'Basic aHVudGVyMjpodW50ZXIy', 'Accept': 'a'}", "{'Authorization': '****', 'Accept': 'a'}"),
        ('{"api_key":"hun\\"ter2","n":1}', '{"api_key":"****","n":1}'),
        ('"{\\"secret\\": \\"hunter2\\"}"', '"{\\"secret\\": ****}"'),
        ("host=db password='hun\\'ter2' dbname=x", "host=db password='****' dbname=x"),
        ("host=db password=hunter2 dbname=x", "host=db password=**** dbname=x"),
        ("password: b'hunter2'", "password: ****"),
        ("{'token': ['a', 'hunter2']}", "{'token': ****"),
        ("Cookie: a=b; c=hunter2\nnext", "Cookie: ****\nnext"),
        ("X-Api-Key: hunter2", "X-Api-Key: ****"),
        ("/path?sig=hunter2", "/path?****"),
        ("AWS said AKIAIOSFODNN7EXAMPLE is unknown", "AWS said **** is unknown"),
        ("-----BEGIN RSA PRIVATE KEY-----\nhunter2\n-----END RSA PRIVATE KEY----- end", "**** end"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJodW50ZXIyIn0.c2ln is expired", "**** is expired"),
    ],
)
def test_secrets_in_a_text_are_masked(text: str, shown: str) -> None:
    assert mask(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        'options.min_width: expected an integer of at least 1, got "wide"',
        "expected for example redis://:password@host:6379/0, or redis+socket:///directory/socket",
        "https://live.staticflickr.com/photos/123@N00/a_b.jpg answered 404",
        "mirrored at https://a.example/1.jpg and http://b.example:8080/2.jpg.",
        "celery@host: 12:30, monkey: 3, keywords=['cat'], key=images/x.jpg",
        "['https://a.example/1@2.jpg', 'https://b.example/3@4.jpg'] from celery@host",
        "connected to redis://localhost:6379/0, celery@host is ready",
        "mail ada@example.org, sha256=5df6e0e2761359d30a8275058e299fcc",
        "did you mean PIXCRAWLER_BROKER_URL?",
    ],
)
def test_a_text_without_secrets_stays_as_it_is(text: str) -> None:
    assert mask(text) == text


@pytest.mark.parametrize("scheme", ["postgresql", "redis", "rediss", "s3", "amqp", "https", "socks5", "gibberish"])
@given(before=st.text(ODD, max_size=4), after=st.text(ODD, max_size=4))
@settings(max_examples=150, deadline=None)
def test_no_password_of_a_url_is_shown_whatever_characters_it_has(scheme: str, before: str, after: str) -> None:
    url = f"{scheme}://ada:{before}{SECRET}{after}@host.example:1234/name?sslmode=require"
    assert SECRET not in mask_url(url)
    # In a text a quotation mark or a line may end a URL: the error that repeats such a one escapes it.
    escaped = json.dumps(url)[1:-1] if not set(url) & set("\"'<>\\") else f"{scheme}://ada:{SECRET}@host"
    assert SECRET not in mask(f"cannot use {escaped}: invalid")


@given(
    name=st.sampled_from(
        ["sig", "token", "access_token", "api_key", "X-Amz-Signature", "X-Amz-Credential", "password", "client_secret"]
    ),
    url=st.sampled_from(["https://a.example/x", "s3://bucket", "file:///x", "//a.example", "/x", "x.jpg"]),
    other=st.sampled_from(["", "a=b&", "a&", "%zz&", "=&", "a=b;", "?"]),
)
def test_no_signature_of_a_link_is_shown(name: str, url: str, other: str) -> None:
    link = f"{url}?{other}{name}={SECRET}"
    assert SECRET not in mask_url(link)
    for text in (link, f"got {link}, expected", f"['{link}']", json.dumps({"urls": [link]})):
        assert SECRET not in mask(text)


def test_keys_of_json_that_name_a_secret_have_no_value() -> None:
    value = {"a": [{"password": {"b": SECRET}, "n": 1}], "X-Api-Key": SECRET, "note": f"token={SECRET}", "ok": True}
    assert mask_value(value) == {
        "a": [{"password": MASK, "n": 1}],
        "X-Api-Key": MASK,
        "note": f"token={MASK}",
        "ok": True,
    }


def test_json_of_any_depth_is_masked_without_recursion_to_its_end() -> None:
    value: object = SECRET
    for _ in range(100_000):
        value = [value]
    assert SECRET not in json.dumps(mask_value(value))


def test_an_error_has_no_secret_in_its_text() -> None:
    for error in (PermanentError, OutageError):
        assert str(error(f"redis://:{SECRET}@host failed")) == "redis://:****@host failed"


@pytest.mark.parametrize(
    "part",
    [
        ":",
        "a://",
        "@",
        "password=",
        'password="',
        "x-key",
        "redis://:",
        "\\",
        "token'",
        "passw",
        "http://a:b ",
        "?",
        "eyJ",
    ],
)
def test_the_time_is_in_proportion_to_the_text(part: str) -> None:
    began = time.process_time()
    mask(part * (100_000 // len(part)))
    mask_url(f"https://a.example/{part * (100_000 // len(part))}")
    assert time.process_time() - began < 3
