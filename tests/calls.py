"""Functions that call commands in this process, and read the messages that they send."""

import base64
import json
from collections.abc import Mapping
from typing import Any

import redis
from click.testing import CliRunner, Result

from pixcrawler_worker.cli.main import pixcrawler

#: A broker that takes no connections.
DEAD = {"PIXCRAWLER_BROKER_URL": "redis://:hunter2@127.0.0.1:1/0"}


def call(env: Mapping[str, str], *words: str, stdin: str | bytes | None = None) -> Result:
    """Call a command that ends as it should; everything it writes is plain."""
    result = CliRunner().invoke(pixcrawler, words, env=env, input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert "\x1b" not in result.output
    return result


def sent(broker: redis.Redis, queue: str = "crawl") -> list[tuple[str, list[Any]]]:
    """Task and arguments of what waits in a queue, in the order in which it was sent."""
    found = []
    for raw in reversed(broker.lrange(queue, 0, -1)):
        message = json.loads(raw)
        found.append((message["headers"]["task"], json.loads(base64.b64decode(message["body"]))[0]))
    return found
