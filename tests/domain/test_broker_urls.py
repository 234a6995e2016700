import ssl
from typing import Any
from urllib.parse import quote

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from kombu import Connection

from pixcrawler_worker.domain import broker_urls
from pixcrawler_worker.errors import PermanentError

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("url", "of_kombu", "of_redis"),
    [
        ("redis://host", "redis://host", "redis://host"),
        ("redis://:pw@host:6379/3", "redis://:pw@host:6379/3", "redis://:pw@host:6379/3"),
        ("redis://user:a:b@[::1]:1/0", "redis://user:a:b@[::1]:1/0", "redis://user:a:b@[::1]:1/0"),
        ("rediss://host/0", "rediss://host/0?ssl_cert_reqs=required", "rediss://host/0"),
        (
            "rediss://host?ssl_cert_reqs=CERT_NONE&ssl_ca_certs=/etc/a.pem",
            "rediss://host?ssl_cert_reqs=none&ssl_ca_certs=/etc/a.pem",
            "rediss://host?ssl_cert_reqs=none&ssl_ca_certs=/etc/a.pem",
        ),
        (
            "rediss://host?ssl_check_hostname=no",
            "rediss://host?ssl_check_hostname=false&ssl_cert_reqs=required",
            "rediss://host?ssl_check_hostname=false",
        ),
        (
            "redis+socket://:pw@/run/a?virtual_host=2",
            "redis+socket://:pw@/run/a?virtual_host=2",
            "unix://:pw@/run/a?db=2",
        ),
        ("unix:///run/a?db=2", "redis+socket:///run/a?virtual_host=2", "unix:///run/a?db=2"),
        ("unix:///run/a", "redis+socket:///run/a", "unix:///run/a"),
    ],
)
def test_each_library_gets_a_url_that_it_understands(url: str, of_kombu: str, of_redis: str) -> None:
    assert (broker_urls.for_kombu(url), broker_urls.for_redis(url)) == (of_kombu, of_redis)
    assert broker_urls.for_kombu(of_redis) == of_kombu
    assert broker_urls.for_redis(of_kombu).removesuffix("?ssl_cert_reqs=required") in {
        of_redis,
        f"{of_redis}&ssl_cert_reqs=required",
    }


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("sentinel://", "Sentinel"),
        (f"sentinel://:{SECRET}@host:26379/0", "Sentinel"),
        (f"redis+sentinel://:{SECRET}@host/0", "Sentinel"),
        ("redis+cluster://host", "Cluster"),
        (f"amqp://user:{SECRET}@host", "other brokers"),
        ("memory://", "other brokers"),
        ("valkey://host", "for Valkey write redis://"),
        ("http://host", "other brokers"),
        (SECRET, "other brokers"),
        ("", "other brokers"),
        ("redis://host/pix", "the database"),
        ("redis://host/0/1", "the database"),
        ("redis://host:port/0", "the port"),
        ("redis://host:0", "the port"),
        ("redis://host:99999", "the port"),
        (f"redis://:{SECRET}", "the port"),
        ("redis://ho st", "percent-encoded"),
        ("redis://h*st", "the host"),
        (f"redis://:{SECRET}/x@host", "percent-encoded"),
        (f"redis://:{SECRET}?x@host", "percent-encoded"),
        (f"redis://:{SECRET}#x@host", "percent-encoded"),
        (f"redis://:{SECRET}@x@host", "percent-encoded"),
        (f"redis://:{SECRET}\n@host", "percent-encoded"),
        (f"redis://host?password={SECRET}", "rediss://"),
        ("redis://host?ssl_cert_reqs=none", "rediss://"),
        (f"rediss://host?password={SECRET}", "unknown or empty"),
        ("rediss://host?ssl_cert_reqs=maybe", "ssl_cert_reqs is invalid"),
        ("rediss://host?ssl_cert_reqs=none&ssl_cert_reqs=none", "twice"),
        ("redis+socket://host/x", "the path"),
        ("redis+socket:///x?virtual_host=name", "virtual_host is invalid"),
        ("unix:///x?db=1&virtual_host=2", "twice"),
        ("redis://one;redis://two", "the "),
        (f"redis://{'h' * 5000}", "other brokers"),
    ],
)
def test_any_other_url_is_an_error_that_says_why_and_repeats_nothing(url: str, why: str) -> None:
    for read in (broker_urls.for_kombu, broker_urls.for_redis):
        with pytest.raises(PermanentError, match=r"^invalid broker URL, expected for example redis://") as caught:
            read(url)
        assert why in str(caught.value).partition("(")[2]
        assert SECRET not in str(caught.value)
        assert "\n" not in str(caught.value)


@given(
    scheme=st.sampled_from(["redis", "rediss"]),
    user=st.sampled_from(["", "ada", "a-b"]),
    password=st.text(max_size=8).filter(lambda text: not any("\ud800" <= one <= "\udfff" for one in text)),
    location=st.sampled_from(["localhost", "r.example.org:1/", "[::1]:6380/0", "10.0.0.1/15"]),
)
def test_both_libraries_read_the_same_from_it(scheme: str, user: str, password: str, location: str) -> None:
    userinfo = f"{user}:{quote(password, safe='')}@" if password else ""
    url = f"{scheme}://{userinfo}{location}"
    of_redis = redis.ConnectionPool.from_url(broker_urls.for_redis(url)).connection_kwargs
    with Connection(broker_urls.for_kombu(url)) as connection:
        of_kombu = {
            "host": connection.hostname,
            "password": connection.password,
            "username": connection.userid,
            "port": connection.port or 6379,
            "db": int((connection.virtual_host or "").strip("/") or 0),
        }
        tls: Any = connection.ssl
    for name, value in of_kombu.items():
        assert of_redis.get(name, {"port": 6379, "db": 0}.get(name)) == value
    if scheme == "rediss":
        made = redis.SSLConnection(**of_redis)
        assert tls["ssl_cert_reqs"] is made.cert_reqs is ssl.CERT_REQUIRED
        assert made.check_hostname
    else:
        assert not tls
