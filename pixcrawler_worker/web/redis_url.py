"""The broker's URL, as redis-py writes it."""

import re


def of_broker(broker_url: str | None) -> str | None:
    """Return the URL for redis-py; None when the broker is not a Redis that can be connected to directly."""
    scheme = (broker_url or "").partition(":")[0]
    if broker_url is None or scheme not in {"redis", "rediss", "unix", "redis+socket"}:
        return None
    # What kombu calls otherwise than redis-py.
    url = re.sub("^redis[+]socket:", "unix:", broker_url)
    if url.startswith("unix:"):
        url = url.replace("virtual_host=", "db=")
    return re.sub("(?<=ssl_cert_reqs=)CERT_[A-Z]+", lambda name: name[0].removeprefix("CERT_").lower(), url)
