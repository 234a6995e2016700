import pytest
from downloads import fetch
from fakes import hosts


def redirect(location: str, *set_cookies: str) -> bytes:
    lines = "".join(f"Set-Cookie: {text}; Path=/\r\n" for text in set_cookies)
    return f"HTTP/1.1 302 Found\r\n{lines}Location: {location}\r\n\r\n".encode()


@pytest.mark.parametrize("value", ["b==", "b,c", '{"b":1}', "b c", '"b c"', '"\\""', '""', "", "%22b%22"])
def test_a_cookie_goes_back_as_it_came(value: str) -> None:
    with hosts.serving(responses={"/": redirect("/good/1.jpg", f"a={value}", "c=d")}) as server:
        fetch(server.url("/"))
        assert f"\r\nCookie: a={value}; c=d\r\n" in server.heads["/good/1.jpg"]


@pytest.mark.parametrize(
    "how",
    [
        "Max-Age=0",
        "Expires=Thu, 01 Jan 1970 00:00:00 GMT",
        "expires=Thu, 01-Jan-70 00:00:00 GMT",
        "Expires=Thu, 01 Jan 1970 00:00:01 GMT",
    ],
)
def test_a_cookie_that_a_host_deletes_is_sent_no_more(how: str) -> None:
    responses = {"/1": redirect("/2", "a=b", "c=d"), "/2": redirect("/good/1.jpg", f"a=; {how}")}
    with hosts.serving(responses=responses) as server:
        fetch(server.url("/1"))
        assert "\r\nCookie: a=b; c=d\r\n" in server.heads["/2"]
        assert "\r\nCookie: c=d\r\n" in server.heads["/good/1.jpg"]


def test_an_age_counts_more_than_a_date() -> None:
    kept = redirect("/good/1.jpg", "a=b; Max-Age=60; Expires=Thu, 01 Jan 1970 00:00:00 GMT")
    with hosts.serving(responses={"/": kept}) as server:
        fetch(server.url("/"))
        assert "\r\nCookie: a=b\r\n" in server.heads["/good/1.jpg"]


def test_a_cookie_is_for_its_host_and_path() -> None:
    responses = {
        "/1": redirect("/2", "a=b"),
        "/2": b"HTTP/1.1 302 Found\r\nLocation: http://two.example:%d/good/2.jpg\r\n\r\n",
    }
    with hosts.serving(responses=responses) as server:
        port = int(server.base.rpartition(":")[2])
        responses["/2"] %= port
        fetch(f"http://one.example:{port}/1", lookup=lambda _: ["127.0.0.1"])
        assert "\r\nCookie: a=b\r\n" in server.heads["/2"]
        assert "Cookie" not in server.heads["/good/2.jpg"]
